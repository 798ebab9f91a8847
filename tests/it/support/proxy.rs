//! A wire that a test can cut, freeze and heal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// After this much a frozen wire takes nothing more, as when the buffers on the way are full.
const MOST_KEPT: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// Bytes are taken and kept back: half-open, as after a power failure on the other side.
    Frozen,
    /// Every connection is dropped, and every new one as soon as it comes.
    Cut,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`. Lives in the runtime of the test that starts it.
    pub(crate) async fn start(target: impl Into<String>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, _) = watch::channel(State::Open);
        let connections = Arc::new(AtomicUsize::new(0));
        let listening = tokio::spawn(listen(listener, target.into(), state.clone(), connections.clone()));
        Proxy { address, state, connections, listening }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub(crate) fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    /// Connections that were frozen go on with what was kept back; those that were cut stay dead.
    pub(crate) fn heal(&self) {
        self.state.send_replace(State::Open);
    }

    /// How many are being forwarded right now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, target: String, state: watch::Sender<State>, count: Arc<AtomicUsize>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if *state.borrow() == State::Cut {
            // Without lingering the client sees a reset, as from a port where nobody listens.
            let _ = client.set_zero_linger();
            continue;
        }
        connections.spawn(forward(client, target.clone(), state.subscribe(), Counted::new(count.clone())));
    }
}

async fn forward(client: TcpStream, target: String, mut state: watch::Receiver<State>, _counted: Counted) {
    let Ok(server) = TcpStream::connect(&target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (state.clone(), state.clone());
    tokio::select! {
        // Both ways, because one side may say its last word while the other still talks.
        _ = async { tokio::join!(pump(from_client, to_server, up), pump(from_server, to_client, down)) } => {}
        _ = state.wait_for(|it| *it == State::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    // What came while the wire was frozen.
    let mut kept = Vec::new();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer), if kept.len() < MOST_KEPT => Some(read?),
            () = thawed(&mut state), if !kept.is_empty() => None,
        };
        kept.extend_from_slice(&buffer[..read.unwrap_or(0)]);
        let end = read == Some(0);
        if *state.borrow() == State::Frozen && !end {
            continue;
        }
        thawed(&mut state).await;
        to.write_all(&std::mem::take(&mut kept)).await?;
        if end {
            return to.shutdown().await;
        }
    }
}

async fn thawed(state: &mut watch::Receiver<State>) {
    // An error means that the proxy is gone, and this task with it.
    let _ = state.wait_for(|it| *it != State::Frozen).await;
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
