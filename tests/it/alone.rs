//! A producer that has lost its brokers, while they are there, is replaced.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{KafkaBroker, PATIENCE, PostgresServer, check, eventually, free_port};
use crate::world::{World, stop};

const METADATA: i16 = 3;
/// From here on its answers are of the flexible form.
const FLEXIBLE: i16 = 9;

/// A way to a broker on which answers about the cluster lose their brokers, as from a broker that is just starting.
struct Forgetful {
    address: SocketAddr,
    /// How many more answers.
    left: Arc<AtomicUsize>,
}

impl Forgetful {
    async fn start(target: u16) -> Forgetful {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&left);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let questions = Arc::<Mutex<HashSet<i32>>>::default();
                tokio::spawn(up(from_client, to_server, Arc::clone(&questions)));
                tokio::spawn(down(from_server, to_client, questions, Arc::clone(&shared)));
            }
        });
        Forgetful { address, left }
    }
}

/// One message of Kafka's protocol, without its length.
async fn message(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = from.read_i32().await.ok()?;
    let mut message = vec![0; usize::try_from(length).ok()?];
    from.read_exact(&mut message).await.ok()?;
    Some(message)
}

async fn pass_on(message: &[u8], to: &mut OwnedWriteHalf) -> Option<()> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    to.write_all(&[&length[..], message].concat()).await.ok()
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    questions: Arc<Mutex<HashSet<i32>>>,
) -> Option<()> {
    loop {
        let question = message(&mut from).await?;
        let short = |at: usize| i16::from_be_bytes([question[at], question[at + 1]]);
        if short(0) == METADATA && short(2) >= FLEXIBLE {
            questions.lock().unwrap().insert(i32::from_be_bytes(question[4..8].try_into().unwrap()));
        }
        pass_on(&question, &mut to).await?;
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    questions: Arc<Mutex<HashSet<i32>>>,
    left: Arc<AtomicUsize>,
) -> Option<()> {
    loop {
        let mut answer = message(&mut from).await?;
        let question = i32::from_be_bytes(answer[..4].try_into().unwrap());
        let about_the_cluster = questions.lock().unwrap().remove(&question);
        let less = |left: usize| left.checked_sub(1);
        if about_the_cluster && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            answer = without_brokers(&answer);
        }
        pass_on(&answer, &mut to).await?;
    }
}

/// Source: Kafka protocol, "Metadata Response (Version: 9)" and later: the number of the question, tags, the throttle time,
/// then the brokers.
fn without_brokers(answer: &[u8]) -> Vec<u8> {
    const BROKERS: usize = 9;
    let mut rest = &answer[BROKERS..];
    for _ in 1..number(&mut rest) {
        rest = &rest[4..];
        text(&mut rest);
        rest = &rest[4..];
        text(&mut rest);
        assert_eq!(number(&mut rest), 0, "tags");
    }
    // The length of an array is written with one added.
    [&answer[..BROKERS], &[1], rest].concat()
}

/// As the protocol's UNSIGNED_VARINT.
fn number(rest: &mut &[u8]) -> usize {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = rest[0];
        *rest = &rest[1..];
        number |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return number;
        }
    }
}

fn text(rest: &mut &[u8]) {
    let length = number(rest).saturating_sub(1);
    *rest = &rest[length..];
}

#[tokio::test]
async fn a_producer_that_has_lost_its_brokers_is_replaced() {
    let port = free_port();
    let way = Forgetful::start(port).await;
    let broker = KafkaBroker::start_advertised(port, way.address).await;
    let world = World::on(PostgresServer::shared().await, &broker, "alone", 1).await;
    let command = world.command(["run", "-X", "topic.metadata.refresh.interval.ms=500"]);
    let relay = command.env("WALPOST_BROKERS", way.address.to_string()).streaming().await;
    let client = world.database.client().await;
    let oracle = world.oracle().await;
    world.insert(&client, 3).await;
    world.caught_up().await;

    // Now and then the client still has somebody to ask.
    for _ in 0..10 {
        way.left.store(1, Ordering::SeqCst);
        eventually("an answer without brokers", PATIENCE, async || {
            (way.left.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
        world.insert(&client, 3).await;
        world.caught_up().await;
        if relay.log().contains("this producer has lost them") {
            break;
        }
    }
    assert!(relay.log().contains("this producer has lost them"));
    let committed = oracle.committed_ids().await;
    check(&committed, &world.consume(committed.len()).await).assert_exact();
    stop(relay).await;
}
