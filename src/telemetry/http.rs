//! The listener.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::app::App;
use super::door::Door;
use crate::error::OutboxError;

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
    memory: JoinHandle<()>,
}

impl Health {
    /// Where it listens: with port 0 asked for, the one that was free.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
        self.memory.abort();
    }
}

/// Starts to answer on `address`, which is `host:port`.
///
/// # Errors
/// The address can't be had.
pub async fn listen(address: &str, app: App) -> Result<Health, OutboxError> {
    let refused = |error: io::Error| refused(address, &error);
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    tracing::info!("listening on http://{address}");
    let app = app.local(address.ip().is_loopback());
    let memory = tokio::spawn(app.clone().remember());
    let routes = app.routes();
    let task = tokio::spawn(async move { axum::serve(Door::new(listener), routes).await });
    Ok(Health { address, task, memory })
}

/// Definite, although a port may become free: a relay that runs without the health that it was told to
/// give would look dead to whoever watches it.
fn refused(address: &str, error: &io::Error) -> OutboxError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process, perhaps another walpost, has this port: choose one with --listen or \
             WALPOST_LISTEN (port 0 takes a free one), or turn the listener off with --listen off"
        }
        _ => {
            "choose an address of this machine with --listen or WALPOST_LISTEN, or turn it off with --listen off"
        }
    };
    OutboxError::definite(format!("cannot listen on {address} (--listen): {error}"), advice)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::access::Access;
    use super::*;
    use crate::vitals::Vitals;

    async fn ask(health: &Health, path: &str) -> String {
        say(health, "GET", path, "Host: localhost\r\n", "").await
    }

    async fn say(health: &Health, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(health.address()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn both_questions_are_answered_in_status_and_body() {
        let vitals = Arc::new(Vitals::default());
        let health = listen("127.0.0.1:0", App::new(Arc::clone(&vitals))).await.unwrap();
        for (state, path, status, body) in [
            (crate::State::Retrying, "/healthz", "200 OK", r#""state":"retrying""#),
            (crate::State::Retrying, "/readyz", "503 Service Unavailable", r#""reason":"because""#),
            (crate::State::Streaming, "/readyz", "200 OK", r#""confirmed":"0/0""#),
            (crate::State::Retrying, "/api/state", "200 OK", r#""state":"retrying""#),
            (crate::State::Streaming, "/elsewhere", "404 Not Found", ""),
        ] {
            vitals.enter(state, "because");
            let answer = ask(&health, path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
            assert!(answer.contains(body), "{path}: {answer}");
        }
    }

    const TOKEN: &str = "Host: localhost\r\nAuthorization: Bearer sesame\r\n";

    #[tokio::test]
    async fn a_token_guards_what_is_for_people_and_not_the_probes() {
        let app = App::new(Arc::default()).with_access(Access::default().with_token("sesame"));
        let health = listen("127.0.0.1:0", app).await.unwrap();
        for (path, headers, status) in [
            ("/", "", "200"),
            ("/healthz", "", "200"),
            ("/readyz", "", "503"),
            ("/metrics", "", "200"),
            ("/api/state", "Host: localhost\r\n", "401"),
            ("/api/state", "Host: localhost\r\nAuthorization: Bearer open\r\n", "401"),
            ("/api/state", TOKEN, "200"),
            ("/api/dead-letters", "Host: localhost\r\n", "401"),
            ("/api/dead-letters", TOKEN, "404"),
            ("/elsewhere", "", "404"),
        ] {
            let answer = say(&health, "GET", path, headers, "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
        }
    }

    #[tokio::test]
    async fn another_name_and_another_address_need_a_token() {
        let health = listen("127.0.0.1:0", App::new(Arc::default())).await.unwrap();
        let answer = say(&health, "GET", "/api/state", "Host: evil.example\r\n", "").await;
        assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("--listen-token-file"), "{answer}");
        let health = listen("0.0.0.0:0", App::new(Arc::default())).await.unwrap();
        let answer = ask(&health, "/api/state").await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("--listen-token-file"), "{answer}");
        let answer = ask(&health, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn nothing_is_changed_without_leave() {
        let json = format!("{TOKEN}Content-Type: application/json\r\n");
        for (may_act, headers, body, status) in [
            (false, json.clone(), "{}", "403"),
            (true, "Host: localhost\r\nContent-Type: application/json\r\n".to_owned(), "{}", "401"),
            (true, TOKEN.to_owned(), "{}", "415"),
            (true, format!("{json}Origin: http://evil.example\r\n"), "{}", "403"),
            // Past the guard; and there are no letters in this relay.
            (true, json.clone(), "{}", "404"),
        ] {
            let access = Access::default().with_token("sesame").with_actions(may_act);
            let health = listen("127.0.0.1:0", App::new(Arc::default()).with_access(access)).await.unwrap();
            for path in ["/api/dead-letters/replay", "/api/dead-letters/discard"] {
                let answer = say(&health, "POST", path, &headers, body).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
            }
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_definite_error_that_names_address_and_flag() {
        let vitals = Arc::new(Vitals::default());
        let first = listen("127.0.0.1:0", App::new(Arc::clone(&vitals))).await.unwrap();
        let error = listen(&first.address().to_string(), App::new(vitals)).await.unwrap_err();
        assert!(!error.is_transient() && !error.is_usage());
        assert!(error.to_string().contains(&first.address().to_string()), "{error}");
        assert!(error.advice().unwrap().contains("--listen off"), "{error:?}");
    }
}
