//! Rows that are sent later, kept and released by a task with a session of its own.
//!
//! ```text
//!   what a stream holds back ──► stored ──► and only then what follows it goes on
//!   when the first is due    ──► released: written into the log again, through which it comes back as a row to send
//! ```
//!
//! By a session of its own, as dead letters are: a statement that waits for a lock must not hold up the lease. In one task,
//! so that the next due time is known. It ends with the stream, and writes only while the slot is the stream's.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_postgres::Client;

use super::session::Session;
use super::settings::Endpoint;
use super::table::{HeldRows, Look, ScheduledTable};
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::vitals::{News, Vitals, millis};

/// Due rows are looked for this often at least: somebody may change their times, and a clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whether a transaction can be seen is asked so often.
const SEEN_EVERY: Duration = Duration::from_millis(50);
/// The shortest time between two looks.
const LOOK_GAP: Duration = Duration::from_millis(2);
/// The stream has so long to bring what was written out, before a record is written for it.
const WRITE_OUT_AFTER: Duration = Duration::from_millis(20);
/// After this long it is told that the table does not answer, or that somebody holds what is due.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// The table's name among what was told.
const SILENT: &str = "the table of rows for later";

/// What the task works with.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) endpoint: Endpoint,
    pub(super) table: ScheduledTable,
    /// The session beside the stream.
    pub(super) beside: Arc<Client>,
    /// Rows are written back once they are published, and so must be there by then.
    pub(super) written_back: bool,
    pub(super) vitals: Arc<Vitals>,
}

/// The task, made when it is needed, and ended when this is dropped.
pub(super) struct Schedule {
    means: Means,
    running: Option<Running>,
    storing: bool,
}

struct Running {
    task: JoinHandle<()>,
    rows: mpsc::Sender<HeldRows>,
    reading: watch::Sender<Lsn>,
    answers: mpsc::Receiver<Result<(), OutboxError>>,
}

impl Schedule {
    pub(super) fn new(means: Means) -> Self {
        Schedule { means, running: None, storing: false }
    }

    /// Releases from now on what is due.
    pub(super) fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        let (rows, to_store) = mpsc::channel(1);
        let (answer, answers) = mpsc::channel(1);
        let (reading, read) = watch::channel(Lsn::ZERO);
        let means = self.means.clone();
        let task = tokio::spawn(async move {
            let worked = async {
                let session = attend(&means, Session::open_beside(&means.endpoint, &means.beside)).await?;
                Worker { means: &means, session, rows: to_store, read, answer: &answer }.work().await
            };
            let Err(error) = worked.await;
            means.vitals.holding_back(false);
            // The stream may be gone already.
            let _ = answer.send(Err(error)).await;
            answer.closed().await;
        });
        self.running = Some(Running { task, rows, reading, answers });
    }

    /// The stream has read so far, and asked for what it holds back of that to be stored.
    pub(super) fn has_read(&self, log: Lsn) {
        if let Some(running) = &self.running {
            running.reading.send_if_modified(|read| std::mem::replace(read, log) != log);
        }
    }

    /// Whether rows are being stored: nothing that follows them may be handed out.
    pub(super) fn is_storing(&self) -> bool {
        self.storing
    }

    /// Stores rows; [`answered`](Self::answered) tells when that is done. Not while others are being stored.
    pub(super) fn store(&mut self, rows: HeldRows) {
        self.start();
        if let Some(running) = &self.running {
            // There is room for one batch, and if the task has ended, it has said why.
            let _ = running.rows.try_send(rows);
            self.storing = true;
        }
    }

    /// Waits until rows are stored. Cancel-safe.
    ///
    /// # Errors
    /// Rows could not be stored, or not released.
    pub(super) async fn answered(&mut self) -> Result<(), OutboxError> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let answer = running.answers.recv().await;
        answer
            .unwrap_or_else(|| Err(OutboxError::transient("the task that keeps rows for later has ended")))?;
        self.storing = false;
        Ok(())
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
        self.means.vitals.holding_back(false);
    }
}

/// The task.
struct Worker<'a> {
    means: &'a Means,
    session: Session,
    rows: mpsc::Receiver<HeldRows>,
    read: watch::Receiver<Lsn>,
    answer: &'a mpsc::Sender<Result<(), OutboxError>>,
}

impl Worker<'_> {
    async fn work(&mut self) -> Result<Infallible, OutboxError> {
        let table = &self.means.table;
        let mut locked = Locked::default();
        loop {
            let look = attend(self.means, table.look(self.session.client())).await?;
            if look.rest > Duration::ZERO {
                locked = Locked::default();
                self.rest(look.rest).await?;
                continue;
            }
            tracing::debug!(log = %look.log, "rows are due");
            self.has_read(&look).await?;
            if !self.release(&look).await? {
                let wait = locked.next().min(look.next);
                if self.rest(wait).await? && locked.is_long(wait) {
                    self.tell_who_has_it().await?;
                }
            }
        }
    }

    /// Waits so long, or until rows were stored, whose times may be sooner. Whether it was so long.
    async fn rest(&mut self, wait: Duration) -> Result<bool, OutboxError> {
        match timeout(wait.clamp(LOOK_GAP, LOOK_EVERY), self.rows.recv()).await {
            Ok(rows) => self.store(rows).await.map(|()| false),
            Err(_) => Ok(true),
        }
    }

    /// Releases all that was due then. Whether that was anything: what somebody has locked is passed over.
    async fn release(&mut self, look: &Look) -> Result<bool, OutboxError> {
        let table = &self.means.table;
        let mut any = false;
        loop {
            let rows = attend(self.means, table.release(self.session.client(), &look.clock)).await?;
            if rows == 0 {
                return Ok(any);
            }
            any = true;
            tracing::debug!(rows, "wrote rows that are due into the log");
            self.store_what_waits().await?;
        }
    }

    /// Waits until the stream has brought, and this task stored, all that may be due by then: only so it is in order.
    /// It costs nothing, since what is released stands behind all of that in the log.
    async fn has_read(&mut self, look: &Look) -> Result<(), OutboxError> {
        let mut wait = WRITE_OUT_AFTER;
        while *self.read.borrow_and_update() < look.log {
            let heard = timeout(wait, async {
                tokio::select! {
                    biased;
                    rows = self.rows.recv() => Ok(Some(rows)),
                    read = self.read.changed() => read.map(|()| None),
                }
            });
            match heard.await {
                Ok(heard) => {
                    if let Some(rows) = heard.map_err(|_| ended())? {
                        self.store(rows).await?;
                    }
                }
                Err(_) => {
                    // The log may be written out up to the middle of a record, whose rest nobody is in a hurry for.
                    attend(self.means, self.means.table.write_out(self.session.client())).await?;
                    wait = Duration::MAX;
                }
            }
        }
        self.store_what_waits().await
    }

    async fn tell_who_has_it(&self) -> Result<(), OutboxError> {
        let table = &self.means.table;
        let who = attend(self.means, table.locked_by(self.session.client())).await?;
        tracing::warn!(
            advice = "wait for that transaction, or end it: SELECT pg_terminate_backend(<PID>)",
            "rows of {} are due and can't be sent: locked by {}",
            table.name(),
            who.as_deref().unwrap_or("another session")
        );
        Ok(())
    }

    async fn store_what_waits(&mut self) -> Result<(), OutboxError> {
        match self.rows.try_recv() {
            Ok(rows) => self.store(Some(rows)).await,
            Err(_) => Ok(()),
        }
    }

    async fn store(&mut self, rows: Option<HeldRows>) -> Result<(), OutboxError> {
        let rows = rows.ok_or_else(ended)?;
        let seen = attend(self.means, self.means.table.hold(self.session.client(), &rows)).await?;
        if self.means.written_back && !seen {
            attend(self.means, self.seen(&rows)).await?;
        }
        // There is room: who asks waits for the answer before asking again.
        let _ = self.answer.send(Ok(())).await;
        Ok(())
    }

    /// Waits until everybody sees the transactions of rows. One that is released knows its own transaction no more: if nobody
    /// saw that when its record is acknowledged, it would be taken for gone, and stay unmarked.
    async fn seen(&self, rows: &HeldRows) -> Result<(), OutboxError> {
        let mut ticks = interval(SEEN_EVERY);
        while !self.means.table.sees(self.session.client(), rows).await? {
            ticks.tick().await;
        }
        Ok(())
    }
}

/// How long rows have been due that somebody has locked.
#[derive(Default)]
struct Locked {
    wait: Duration,
    waited: Duration,
    told: bool,
}

impl Locked {
    /// How long to wait before the next try: each time longer, since each costs the server a transaction.
    fn next(&mut self) -> Duration {
        self.wait = (self.wait * 2).clamp(LOOK_GAP, LOOK_EVERY);
        self.wait
    }

    /// Whether it is long, with this wait, and was not told.
    fn is_long(&mut self, wait: Duration) -> bool {
        self.waited += wait;
        self.waited >= TOLD_AFTER && !std::mem::replace(&mut self.told, true)
    }
}

fn ended() -> OutboxError {
    OutboxError::transient("the stream has ended")
}

/// Waits for a statement, however long it takes, and tells when that is long.
async fn attend<T>(
    means: &Means,
    statement: impl Future<Output = Result<T, OutboxError>>,
) -> Result<T, OutboxError> {
    let mut statement = std::pin::pin!(statement);
    means.vitals.holding_back(true);
    let told = means.vitals.told();
    let answer = loop {
        if let Ok(answer) = timeout(TOLD_AFTER, &mut statement).await {
            break answer;
        }
        if let Some(News { lasted, .. }) = told.meet(SILENT) {
            let waited = lasted + TOLD_AFTER;
            tracing::warn!(
                position = means.vitals.position(),
                advice = "see pg_stat_activity for who locks it, and whether a synchronous standby is away",
                lasted_ms = millis(waited),
                "waiting: {} has not answered for {} s",
                means.table.name(),
                waited.as_secs()
            );
        }
    };
    if answer.is_ok()
        && let Some(lasted) = told.over(SILENT)
    {
        let (position, lasted_ms) = (means.vitals.position(), millis(lasted + TOLD_AFTER));
        tracing::info!(position, lasted_ms, "{} answers again", means.table.name());
    }
    means.vitals.holding_back(false);
    answer
}
