//! A broker with doors for those who log in: by password, by token, by certificate; and doors with certificates that are not
//! as they should be.

use std::fs;
use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::{Authority, Pair, Wish};
use super::{KafkaBroker, Proxy, free_port};

/// Where clients come in, in this order.
const DOORS: [(&str, &str); 4] =
    [("SECURE", "SASL_SSL"), ("MUTUAL", "SSL"), ("EXPIRED", "SSL"), ("STRANGE", "SSL")];
const ALTER_SCRAM: i16 = 51;

pub(crate) struct SecureKafka {
    pub(crate) kafka: KafkaBroker,
    pub(crate) authority: Authority,
    /// Of a client.
    pub(crate) pair: Pair,
    /// For all mechanisms, behind a breakable wire.
    pub(crate) secure: String,
    pub(crate) proxy: Proxy,
    /// For those who show a certificate.
    pub(crate) mutual: String,
    /// The certificate has expired; it is for another host.
    pub(crate) expired: String,
    pub(crate) strange: String,
}

impl SecureKafka {
    /// With `relay` as a user of PLAIN.
    pub(crate) async fn start(plain_password: &str) -> SecureKafka {
        let authority = Authority::new("Kafka's Authority");
        let expired = Wish { until: "20210101000000Z", ..Wish::default() };
        let strange = Wish { names: Some("DNS:elsewhere"), ..Wish::default() };
        let shown = [
            authority.sign("broker", &Wish::default()),
            authority.sign("mutual", &Wish::default()),
            authority.sign("expired", &expired),
            authority.sign("strange", &strange),
        ];
        let pair = authority.sign("client", &Wish { common_name: "relay", ..Wish::default() });
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let proxy = Proxy::start(format!("127.0.0.1:{}", ports[0])).await;
        let mut advertised = ports.map(|port| format!("127.0.0.1:{port}"));
        advertised[0] = proxy.address().to_string();
        let root = authority.root();
        let change = |bind: &str, settings: &mut Vec<(&'static str, String)>| {
            for (at, (name, protocol)) in DOORS.iter().enumerate() {
                append(settings, "listeners", &format!(",{name}://{bind}:{}", ports[at]));
                append(settings, "advertised.listeners", &format!(",{name}://{}", advertised[at]));
                append(settings, "listener.security.protocol.map", &format!(",{name}:{protocol}"));
                settings.extend(certificate(at, &shown[at], &root));
            }
            settings.extend(logins(plain_password));
        };
        let kafka = KafkaBroker::start_changed(&ports, change).await;
        let [secure, mutual, expired, strange] = advertised;
        SecureKafka { kafka, authority, pair, secure, proxy, mutual, expired, strange }
    }

    /// Gives a user of SCRAM a password, in the place of the one before.
    pub(crate) async fn set_password(&self, user: &str, password: &str) {
        for (mechanism, digest, length) in [(1_u8, "SHA256", "32"), (2, "SHA512", "64")] {
            alter(&self.kafka, user, mechanism, &salted(password, digest, length)).await;
        }
    }
}

fn append(settings: &mut [(&'static str, String)], name: &str, text: &str) {
    settings.iter_mut().find(|(known, _)| *known == name).unwrap().1.push_str(text);
}

/// The text of a PEM file on one line of properties.
fn inline(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim_end().replace('\n', "\\n")
}

fn certificate(at: usize, pair: &Pair, root: &Path) -> Vec<(&'static str, String)> {
    // Names are made once for each door, and live as long as the tests.
    let name = |rest: &str| -> &'static str {
        Box::leak(format!("listener.name.{}.{rest}", DOORS[at].0.to_lowercase()).into_boxed_str())
    };
    let mut settings = vec![
        (name("ssl.keystore.type"), "PEM".to_owned()),
        (name("ssl.keystore.certificate.chain"), inline(&pair.certificate)),
        (name("ssl.keystore.key"), inline(&pair.key)),
        (name("ssl.truststore.type"), "PEM".to_owned()),
        (name("ssl.truststore.certificates"), inline(root)),
    ];
    if DOORS[at].0 == "MUTUAL" {
        settings.push((name("ssl.client.auth"), "required".to_owned()));
    }
    settings
}

/// Tokens are believed without a signature, as Kafka does by itself.
fn logins(plain_password: &str) -> Vec<(&'static str, String)> {
    let of = "org.apache.kafka.common.security";
    vec![
        (
            "listener.name.secure.sasl.enabled.mechanisms",
            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned(),
        ),
        (
            "listener.name.secure.plain.sasl.jaas.config",
            format!("{of}.plain.PlainLoginModule required user_relay=\"{plain_password}\";"),
        ),
        (
            "listener.name.secure.scram-sha-256.sasl.jaas.config",
            format!("{of}.scram.ScramLoginModule required;"),
        ),
        (
            "listener.name.secure.scram-sha-512.sasl.jaas.config",
            format!("{of}.scram.ScramLoginModule required;"),
        ),
        (
            "listener.name.secure.oauthbearer.sasl.jaas.config",
            format!(
                "{of}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
            ),
        ),
    ]
}

/// PBKDF2 of a password (RFC 5802, section 2.2: `Hi`), with the salt that `alter` tells.
fn salted(password: &str, digest: &str, length: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["kdf", "-keylen", length, "-kdfopt", &format!("digest:{digest}"), "-kdfopt"]);
    command.args([&format!("pass:{password}"), "-kdfopt", "salt:saltsalt", "-kdfopt", "iter:4096", "PBKDF2"]);
    let output = command.output().expect("openssl is installed: scripts/install test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Kafka protocol guide, AlterUserScramCredentials, version 0.
async fn alter(broker: &KafkaBroker, user: &str, mechanism: u8, salted: &[u8]) {
    let compact = |into: &mut Vec<u8>, bytes: &[u8]| {
        into.push(u8::try_from(bytes.len() + 1).unwrap());
        into.extend(bytes);
    };
    let mut frame = Vec::new();
    frame.extend(ALTER_SCRAM.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0, 7, 0, 5]);
    frame.extend(b"tests");
    // No tags, no deletions, one that is new.
    frame.extend([0, 1, 2]);
    compact(&mut frame, user.as_bytes());
    frame.push(mechanism);
    frame.extend(4096_i32.to_be_bytes());
    compact(&mut frame, b"saltsalt");
    compact(&mut frame, salted);
    frame.extend([0, 0]);
    let mut stream = TcpStream::connect(broker.brokers()).await.unwrap();
    stream.write_i32(i32::try_from(frame.len()).unwrap()).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let mut answer = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    // Number, tags, throttle time, one answer, its user, its code.
    let code = &answer[11 + user.len()..13 + user.len()];
    assert_eq!((answer[9], code), (2, &[0, 0][..]), "{}", String::from_utf8_lossy(&answer));
}
