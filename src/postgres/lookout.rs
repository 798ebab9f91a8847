//! What a stream can't tell of itself, asked over the ordinary session beside it, in a task of its own.
//!
//! ```text
//!   every 2 s    who holds the slot?            ──► the lease: this relay may publish for 8 s more
//!                how much room has it?          ──► a warning when it is nearly lost
//!   every 10 s   what does the publication do?  ──► a verdict when rows may have been skipped
//!                how much waits beside it?      ──► metrics
//! ```
//!
//! A relay that was paused or cut off must not publish what it still holds once another one reads the slot. So it
//! publishes on a lease, which is counted from when the question was *asked*: an answer that waited in a buffer
//! while this process stood still proves nothing of the time since.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::identity::Trail;
use super::names::Target;
use super::publication::{self, Change, Published};
use super::sight;
use super::table::Desk;
use crate::error::OutboxError;
use crate::vitals::{Vitals, size};

/// How often the session is asked who holds the slot.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often the publication is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A table that did not answer at once is left alone for so long.
const LET_BE: Duration = Duration::from_secs(60);
/// So long after the last proof that the slot is ours we may publish. Less than the silence after which another
/// relay ends the session of one that seems dead (`takeover`), by more than the time between two proofs.
pub(super) const LEASE: Duration = Duration::from_secs(8);

/// How long a stream that has ended gets to say why.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// A moment by both clocks: the monotonic one stands still while a machine sleeps.
#[derive(Clone, Copy, Debug)]
struct Moment(Instant, SystemTime);

impl Moment {
    fn now() -> Moment {
        Moment(Instant::now(), SystemTime::now())
    }

    fn elapsed(self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

/// What the task works on.
#[derive(Debug)]
pub(super) struct Beat {
    pub(super) target: Target,
    /// The server's process behind the stream.
    pub(super) reader: i32,
    pub(super) table_oids: Vec<u32>,
    pub(super) server_version: i32,
    /// The publication as it was when the stream started.
    pub(super) published: Option<Published>,
    pub(super) look_every: Duration,
    pub(super) trail: Arc<Trail>,
    pub(super) vitals: Arc<Vitals>,
}

/// The task, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Lookout {
    task: JoinHandle<()>,
    held: watch::Receiver<Moment>,
    verdict: mpsc::Receiver<OutboxError>,
    /// Somebody else reads the slot.
    taken: Arc<AtomicBool>,
}

impl Lookout {
    /// Starts to look; the slot must be held by now.
    pub(super) fn start(client: Arc<Client>, beat: Beat) -> Lookout {
        let (holding, held) = watch::channel(Moment::now());
        let (judge, verdict) = mpsc::channel(1);
        let taken = Arc::<AtomicBool>::default();
        let taking = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            let Err(error) = walk(&client, beat, &holding, &taking).await;
            // Of the session's end its driver tells, and knows better why.
            if !client.is_closed() {
                // The stream may be gone already.
                let _ = judge.send(error).await;
            }
            judge.closed().await;
        });
        Lookout { task, held, verdict, taken }
    }

    /// Whether there is time to hear why the stream has ended: nobody else can be publishing yet.
    pub(super) fn may_listen(&self) -> bool {
        !self.taken.load(Relaxed) && self.held.borrow().elapsed() <= LEASE
    }

    /// Whether this relay may go on.
    ///
    /// # Errors
    /// It has been without proof for too long that the slot is its own, or rows may have been skipped.
    pub(super) fn check(&mut self) -> Result<(), OutboxError> {
        if let Ok(error) = self.verdict.try_recv() {
            return Err(error);
        }
        let silent = self.held.borrow().elapsed();
        if silent <= LEASE {
            return Ok(());
        }
        Err(OutboxError::transient(format!(
            "PostgreSQL has not answered for {} s: stopped publishing, since another relay may have the slot by now",
            silent.as_secs()
        )))
    }

    /// Waits until [`check`](Self::check) may have something to say. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Result<(), OutboxError> {
        let end = self.held.borrow().0 + LEASE + Duration::from_millis(1);
        tokio::select! {
            error = self.verdict.recv() => match error {
                Some(error) => Err(error),
                None => Err(OutboxError::transient("the task beside the stream has ended")),
            },
            () = tokio::time::sleep_until(end) => self.check(),
        }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn walk(
    client: &Client,
    mut beat: Beat,
    holding: &watch::Sender<Moment>,
    taken: &AtomicBool,
) -> Result<std::convert::Infallible, OutboxError> {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    let (desk, mut count_at) = (Desk::of(&beat.target), looked);
    loop {
        ticks.tick().await;
        let mut asked = Moment::now();
        let mut holder = holder_of(client, &beat.target, &beat.vitals).await?;
        if holder.is_none() {
            // The server has ended the stream, and the stream says why if it is given the time.
            tokio::time::sleep_until(Instant::now() + LAST_WORDS).await;
            asked = Moment::now();
            holder = holder_of(client, &beat.target, &beat.vitals).await?;
        }
        if holder != Some(beat.reader) {
            taken.store(holder.is_some(), Relaxed);
            return Err(no_longer_held(&beat.target.slot));
        }
        holding.send_replace(asked);
        beat.vitals.database_answered();
        watch_room(&beat.vitals);
        if looked.elapsed() >= beat.look_every {
            looked = Instant::now();
            look(client, &mut beat).await?;
        }
        if Instant::now() >= count_at {
            let answered = sight::desk(client, &desk, &beat.vitals).await;
            count_at = Instant::now() + if answered { beat.look_every } else { LET_BE };
        }
    }
}

pub(super) fn no_longer_held(slot: &str) -> OutboxError {
    OutboxError::transient(format!("slot {slot} is no longer held by this relay"))
}

/// Who holds the slot; what else the answer tells of it is noted.
pub(super) async fn holder_of(
    client: &Client,
    target: &Target,
    vitals: &Vitals,
) -> Result<Option<i32>, OutboxError> {
    let Some((holder, sight)) = sight::slot(client, target).await? else { return Ok(None) };
    vitals.see_slot(sight);
    Ok(holder)
}

/// Tells when the slot is about to be lost, and when that is over.
fn watch_room(vitals: &Vitals) {
    const ROOM: &str = "the room for the slot's log";
    let Some(slot) = vitals.slot(LET_BE) else { return };
    let (position, safe_bytes) = (vitals.position(), slot.safe_bytes);
    if !slot.is_filling() {
        if vitals.told().over(ROOM).is_some() {
            tracing::info!(position, safe_bytes, "the slot has room again");
        }
    } else if vitals.told().meet(ROOM).is_some() {
        let what = match safe_bytes.filter(|_| slot.wal_status.as_deref() != Some("unreserved")) {
            None => {
                "the slot is about to lose log that it needs: the next checkpoint may remove it".to_owned()
            }
            Some(safe) => format!(
                "the slot is lost, and rows with it, once another {} of log are written",
                size(i64::try_from(safe).unwrap_or(i64::MAX))
            ),
        };
        let room = slot.more_room();
        let advice = format!("at once: see with `walpost status` what keeps the slot from moving; {room}");
        tracing::warn!(position, safe_bytes, retained_bytes = slot.retained_bytes(), advice, "{what}");
    }
}

async fn look(client: &Client, beat: &mut Beat) -> Result<(), OutboxError> {
    let look = publication::look(client, &beat.target, &beat.table_oids, beat.server_version).await?;
    let last = beat.trail.last();
    let target = &beat.target;
    let Some(before) = &beat.published else { return Ok(()) };
    match before.compare(look.published.as_ref(), target) {
        Change::None => {}
        Change::Harmless(what) => tracing::warn!("{what}; nothing is skipped"),
        Change::Doubtful(what) => {
            let tables: Vec<_> = target.outboxes().map(|outbox| outbox.table.clone()).collect();
            let advice = last.map(|last| publication::mend(&last, &tables)).unwrap_or_default();
            tracing::warn!(advice, "{what}: if it did not publish inserts in between, rows are missing");
        }
        Change::Broken(what, tables) => {
            return Err(publication::skipped(&what, &tables, last.as_ref(), look.place.lsn));
        }
    }
    beat.published = look.published;
    beat.trail.passed(look.place);
    Ok(())
}
