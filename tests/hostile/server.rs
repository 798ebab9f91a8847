//! Servers that lie, over a real socket: to the replication connection and to the SQL session beside it. Each has to be
//! left with an error, in time, and without holding more memory than it has really sent.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use walpost::OutboxError;
use walpost::postgres::{Session, Target, inspect};

use crate::Measurement;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// The two connections that a relay opens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    Replication,
    Sql,
}

const BOTH: [Half; 2] = [Half::Replication, Half::Sql];

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

fn authentication(kind: u32, body: &[u8]) -> Vec<u8> {
    frame(b'R', &[&kind.to_be_bytes()[..], body].concat())
}

/// Serves one connection; what the other side has to say at the start has been read.
async fn serve<F>(speak: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        heard(&mut stream).await?;
        speak(stream).await
    });
    address
}

async fn heard(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 16 * 1024];
    let count = stream.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
    bytes.truncate(count);
    Some(bytes)
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    stream.write_all(bytes).await.ok()
}

/// Says the same for as long as somebody listens, a gigabyte at most.
async fn flood(stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    let many = bytes.repeat(1 + 64 * 1024 / bytes.len());
    for _ in 0..(1 << 30) / many.len() {
        say(stream, &many).await?;
    }
    None
}

async fn open(half: Half, server: SocketAddr) -> Result<(), OutboxError> {
    match half {
        Half::Replication => walpost::fuzzing::replicate(server).await,
        Half::Sql => {
            let mut config = tokio_postgres::Config::new();
            config.hostaddr(server.ip()).port(server.port()).user("walpost").password("open sesame");
            let session = Session::open(&config.into()).await?;
            inspect(&session, &Target::default()).await.map(drop)
        }
    }
}

/// Opens a connection to such a server: it has to fail, in time, and within `most` bytes.
async fn refuse(
    measurement: &mut Measurement,
    name: &str,
    half: Half,
    server: SocketAddr,
    most: usize,
) -> OutboxError {
    measurement.reset();
    let begun = Instant::now();
    let result = timeout(PATIENCE, open(half, server)).await;
    let (peak, took) = (measurement.peak(), begun.elapsed());
    let error = result.unwrap_or_else(|_| panic!("{name}, {half:?}: it hangs")).expect_err(name);
    println!("{name}, {half:?}: {} KiB, {} ms, {}", peak / 1024, took.as_millis(), error.chain());
    assert!(peak <= most, "{name}, {half:?}: {peak} bytes held, {most} at most");
    error
}

/// The login up to the first question.
fn greeting() -> Vec<u8> {
    [authentication(0, b""), frame(b'K', &[0; 8]), frame(b'Z', b"I")].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_are_none() {
    let mut measurement = Measurement::begin().await;
    for length in [0, 1, 2, 3, i32::MAX, -1, i32::MIN] {
        for half in BOTH {
            let server = serve(move |mut stream| async move {
                say(&mut stream, &[&[b'R'][..], &length.to_be_bytes()].concat()).await?;
                flood(&mut stream, &[0; 1024]).await
            })
            .await;
            let error = refuse(&mut measurement, &format!("length {length}"), half, server, 4 * MIB).await;
            assert!(error.is_transient(), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_without_end() {
    let mut measurement = Measurement::begin().await;
    let parameters: Vec<u8> = (0..10_000).flat_map(|n| frame(b'S', format!("{n}\0x\0").as_bytes())).collect();
    let row =
        [frame(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\0\0\0\0\0\0\0\0"), frame(b'D', b"\0\x01\0\0\0\x01x")];
    for (name, piece) in [
        ("parameters", parameters),
        ("notices", frame(b'N', b"SNOTICE\0C00000\0Mhello\0\0")),
        ("keys", frame(b'K', &[0; 8])),
        ("rows", row.concat()),
    ] {
        for half in BOTH {
            let piece = piece.clone();
            let server = serve(|mut stream| async move {
                say(&mut stream, &authentication(0, b"")).await?;
                flood(&mut stream, &piece).await
            })
            .await;
            // Kept one by one, small messages take many times their size.
            refuse(&mut measurement, name, half, server, 64 * MIB).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_without_end() {
    let mut measurement = Measurement::begin().await;
    for (name, piece) in [
        ("nothing but questions for the password", authentication(3, b"")),
        ("nothing but salts", authentication(5, b"salt")),
        ("nothing but mechanisms", authentication(10, b"SCRAM-SHA-256\0\0")),
        ("mechanisms without end", authentication(10, &b"X\0".repeat(400_000))),
        ("an unknown method", authentication(99, b"")),
        ("rows before the login", frame(b'D', b"\0\x01\0\0\0\x01x")),
    ] {
        for half in BOTH {
            let piece = piece.clone();
            let server = serve(|mut stream| async move { flood(&mut stream, &piece).await }).await;
            refuse(&mut measurement, name, half, server, 16 * MIB).await;
        }
    }
}

/// Speaks SCRAM up to the server's first message, in which `{}` stands for the client's nonce.
async fn scram(stream: &mut TcpStream, first: &str) -> Option<()> {
    say(stream, &authentication(10, b"SCRAM-SHA-256\0\0")).await?;
    let answer = String::from_utf8_lossy(&heard(stream).await?).into_owned();
    let nonce = answer.split_once(",,n=,r=")?.1;
    say(stream, &authentication(11, first.replace("{}", nonce).as_bytes())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_that_costs_too_much_or_ends_in_a_lie() {
    let mut measurement = Measurement::begin().await;
    let long = format!("r={{}}{},s=QSXCR+Q6sek8bf92,i=1", "x".repeat(500_000));
    let huge = format!("r={{}}{},s=QSXCR+Q6sek8bf92,i=1", "x".repeat(2_000_000));
    for (name, first, definite) in [
        ("2^31-1 rounds", "r={}s,s=QSXCR+Q6sek8bf92,i=2147483647", true),
        ("100,001 rounds", "r={}s,s=QSXCR+Q6sek8bf92,i=100001", true),
        ("a wrong signature", "r={}s,s=QSXCR+Q6sek8bf92,i=4096", false),
        ("another nonce", "r=nonce,s=QSXCR+Q6sek8bf92,i=4096", false),
        ("no salt", "r={}s,i=4096", false),
        ("a long nonce", long.as_str(), false),
        ("a nonce beyond all bounds", huge.as_str(), false),
    ] {
        for half in BOTH {
            let first = first.to_owned();
            let server = serve(|mut stream| async move {
                scram(&mut stream, &first).await?;
                heard(&mut stream).await?;
                say(&mut stream, &authentication(12, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
                    .await?;
                say(&mut stream, &greeting()).await?;
                flood(&mut stream, &frame(b'N', b"Mhello\0\0")).await
            })
            .await;
            let begun = Instant::now();
            let error = refuse(&mut measurement, name, half, server, 32 * MIB).await;
            assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
            // Far too many rounds are a setting, or a trap: nobody should try that again and again.
            assert_eq!(error.is_transient(), !definite, "{name}: {error:?}");
            assert!(!definite || error.advice().is_some_and(|advice| advice.contains("scram_iterations")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_does_not_begin() {
    let mut measurement = Measurement::begin().await;
    let row =
        [frame(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\0\0\0\0\0\0\0\0"), frame(b'D', b"\0\x01\0\0\0\x01x")];
    for (name, piece) in [
        ("a row description", row[0].clone()),
        ("rows", row[1].clone()),
        ("parameters", frame(b'S', b"a\0b\0")),
        ("notices", frame(b'N', b"Mhello\0\0")),
        ("readiness", frame(b'Z', b"I")),
    ] {
        let server = serve(|mut stream| async move {
            say(&mut stream, &greeting()).await?;
            heard(&mut stream).await?;
            flood(&mut stream, &piece).await
        })
        .await;
        refuse(&mut measurement, name, Half::Replication, server, 4 * MIB).await;
    }
}

/// Serves a replication connection up to the data.
async fn copying<F>(speak: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    serve(|mut stream| async move {
        say(&mut stream, &greeting()).await?;
        heard(&mut stream).await?;
        say(&mut stream, &frame(b'W', b"\0\0\0")).await?;
        speak(stream).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_gigabyte_takes_what_has_come_of_it() {
    let mut measurement = Measurement::begin().await;
    const HEADER: [u8; 6] = [b'd', 0x3f, 0xff, 0xff, 0xff, b'w'];
    let trickle = copying(|mut stream| async move {
        say(&mut stream, &HEADER).await?;
        for _ in 0..20_000 {
            say(&mut stream, b"x").await?;
        }
        None
    })
    .await;
    refuse(&mut measurement, "a gigabyte, byte by byte", Half::Replication, trickle, MIB).await;
    let torn = copying(|mut stream| async move {
        say(&mut stream, &HEADER).await?;
        for _ in 0..64 {
            say(&mut stream, &vec![0; MIB]).await?;
        }
        None
    })
    .await;
    // Counted by an allocator that copies when it grows: the old buffer and the new one, half of which is room.
    refuse(&mut measurement, "a gigabyte that ends after 64 MiB", Half::Replication, torn, 4 * 64 * MIB)
        .await;
    for length in [0x4000_0001_u32, 0x7fff_ffff, 0xffff_ffff, 3] {
        let beyond = copying(move |mut stream| async move {
            say(&mut stream, &[&[b'd'][..], &length.to_be_bytes()].concat()).await?;
            flood(&mut stream, &[0; 1024]).await
        })
        .await;
        refuse(&mut measurement, &format!("{length:#x} bytes"), Half::Replication, beyond, 4 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_into_a_copy() {
    let mut measurement = Measurement::begin().await;
    for (name, piece) in [
        ("a row description", frame(b'T', b"\0\0")),
        ("rows", frame(b'D', b"\0\x01\0\0\0\x01x")),
        ("an unknown kind", frame(b'?', b"")),
        ("an error of 2 MiB", frame(b'E', &[&b"M"[..], &b"x".repeat(2 * MIB), b"\0\0"].concat())),
        ("a notice of 2 MiB", frame(b'N', &[&b"M"[..], &b"x".repeat(2 * MIB), b"\0\0"].concat())),
    ] {
        let server = copying(|mut stream| async move { flood(&mut stream, &piece).await }).await;
        let error = refuse(&mut measurement, name, Half::Replication, server, 4 * MIB).await;
        assert!(error.chain().len() < 8 * 1024, "an endless line of the log");
    }
}

/// What tokio-postgres expects of a query without parameters.
fn answer(columns: &[u8], rows: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let ready = frame(b'Z', b"I");
    let prepared = [frame(b'1', b""), frame(b't', b"\0\0"), frame(b'T', columns), ready.clone()];
    (prepared.concat(), [frame(b'2', b""), rows.to_vec(), frame(b'C', b"SELECT 1\0"), ready].concat())
}

/// Serves an SQL session up to the first look into the catalogs.
async fn asked<F>(speak: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    serve(|mut stream| async move {
        say(&mut stream, &greeting()).await?;
        heard(&mut stream).await?;
        say(&mut stream, &[frame(b'C', b"SELECT 1\0"), frame(b'Z', b"I")].concat()).await?;
        heard(&mut stream).await?;
        speak(stream).await
    })
    .await
}

const TEXT: &[u8] = b"\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_another_shape_is_an_error_and_no_panic() {
    let mut measurement = Measurement::begin().await;
    let column = [&b"\0\x01a\0"[..], TEXT].concat();
    let value = frame(b'D', b"\0\x01\0\0\0\x01x");
    let null = frame(b'D', b"\0\x01\xff\xff\xff\xff");
    for (name, columns, rows) in [
        ("another type", &column, value.clone()),
        ("null where there is a number", &column, null),
        ("fewer columns", &b"\0\0".to_vec(), frame(b'D', b"\0\0")),
        ("fewer values than columns", &column, frame(b'D', b"\0\0")),
        ("a value that is not there", &column, frame(b'D', b"\0\x01\0\0\0\xffx")),
    ] {
        let (prepared, executed) = answer(columns, &rows);
        let server = asked(|mut stream| async move {
            say(&mut stream, &prepared).await?;
            heard(&mut stream).await?;
            say(&mut stream, &executed).await?;
            heard(&mut stream).await.map(drop)
        })
        .await;
        refuse(&mut measurement, name, Half::Sql, server, 2 * MIB).await;
    }
    let (prepared, _) = answer(&column, b"");
    let server = asked(|mut stream| async move {
        say(&mut stream, &prepared).await?;
        heard(&mut stream).await?;
        say(&mut stream, &frame(b'2', b"")).await?;
        flood(&mut stream, &value).await
    })
    .await;
    // 8 MiB of the smallest rows, kept one by one until the answer ends.
    refuse(&mut measurement, "rows without end", Half::Sql, server, 256 * MIB).await;
}
