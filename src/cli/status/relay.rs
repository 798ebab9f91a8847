//! What the relay itself says, if it can be asked: what it waits for is known to it alone.

use std::time::Duration;

use axum::http::header::HOST;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long it may take: it answers out of memory.
const PATIENCE: Duration = Duration::from_secs(2);
/// As much of an answer is read.
const ANSWER: usize = 64 << 10;

/// What is known of the relay.
#[derive(Debug, Default, Serialize)]
pub(super) struct Relay {
    /// Where it was asked.
    pub(super) address: Option<String>,
    /// Why nothing is known of it.
    pub(super) unknown: Option<String>,
    #[serde(flatten)]
    pub(super) word: Option<Word>,
}

/// Its answer to `/readyz`.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Word {
    #[serde(skip_deserializing)]
    pub(super) ready: bool,
    pub(super) state: String,
    pub(super) since_seconds: f64,
    pub(super) stage: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) advice: Option<String>,
    pub(super) in_flight: u64,
    pub(super) published: u64,
    #[serde(skip_serializing)]
    pub(super) slot: Option<String>,
    #[serde(skip_serializing)]
    pub(super) system: Option<String>,
    #[serde(skip_serializing)]
    pub(super) pid: Option<i32>,
}

/// What the server says of the slot, by which an answer is known to be of its relay.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) slot: &'a str,
    pub(super) system: Option<&'a str>,
    /// Who reads the slot.
    pub(super) pid: Option<i32>,
}

/// What an address says.
pub(super) async fn ask(listen: Option<&str>) -> Relay {
    let Some(listen) = listen else {
        return Relay { unknown: Some("its listener is off (--listen)".to_owned()), ..Relay::default() };
    };
    let address = reachable(listen);
    if address.ends_with(":0") {
        let unknown = "it listens on a port that was free, which its log tells: name it with --listen";
        return Relay { unknown: Some(unknown.to_owned()), ..Relay::default() };
    }
    let answer = timeout(PATIENCE, readiness(&address)).await;
    let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let (word, unknown) = match answer {
        Ok(word) => (Some(word), None),
        Err(why) => (None, Some(format!("{address} (--listen): {why}"))),
    };
    Relay { address: Some(address), unknown, word }
}

/// An address that stands for all of this machine is no place to go to.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0" | "", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

async fn readiness(address: &str) -> Result<Word, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // Ended with this question, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get("/readyz").header(HOST, address).body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(|error| failed(&error))?).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|error| failed(&error))?;
    word(status, &body.to_bytes())
}

fn word(status: StatusCode, body: &[u8]) -> Result<Word, String> {
    let word = match status {
        StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => serde_json::from_slice(body).ok(),
        _ => None,
    };
    let word: Word = word.ok_or_else(|| format!("what answers there ({status}) is no relay"))?;
    Ok(Word { ready: status == StatusCode::OK, ..word })
}

impl Relay {
    /// Forgets an answer that is not of a relay of this slot, which is all that can be asked while the server is away.
    pub(super) fn of_slot(self, slot: &str) -> Relay {
        let Some(word) = &self.word else { return self };
        let other = match &word.slot {
            None => Some("an older version, which does not say of which slot it is".to_owned()),
            Some(own) if own != slot => Some(format!("the relay of slot {own}")),
            Some(_) => None,
        };
        self.without(other)
    }

    /// Forgets an answer that is not the slot's relay's.
    pub(super) fn of(self, known: &Known<'_>) -> Relay {
        let relay = self.of_slot(known.slot);
        let Some(word) = &relay.word else { return relay };
        let other = match (&word.system, known.system) {
            (Some(own), Some(system)) if own != system => {
                Some("a relay of another database system".to_owned())
            }
            _ if word.state == "standing by" && known.pid.is_some() => {
                Some("a relay that stands by, not the one that holds the slot".to_owned())
            }
            (None, _) | (_, None) if word.pid.is_some() && word.pid != known.pid => {
                Some("a relay that does not hold this slot".to_owned())
            }
            _ => None,
        };
        relay.without(other)
    }

    /// Forgets the answer if it is another's.
    fn without(mut self, other: Option<String>) -> Relay {
        if let Some(other) = other {
            let address = self.address.as_deref().unwrap_or_default();
            self.unknown = Some(format!("at {address} (--listen) answers {other}"));
            self.word = None;
        }
        self
    }

    /// For a person.
    pub(super) fn text(&self, age: impl Fn(f64) -> String) -> String {
        match (&self.word, &self.unknown) {
            (Some(word), _) => {
                let address = self.address.as_deref().unwrap_or_default();
                format!("{} for {}, says the relay at {address}", word.state, age(word.since_seconds))
            }
            (None, why) => format!("could not be asked: {}", why.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_stands_for_all_is_asked_on_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:8480", "127.0.0.1:8480"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.7:8480", "10.0.0.7:8480"),
            ("relay.example:8480", "relay.example:8480"),
        ] {
            assert_eq!(reachable(listen), asked);
        }
    }

    const BODY: &str = r#"{"state":"streaming","since_seconds":1.5,"stage":null,"reason":null,"advice":null,"lag_seconds":0.0,
        "in_flight":0,"published":7,"confirmed":"0/0","slot":"w","system":"71","pid":17}"#;

    fn relay(body: &str) -> Relay {
        let word = word(StatusCode::OK, body.as_bytes()).unwrap();
        Relay { address: Some("a:1".to_owned()), unknown: None, word: Some(word) }
    }

    #[test]
    fn only_the_word_of_the_slots_own_relay_counts() {
        let known = |slot, system, pid| Known { slot, system, pid };
        for (body, known, why) in [
            (BODY.to_owned(), known("w", Some("71"), Some(17)), None),
            (BODY.to_owned(), known("w", Some("71"), None), None),
            (BODY.to_owned(), known("w", None, Some(17)), None),
            (BODY.to_owned(), known("v", Some("71"), Some(17)), Some("the relay of slot w")),
            (BODY.to_owned(), known("w", Some("72"), Some(17)), Some("another database system")),
            (BODY.to_owned(), known("w", None, Some(18)), Some("does not hold this slot")),
            (BODY.replace("streaming", "standing by"), known("w", Some("71"), Some(18)), Some("stands by")),
            (BODY.replace("\"w\"", "null"), known("w", Some("71"), Some(17)), Some("older version")),
        ] {
            let relay = relay(&body).of(&known);
            assert_eq!(relay.word.is_some(), why.is_none(), "{known:?}");
            let told = relay.unknown.unwrap_or_default();
            assert!(told.contains(why.unwrap_or_default()), "{told}");
        }
        // While the server is away nothing but the slot is known.
        assert!(relay(BODY).of_slot("w").word.is_some() && relay(BODY).of_slot("v").word.is_none());
        assert!(word(StatusCode::NOT_FOUND, BODY.as_bytes()).unwrap_err().contains("no relay"));
        assert!(word(StatusCode::OK, b"<html>").unwrap_err().contains("no relay"));
    }
}
