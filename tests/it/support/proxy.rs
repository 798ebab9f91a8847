//! A wire that a test can cut, freeze, slow down, tear and heal.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// After this much a frozen wire takes nothing more, as when the buffers on the way are full.
const MOST_KEPT: usize = 16 << 20;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How the bytes of one way travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Flow {
    Open,
    /// Bytes are taken and kept back.
    Frozen,
    /// Each piece that was read waits this long.
    Delayed(Duration),
    /// Each byte goes in a packet of its own.
    ByteByByte,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    up: Flow,
    down: Flow,
    /// Every connection is dropped, and every new one as soon as it comes.
    cut: bool,
    /// How often all connections were reset, and abandoned: each looks at what came after its own start.
    resets: u32,
    abandoned: u32,
}

impl State {
    fn flow(&self, way: Way) -> Flow {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }
}

/// What all connections of a proxy share.
#[derive(Clone)]
struct Shared {
    state: watch::Sender<State>,
    /// So many bytes that way, and the wire is torn.
    fuse: Arc<Mutex<Option<(Way, usize)>>>,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Shared,
    target: String,
    connections: Arc<AtomicUsize>,
    attempts: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`. Lives in the runtime of the test that starts it.
    pub(crate) async fn start(target: impl Into<String>) -> Proxy {
        Self::start_at(([127, 0, 0, 1], 0).into(), target).await
    }

    /// The same at an address of this machine.
    pub(crate) async fn start_at(address: SocketAddr, target: impl Into<String>) -> Proxy {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = State { up: Flow::Open, down: Flow::Open, cut: false, resets: 0, abandoned: 0 };
        let shared = Shared { state: watch::channel(open).0, fuse: Arc::default() };
        let connections = Arc::new(AtomicUsize::new(0));
        let target = target.into();
        let attempts = Arc::new(AtomicUsize::new(0));
        let counts = (connections.clone(), attempts.clone());
        let listening = tokio::spawn(listen(listener, target.clone(), shared.clone(), counts));
        Proxy { address, shared, target, connections, attempts, listening }
    }

    /// Where it forwards to.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self) {
        self.shared.state.send_modify(|state| state.cut = true);
    }

    /// Both ways: half-open, as after a power failure on the other side.
    pub(crate) fn freeze(&self) {
        self.set(&[Way::Up, Way::Down], Flow::Frozen);
    }

    /// How the bytes travel from now on.
    pub(crate) fn set(&self, ways: &[Way], flow: Flow) {
        self.shared.state.send_modify(|state| {
            for way in ways {
                match way {
                    Way::Up => state.up = flow,
                    Way::Down => state.down = flow,
                }
            }
        });
    }

    /// Every connection ends with a reset once so many more bytes have gone that way; new ones are welcome.
    pub(crate) fn reset_after(&self, way: Way, bytes: usize) {
        *self.shared.fuse.lock().unwrap() = Some((way, bytes));
    }

    /// The same at once.
    pub(crate) fn reset(&self) {
        self.shared.state.send_modify(|state| state.resets += 1);
    }

    /// Connections stay open and nothing moves on them for ever, as when the other side lost its memory of
    /// them; new ones are welcome.
    pub(crate) fn abandon(&self) {
        self.shared.state.send_modify(|state| state.abandoned += 1);
    }

    /// Connections that were frozen go on with what was kept back; those that were cut stay dead.
    pub(crate) fn heal(&self) {
        *self.shared.fuse.lock().unwrap() = None;
        self.shared.state.send_modify(|state| {
            (state.up, state.down, state.cut) = (Flow::Open, Flow::Open, false);
        });
    }

    /// How many are being forwarded right now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How often somebody has come, also while it was cut.
    pub(crate) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(
    listener: TcpListener,
    target: String,
    shared: Shared,
    (count, attempts): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        attempts.fetch_add(1, Ordering::SeqCst);
        while connections.try_join_next().is_some() {}
        if shared.state.borrow().cut {
            // Without lingering the client sees a reset, as from a port where nobody listens.
            let _ = client.set_zero_linger();
            continue;
        }
        connections.spawn(forward(client, target.clone(), shared.clone(), Counted::new(count.clone())));
    }
}

async fn forward(mut client: TcpStream, target: String, shared: Shared, counted: Counted) {
    let mut state = shared.state.subscribe();
    let start = *state.borrow();
    let Ok(mut server) = TcpStream::connect(&target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            // Both ways, because one side may say its last word while the other still talks.
            _ = async {
                tokio::join!(pump(from_client, to_server, &shared, Way::Up), pump(from_server, to_client, &shared, Way::Down))
            } => return,
            _ = state.wait_for(|it| it.cut || it.resets != start.resets || it.abandoned != start.abandoned) => {}
        }
    }
    let now = *state.borrow();
    if now.resets != start.resets {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    } else if !now.cut {
        drop(counted);
        // Held, and never looked at again, until the proxy goes.
        std::future::pending::<()>().await;
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    way: Way,
) -> std::io::Result<()> {
    let mut state = shared.state.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    // What came while the wire was frozen.
    let mut kept = Vec::new();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer), if kept.len() < MOST_KEPT => Some(read?),
            () = thawed(&mut state, way), if !kept.is_empty() => None,
        };
        kept.extend_from_slice(&buffer[..read.unwrap_or(0)]);
        let end = read == Some(0);
        let flow = state.borrow().flow(way);
        match flow {
            Flow::Frozen if !end => continue,
            Flow::Delayed(wait) => sleep(wait).await,
            _ => thawed(&mut state, way).await,
        }
        send(&std::mem::take(&mut kept), &mut to, shared, way).await?;
        if end {
            return to.shutdown().await;
        }
    }
}

/// Passes bytes on, up to the place where the wire is torn, if that lies among them.
async fn send(
    bytes: &[u8],
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    way: Way,
) -> std::io::Result<()> {
    let whole = bytes.len();
    let mut bytes = &bytes[..burn(shared, way, whole)];
    let torn = bytes.len() < whole;
    while !bytes.is_empty() {
        let single = shared.state.borrow().flow(way) == Flow::ByteByByte;
        let (now, later) = bytes.split_at(if single { 1 } else { bytes.len() });
        to.write_all(now).await?;
        bytes = later;
        tokio::task::yield_now().await;
    }
    if torn {
        // The other end reads what came before it sees the reset, which throws away what was not read.
        sleep(Duration::from_millis(5)).await;
        shared.state.send_modify(|state| state.resets += 1);
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// How many of so many bytes go through before the fuse has burnt down.
fn burn(shared: &Shared, way: Way, length: usize) -> usize {
    let mut fuse = shared.fuse.lock().unwrap();
    match &mut *fuse {
        Some((side, left)) if *side == way && length > *left => {
            let left = *left;
            *fuse = None;
            left
        }
        Some((side, left)) if *side == way => {
            *left -= length;
            length
        }
        _ => length,
    }
}

async fn thawed(state: &mut watch::Receiver<State>, way: Way) {
    // An error means that the proxy is gone, and this task with it.
    let _ = state.wait_for(|it| it.flow(way) != Flow::Frozen).await;
}

/// Counts itself for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client and the far end of a wire that leads to it.
    async fn wired() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().to_string()).await;
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (proxy, client, server)
    }

    #[tokio::test]
    async fn a_torn_wire_delivers_up_to_the_tear_and_resets() {
        let (proxy, mut client, mut server) = wired().await;
        proxy.reset_after(Way::Down, 7);
        server.write_all(b"0123456789").await.unwrap();
        let mut buffer = Vec::new();
        let error = client.read_to_end(&mut buffer).await.unwrap_err();
        assert_eq!((error.kind(), &*buffer), (std::io::ErrorKind::ConnectionReset, &b"0123456"[..]));
    }

    #[tokio::test]
    async fn slow_ways_change_no_byte() {
        let (proxy, mut client, mut server) = wired().await;
        let bytes: Vec<u8> = (0..20_000).map(|n| n as u8).collect();
        for flow in [Flow::ByteByByte, Flow::Delayed(Duration::from_millis(3)), Flow::Frozen] {
            proxy.set(&[Way::Up], flow);
            client.write_all(&bytes).await.unwrap();
            if flow == Flow::Frozen {
                proxy.heal();
            }
            let mut arrived = vec![0; bytes.len()];
            server.read_exact(&mut arrived).await.unwrap();
            assert!(arrived == bytes, "{flow:?}");
        }
    }

    #[tokio::test]
    async fn an_abandoned_connection_is_silent_and_a_new_one_is_not() {
        let (proxy, mut client, mut server) = wired().await;
        server.write_all(b"before").await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        proxy.abandon();
        while proxy.connections() > 0 {
            tokio::task::yield_now().await;
        }
        server.write_all(b"after").await.unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(100), client.read(&mut [0; 5])).await;
        assert!(silence.is_err(), "{silence:?}");
        drop(TcpStream::connect(proxy.address()).await.unwrap());
    }
}
