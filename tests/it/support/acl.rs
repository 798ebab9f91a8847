//! Access control lists of a broker, by the requests of its own protocol, since no client library here knows them.
//!
//! Source: Kafka protocol guide, CreateAcls and DeleteAcls, version 1 of each.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::KafkaBroker;

const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;
/// A topic, by its literal name.
const TOPIC: u8 = 2;
const CLUSTER: u8 = 4;
/// A group of consumers.
const GROUP: u8 = 3;
const LITERAL: u8 = 3;
/// Everybody who does not log in.
const ANONYMOUS: &str = "User:ANONYMOUS";
const READ: u8 = 3;
const WRITE: u8 = 4;
const DESCRIBE: u8 = 8;
const IDEMPOTENT_WRITE: u8 = 12;
const DENY: u8 = 2;
const ALLOW: u8 = 3;
/// In a filter.
const ANY: u8 = 1;

/// From now on nobody may write to the topic; reading stays allowed.
pub(crate) async fn close(broker: &KafkaBroker, topic: &str) {
    create(broker, TOPIC, topic, &[(READ, ALLOW), (DESCRIBE, ALLOW), (WRITE, DENY)]).await;
}

/// From now on nobody may even ask about the topic.
pub(crate) async fn hide(broker: &KafkaBroker, topic: &str) {
    create(broker, TOPIC, topic, &[(WRITE, DENY), (DESCRIBE, DENY)]).await;
}

/// From now on no idempotent producer is let in, and nobody may change the lists any more.
pub(crate) async fn close_to_producers(broker: &KafkaBroker) {
    create(broker, TOPIC, "*", &[(WRITE, DENY)]).await;
    create(broker, CLUSTER, "kafka-cluster", &[(IDEMPOTENT_WRITE, DENY)]).await;
}

/// From now on nobody may read the topic; to ask about it stays allowed.
pub(crate) async fn close_to_readers(broker: &KafkaBroker, topic: &str) {
    create(broker, TOPIC, topic, &[(DESCRIBE, ALLOW), (READ, DENY)]).await;
}

/// From now on nobody may have anything to do with the group.
pub(crate) async fn close_group(broker: &KafkaBroker, group: &str) {
    create(broker, GROUP, group, &[(READ, DENY), (DESCRIBE, DENY)]).await;
}

async fn create(broker: &KafkaBroker, kind: u8, name: &str, rights: &[(u8, u8)]) {
    let mut body = i32::try_from(rights.len()).unwrap().to_be_bytes().to_vec();
    for (operation, permission) in rights {
        body.push(kind);
        string(&mut body, name);
        body.push(LITERAL);
        string(&mut body, ANONYMOUS);
        string(&mut body, "*");
        body.extend([*operation, *permission]);
    }
    request(broker, CREATE_ACLS, &body).await;
}

/// Takes all that back.
pub(crate) async fn open(broker: &KafkaBroker, topic: &str) {
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(TOPIC);
    string(&mut body, topic);
    body.push(LITERAL);
    // Whoever it is for, from wherever.
    body.extend((-1_i16).to_be_bytes());
    body.extend((-1_i16).to_be_bytes());
    body.extend([ANY, ANY]);
    request(broker, DELETE_ACLS, &body).await;
}

fn string(into: &mut Vec<u8>, text: &str) {
    into.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
    into.extend(text.as_bytes());
}

/// Sends a request and checks that each of its parts went well.
async fn request(broker: &KafkaBroker, api: i16, body: &[u8]) {
    let mut frame = Vec::new();
    frame.extend(api.to_be_bytes());
    frame.extend(1_i16.to_be_bytes());
    frame.extend(7_i32.to_be_bytes());
    string(&mut frame, "walpost-tests");
    frame.extend(body);
    let mut stream = TcpStream::connect(broker.brokers()).await.unwrap();
    stream.write_i32(i32::try_from(frame.len()).unwrap()).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let mut answer = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    // Correlation id and throttle time, then how many answers, and the first one's error code.
    let (count, code) = (&answer[8..12], &answer[12..14]);
    assert_ne!(count, [0; 4], "{answer:?}");
    assert_eq!(code, [0; 2], "{}", String::from_utf8_lossy(&answer));
}
