//! `walpost demo`: the whole road on one machine, with live traffic, and nothing left behind.
//!
//! A throw-away PostgreSQL, an embedded broker, the real set-up and the real relay; a small shop commits
//! and rolls back, a consumer reads, and every event is accounted for.

mod board;
mod broker;
mod consumer;
mod server;
mod shop;

use std::future::Future;
use std::io::IsTerminal;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, interval, sleep, timeout};

use crate::error::OutboxError;
use crate::kafka::KafkaSettings;
use crate::postgres::settings::Os;
use crate::postgres::{Session, Settings, Target, setup_sql};
use crate::processor::Pace;
use crate::refusal::{OnRefusal, RetryConfig};
use crate::relay::Relay;
use crate::vitals::Vitals;
use board::Board;
use broker::Broker;
use consumer::Consumer;
use server::Server;
use shop::{SharedLedger, Shop};

/// How the demo is played.
#[derive(Clone, Debug)]
pub struct Demo {
    /// A real broker instead of the embedded one.
    pub kafka: Option<KafkaSettings>,
    /// Transactions a second.
    pub rate: u32,
    /// When it ends by itself.
    pub duration: Option<Duration>,
}

/// Partitions of the demo's topic.
const PARTITIONS: i32 = 3;

/// Plays until `stop` resolves or the time is over.
///
/// # Errors
/// Something can't be started, or what was committed did not arrive once and in order.
pub async fn play(demo: Demo, stop: impl Future<Output = ()> + Send) -> Result<(), OutboxError> {
    let terminal = std::io::stdout().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut board = Board::new(terminal, colour);

    board.say("Starting a throw-away PostgreSQL and a broker ...");
    let server = spawn_blocking(Server::start).await.map_err(broken)??;
    let settings = Settings::resolve(Some(&server.url()), |_| None, &Os::detect())?;
    let set_up = Session::open_any(&settings).await?;
    set_up.run_script("setting up", &setup_sql(&Target::default())?).await?;
    // Last, so that whatever fails before leaves no topic behind.
    let broker = Broker::open(demo.kafka.as_ref(), PARTITIONS).await?;
    board.say(&format!("PostgreSQL   {}", server.description()));
    board.say(&format!("Kafka        {}", broker.description()));
    board.say("A shop now commits orders with their events, and rolls some back. Ctrl-C ends it.");

    let good = trade(&demo, &settings, &broker, &mut board, stop).await;
    broker.close().await;
    spawn_blocking(move || drop(server)).await.map_err(broken)?;
    match good {
        Ok(true) => Ok(()),
        Ok(false) => Err(OutboxError::definite(
            "the demo did not go as promised",
            "please report it with the lines above",
        )),
        Err(error) => Err(error),
    }
}

/// Lets the shop sell while the relay publishes and a consumer reads; says whether all went as promised.
async fn trade(
    demo: &Demo,
    settings: &Settings,
    broker: &Broker,
    board: &mut Board,
    stop: impl Future<Output = ()> + Send,
) -> Result<bool, OutboxError> {
    let ledger = SharedLedger::default();
    let vitals = Arc::new(Vitals::default());
    let relay = Relay {
        database: settings.clone(),
        target: Target::default(),
        kafka: broker.settings().clone(),
        on_refusal: OnRefusal::default(),
        retry: RetryConfig::default(),
        pace: Pace::default(),
        alone: false,
    };
    let running = Running::start(relay, &vitals);
    let consumer = Consumer::start(broker.brokers(), broker.topic(), PARTITIONS, ledger.clone())?;
    let mut shop = Shop::open(Session::open_any(settings).await?, broker.topic(), ledger.clone()).await?;

    let start = Instant::now();
    let show =
        |board: &mut Board| board.show(&ledger.open(), start.elapsed(), &vitals.confirmed().to_string());
    let end = async {
        tokio::select! {
            () = stop => {}
            () = time_is_over(demo.duration) => {}
        }
    };
    let mut looks = interval(board.pace());
    let mut selling = pin!(shop.sell(demo.rate, end));
    loop {
        tokio::select! {
            result = &mut selling => break result?,
            _ = looks.tick() => show(board),
        }
    }
    all_arrived(&ledger).await;
    running.stop().await?;
    show(board);
    drop(consumer);
    Ok(board.sum_up(&ledger.open()))
}

async fn time_is_over(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// What is committed must arrive, with the time that a slow machine needs.
async fn all_arrived(ledger: &SharedLedger) {
    let arrival = async {
        while !ledger.open().waiting.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    // What is missing then is counted in the sum.
    let _ = timeout(Duration::from_secs(20), arrival).await;
}

/// The relay in a task of its own.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), OutboxError>>,
}

impl Running {
    fn start(relay: Relay, vitals: &Arc<Vitals>) -> Running {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(relay.run(Arc::clone(vitals), async {
            // A dropped sender is a stop as well.
            let _ = stopped.await;
        }));
        Running { stop, task }
    }

    async fn stop(self) -> Result<(), OutboxError> {
        let _ = self.stop.send(());
        self.task.await.map_err(broken)?
    }
}

fn broken(error: tokio::task::JoinError) -> OutboxError {
    OutboxError::connection("a part of the demo broke", error)
}
