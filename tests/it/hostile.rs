//! A server that never lets the relay come to anything: the log flows without end and without a row. The relay goes on
//! answering, stays small, and stops when it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::life::lives;
use crate::support::{PATIENCE, PostgresServer, eventually};
use crate::world::World;

/// In front of a real server: SQL sessions go through, and so does a replication connection until the log begins. The
/// log is the impostor's.
struct Impostor {
    address: SocketAddr,
    /// Standby statuses that have come.
    statuses: Arc<AtomicUsize>,
    said: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Impostor {
    async fn start(target: String, before: Vec<u8>, again_and_again: Vec<u8>) -> Impostor {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (statuses, said) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (statuses.clone(), said.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let speech = (before.clone(), again_and_again.clone());
                connections.spawn(meet(client, target.clone(), speech, counters.clone()));
            }
        });
        Impostor { address, statuses, said, task }
    }

    /// The way to him, who looks into what is said.
    fn url(&self, server: &PostgresServer, database: &str) -> String {
        format!("{}?sslmode=disable", server.url_at(self.address, database))
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn meet(
    mut client: TcpStream,
    target: String,
    (before, again_and_again): (Vec<u8>, Vec<u8>),
    (statuses, said): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) -> Option<()> {
    let mut start = vec![0; 4096];
    let count = client.read(&mut start).await.ok()?;
    start.truncate(count);
    let mut server = TcpStream::connect(target).await.ok()?;
    server.write_all(&start).await.ok()?;
    if !start.windows(11).any(|window| window == b"replication") {
        copy_bidirectional(&mut client, &mut server).await.ok()?;
        return None;
    }
    until_copying(&mut client, &mut server).await?;
    client.write_all(&before).await.ok()?;
    let (mut reader, mut writer) = client.split();
    let (mut silenced, mut server) = server.split();
    let listen = async {
        // Each status is a CopyData of 38 bytes and comes alone.
        while let Some((tag, body)) = read_frame(&mut reader).await {
            statuses.fetch_add(usize::from(tag == b'd' && body.first() == Some(&b'r')), Ordering::SeqCst);
            server.write_all(&frame(tag, &body)).await.ok()?;
        }
        Some(())
    };
    let speak = async {
        while writer.write_all(&again_and_again).await.is_ok() {
            said.fetch_add(again_and_again.len(), Ordering::SeqCst);
        }
        Some(())
    };
    let silence = async { tokio::io::copy(&mut silenced, &mut tokio::io::sink()).await.ok().map(drop) };
    tokio::select! { it = listen => it, it = speak => it, it = silence => it }
}

/// Lets the real server answer until the log begins. From then on it holds the slot for this relay, as the relay sees
/// when it asks over its SQL session.
async fn until_copying(client: &mut TcpStream, server: &mut TcpStream) -> Option<()> {
    loop {
        let (tag, body) = read_frame(server).await?;
        client.write_all(&frame(tag, &body)).await.ok()?;
        match tag {
            b'W' => return Some(()),
            b'Z' => {
                let (tag, question) = read_frame(client).await?;
                server.write_all(&frame(tag, &question)).await.ok()?;
            }
            _ => {}
        }
    }
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let tag = from.read_u8().await.ok()?;
    let length = from.read_u32().await.ok()? as usize;
    let mut body = vec![0; length.checked_sub(4)?];
    from.read_exact(&mut body).await.ok()?;
    Some((tag, body))
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

/// WAL data that holds this message of the output plugin.
fn wal_data(message: &[u8]) -> Vec<u8> {
    frame(b'd', &[b"w", &[0; 24][..], message].concat())
}

/// The largest resident size so far, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

async fn endure(name: &str, before: Vec<u8>, again_and_again: Vec<u8>) {
    let server = PostgresServer::shared().await;
    let world = World::new("hostile", 1).await;
    let impostor = Impostor::start(server.address(), before, again_and_again).await;
    let mut relay = world
        .command(["run", "--drain-timeout", "2s"])
        .env("WALPOST_DATABASE_URL", impostor.url(server, &world.database.name))
        .spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let (streaming, address) = (Instant::now(), relay.listen_address().await);
    // One goes out every ten seconds at the latest, however busy the wire is. By then the lease on the slot has had to be
    // renewed over the other session: it lasts for eight seconds.
    eventually("two statuses", PATIENCE, async || {
        let statuses = impostor.statuses.load(Ordering::SeqCst);
        (statuses >= 2 && streaming.elapsed() > Duration::from_secs(10)).then_some(())
    })
    .await;
    let healthy = get(address, "/healthz").await;
    assert!(healthy.starts_with("HTTP/1.1 200"), "{name}: {healthy}");
    let peak = peak(relay.id());
    let lives = lives(address).await;
    relay.terminate();
    let status = relay.wait(Duration::from_secs(15)).await;
    let (statuses, said) = (impostor.statuses.load(Ordering::SeqCst), impostor.said.load(Ordering::SeqCst));
    println!("{name}: {} MiB heard, {statuses} statuses, {peak} MiB resident at most", said >> 20);
    assert!(said > 1 << 18, "{name}: {said} bytes are no flood");
    assert!(peak < 64, "{name}: {peak} MiB");
    assert_eq!(status.code(), Some(0), "{name}: {}", relay.log());
    assert_eq!(lives, 1.0, "{name}: the connection did not last: {}", relay.log());
    assert!(relay.log().lines().count() < 200, "{name}: the log is flooded");
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn parameters_without_end() {
    endure("parameters", Vec::new(), frame(b'S', b"a\0b\0").repeat(1000)).await;
}

#[tokio::test]
async fn notices_without_end() {
    endure("notices", Vec::new(), frame(b'N', b"SNOTICE\0C00000\0Mhello\0\0").repeat(1000)).await;
}

#[tokio::test]
async fn messages_to_others_without_end() {
    let message = [&b"M\0\0\0\0\0\0\0\0\x01other\0\0\0\0\x02"[..], b"hi"].concat();
    endure("messages", Vec::new(), wal_data(&message).repeat(1000)).await;
}

#[tokio::test]
async fn keepalives_without_end() {
    let keepalive = [&b"k\0\0\0\0\0\0\0\x01"[..], &[0; 8], b"\x01"].concat();
    endure("keepalives", Vec::new(), frame(b'd', &keepalive).repeat(1000)).await;
}

#[tokio::test]
async fn an_announced_gigabyte_byte_by_byte() {
    endure("a gigabyte", vec![b'd', 0x3f, 0xff, 0xff, 0xff, b'w'], vec![b'x']).await;
}

#[tokio::test]
async fn empty_frames_without_end_end_each_connection() {
    let server = PostgresServer::shared().await;
    let world = World::new("hostile", 1).await;
    let impostor = Impostor::start(server.address(), Vec::new(), frame(b'd', b"").repeat(1000)).await;
    let mut relay = world
        .command(["run", "--drain-timeout", "2s"])
        .env("WALPOST_DATABASE_URL", impostor.url(server, &world.database.name))
        .spawn();
    relay.wait_for_log("replication message ends inside its tag", PATIENCE).await;
    // The fault is told once. What comes after it is the same, and the slot is free for each new connection.
    let address = relay.listen_address().await;
    let before = lives(address).await;
    eventually("two more lives", PATIENCE, async || (lives(address).await >= before + 2.0).then_some(()))
        .await;
    let told = relay.log().lines().count();
    assert!(told < 20, "{told} lines: {}", relay.log());
    relay.terminate();
    // It may be connected just now, and take a leave that nobody answers.
    assert_eq!(relay.wait(Duration::from_secs(15)).await.code(), Some(0), "{}", relay.log());
}
