//! Access control lists of topics, in the bytes of Kafka's protocol: the client library here has no word for them, and
//! Kafka's own tools are neither among the jars nor quick. For a broker from `KafkaBroker::start_guarded`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a rule is about, by Kafka's numbers (`AclOperation`).
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    All = 2,
    Write = 4,
}

const TOPIC: u8 = 2;
const LITERAL: u8 = 3;
const ANY: u8 = 1;
const DENY: u8 = 2;
const ALLOW: u8 = 3;

/// Forbids everybody to do that with the topic. All else with it stays allowed, which has to be said once a topic
/// has any rule.
pub(crate) async fn forbid(brokers: &str, topic: &str, operation: Operation) {
    let mut body = 2_i32.to_be_bytes().to_vec();
    for (operation, permission) in [(Operation::All, ALLOW), (operation, DENY)] {
        body.push(TOPIC);
        body.extend(text(topic));
        body.push(LITERAL);
        body.extend(text("User:*"));
        body.extend(text("*"));
        body.extend([operation as u8, permission]);
    }
    // CreateAcls, version 1.
    request(brokers, 30, &body, 2).await;
}

/// Takes back all rules of the topic.
pub(crate) async fn allow(brokers: &str, topic: &str) {
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(TOPIC);
    body.extend(text(topic));
    body.push(LITERAL);
    // Whoever, from wherever.
    body.extend([0xff; 4]);
    body.extend([ANY, ANY]);
    // DeleteAcls, version 1.
    request(brokers, 31, &body, 1).await;
}

/// Asks and expects so many results, the first of which (of one, or of several alike) is well.
async fn request(brokers: &str, key: i16, body: &[u8], results: i32) {
    let mut frame = [key.to_be_bytes(), 1_i16.to_be_bytes()].concat();
    frame.extend(7_i32.to_be_bytes());
    frame.extend(text("tests"));
    frame.extend(body);
    let mut stream = TcpStream::connect(brokers).await.unwrap();
    stream.write_i32(frame.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let length = stream.read_i32().await.unwrap();
    let mut answer = vec![0; length.try_into().unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    // The number of the request, how long to wait with the next one, then the results: a code and a message each.
    let mut rest = &answer[8..];
    assert_eq!(rest.read_i32().await.unwrap(), results, "{answer:?}");
    assert_eq!(rest.read_i16().await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = i16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
