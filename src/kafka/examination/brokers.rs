//! The brokers: who they let in, and whether each can be reached where it says it is.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ANSWER, Finding, KafkaSettings};
use crate::error::OutboxError;
use crate::kafka::guard::canonical;
use crate::kafka::probe::{Answer, Introduction};

/// How many brokers are tried; a cluster has a handful, and each answers like the others.
const TRIED: usize = 50;
/// After this long a broker is taken to listen.
const LISTENS: Duration = Duration::from_millis(200);

/// That they answer, and as whom.
pub(super) fn answering(settings: &KafkaSettings, answer: &Answer) -> Finding {
    let addresses: Vec<_> = answer.brokers.iter().map(|(_, address)| address.as_str()).collect();
    let noun = if addresses.len() == 1 { "broker answers" } else { "brokers answer" };
    Finding::good(
        "kafka",
        format!("{} {noun}: {}; {}", addresses.len(), addresses.join(", "), session(settings)),
    )
}

/// How a session is secured, by the settings.
fn session(settings: &KafkaSettings) -> String {
    let property = |wanted: &[&str]| {
        let of = |(name, value): &(String, String)| {
            wanted.contains(&canonical(name)).then(|| value.trim().to_owned())
        };
        settings.properties.iter().rev().find_map(of)
    };
    let protocol = property(&["security.protocol"]).unwrap_or_default().to_ascii_lowercase();
    let off =
        |name: &str, word: &str| property(&[name]).is_some_and(|value| value.eq_ignore_ascii_case(word));
    let unverified = off("enable.ssl.certificate.verification", "false")
        || off("ssl.endpoint.identification.algorithm", "none");
    let encrypted = match protocol.ends_with("ssl") {
        true if unverified => "encrypted, the brokers not verified",
        true => "encrypted",
        false => "not encrypted",
    };
    if !protocol.starts_with("sasl") {
        let certificate =
            property(&["ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore.location"]);
        return match certificate.filter(|_| protocol == "ssl") {
            Some(_) => format!("{encrypted}, logged in by certificate"),
            None => format!("{encrypted}, without a login"),
        };
    }
    let mechanism = property(&["sasl.mechanisms"]).unwrap_or_else(|| "GSSAPI".to_owned());
    let user = property(&["sasl.username"]).map(|user| format!(" as {user}")).unwrap_or_default();
    format!("{encrypted}, logged in{user} by {mechanism}")
}

/// Addresses that nobody can be reached at: of those that brokers advertise, a failure, since records go there.
pub(super) async fn unreachable(settings: &KafkaSettings, brokers: &[(i32, String)]) -> Vec<Finding> {
    let advertised: BTreeSet<_> = brokers.iter().map(|(_, address)| address.clone()).take(TRIED).collect();
    let given = settings.brokers.split(',').map(|broker| in_full(broker.trim()));
    let all: BTreeSet<_> = advertised.iter().cloned().chain(given).collect();
    let mut tries = JoinSet::new();
    for address in all {
        tries.spawn(async move {
            let why = match timeout(ANSWER, TcpStream::connect(&address)).await {
                Ok(Ok(stream)) => hung_up(stream).await?,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            Some((address, why))
        });
    }
    let mut gone: Vec<_> = tries.join_all().await.into_iter().flatten().collect();
    gone.sort();
    let mut found = Vec::new();
    for (address, why) in gone {
        found.push(match brokers.iter().find(|(_, of)| *of == address) {
            Some((number, _)) => Finding::fail(
                "brokers",
                format!("broker {number} can't be reached at {address}, where it says it is: {why}"),
                "set advertised.listeners of that broker to a host and port that lead to it from here; or make the name \
                 resolve and the port open on this machine; or start it, if it is down",
            ),
            None => Finding::warn(
                "brokers",
                format!("{address} of --brokers can't be reached: {why}"),
                "take it out of --brokers, or start that broker",
            ),
        });
    }
    if found.is_empty() {
        let count = advertised.len();
        let text = if count == 1 {
            "it can be reached at the address that it advertises".to_owned()
        } else {
            format!("all {count} can be reached at the addresses that they advertise")
        };
        found.push(Finding::good("brokers", text));
    }
    found
}

/// What stands in for a broker that is away may take a connection and drop it at once; a broker waits to be asked.
async fn hung_up(mut stream: TcpStream) -> Option<String> {
    match timeout(LISTENS, stream.read(&mut [0])).await {
        Ok(Ok(0)) => Some("the connection is closed at once".to_owned()),
        Ok(Err(error)) => Some(error.to_string()),
        Ok(Ok(_)) | Err(_) => None,
    }
}

/// With its port. Names of librdkafka's may bear a protocol.
fn in_full(broker: &str) -> String {
    let bare = broker.split_once("://").map_or(broker, |(_, rest)| rest);
    let has_port = bare.rsplit_once(':').is_some_and(|(host, port)| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { bare.to_owned() } else { format!("{bare}:9092") }
}

/// Whether the brokers take an idempotent producer: it has asked for its number, and nothing more.
pub(super) fn introduced(answer: &Answer) -> Finding {
    match &answer.introduction {
        Introduction::Known => Finding::good("producer", "an idempotent producer is let in"),
        Introduction::Refused(code, why) => {
            let error = OutboxError::broker("an idempotent producer is refused", *code, why.clone());
            Finding::error("producer", error)
        }
        Introduction::Silent => Finding::warn(
            "producer",
            "not tested: the brokers have not given an idempotent producer its number in time",
            "see the brokers' logs (InitProducerId), and run this again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_without_its_secrets() {
        let with = |properties: &[(&str, &str)]| {
            let settings = properties.iter().fold(KafkaSettings::new("a:1"), |settings, (name, value)| {
                settings.with_property(*name, *value)
            });
            session(&settings)
        };
        assert_eq!(with(&[]), "not encrypted, without a login");
        assert_eq!(with(&[("security.protocol", "SSL")]), "encrypted, without a login");
        let careless = ("ssl.endpoint.identification.algorithm", "none");
        assert_eq!(
            with(&[("security.protocol", "ssl"), careless]),
            "encrypted, the brokers not verified, without a login"
        );
        let certificate = ("ssl.certificate.location", "/c.pem");
        assert_eq!(with(&[("security.protocol", "ssl"), certificate]), "encrypted, logged in by certificate");
        let login = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "relay"),
            ("sasl.password", "sesame"),
        ];
        assert_eq!(with(&login), "encrypted, logged in as relay by SCRAM-SHA-512");
        for (broker, expected) in [
            ("a", "a:9092"),
            ("a:1", "a:1"),
            ("ssl://a:1", "a:1"),
            ("[::1]:1", "[::1]:1"),
            ("[::1]", "[::1]:9092"),
        ] {
            assert_eq!(in_full(broker), expected);
        }
    }
}
