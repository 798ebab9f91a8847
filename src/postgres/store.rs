//! The log behind the slot as an outbox store.

mod opening;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{Client, Transaction};

use super::connection::{Connection, Wire};
use super::identity::{Memory, System, Trail, reader};
use super::intake::Intake;
use super::late::LateReader;
use super::letters::DeadLetterSession;
use super::lookout::{Beat, LAST_WORDS, LOOK_EVERY, Lookout};
use super::names::Target;
use super::preflight::{Preflight, inspect, inspect_write_back, read_seal};
use super::publication::{self, Look, Published};
use super::relations::Relations;
use super::schedule::{Means, Schedule};
use super::session::{self, Driver, Session, open_replication};
use super::settings::{Endpoint, Settings};
use super::sight;
use super::slot;
use super::standing_by::Sign;
use super::table::{DeadLetterTable, OutboxTable, ScheduledTable, WriteBackTable};
use super::takeover::Patience;
use super::wal::StandbyStatus;
use super::wire::{is_unix, place};
use super::write_back::RowSession;
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::message::OutboxMessage;
use crate::store::{Batch, OutboxStore};
use crate::vitals::{Reads, Vitals};
use crate::write_back::{WriteBack, WriteBackMode};

/// A server that says nothing for this long, though it was asked to, is gone. Longer than half of the
/// session's `wal_sender_timeout`, at which a server that is busy with rows of other tables speaks up.
const SILENCE: Duration = Duration::from_secs(40);
/// After this much silence a status asks for an answer.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// While no stream is open, the slot is looked at for metrics this often at most.
const SEEN_AGAIN: Duration = Duration::from_secs(5);
/// How long a status may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the log again and again, each time from where the slot stands.
#[derive(Debug)]
pub struct ReplicationSource {
    settings: Settings,
    target: Target,
    /// A value came in a binary form that we can't read: ask for text from now on.
    text_only: Arc<AtomicBool>,
    /// The slot was there before: if it is missing now, rows may be lost, and making a new one would
    /// hide that.
    slot_was_there: bool,
    /// The database was looked at, so that what is missing there is known.
    looked: bool,
    dead_letters: DeadLetterTable,
    memory: Memory,
    /// The publication as it was last seen.
    published: Option<Published>,
    look_every: Duration,
    /// The thread has nothing else to do.
    may_sleep: bool,
    patience: Patience,
    /// While another relay holds the slot.
    sign: Option<Sign>,
    vitals: Arc<Vitals>,
    /// Warnings that were given before: a relay that stands by looks again and again.
    warned: HashSet<String>,
}

impl ReplicationSource {
    /// A source that will connect with these settings.
    #[must_use]
    pub fn new(settings: Settings, target: Target) -> Self {
        ReplicationSource {
            dead_letters: DeadLetterTable::of(&target, false),
            settings,
            target,
            text_only: Arc::default(),
            slot_was_there: false,
            looked: false,
            memory: Memory::default(),
            published: None,
            look_every: LOOK_EVERY,
            may_sleep: false,
            patience: Patience::default(),
            sign: None,
            vitals: Arc::default(),
            warned: HashSet::new(),
        }
    }

    /// Asks for a table of dead letters, without which a relay that parks must not run.
    #[must_use]
    pub fn with_dead_letters(mut self) -> Self {
        self.dead_letters = DeadLetterTable::of(&self.target, true);
        self
    }

    /// Tells `vitals` when the server has answered.
    #[must_use]
    pub fn with_vitals(mut self, vitals: Arc<Vitals>) -> Self {
        self.vitals = vitals;
        self
    }

    /// Looks at the publication this often while streaming, instead of every ten seconds.
    #[must_use]
    pub fn looking_every(mut self, interval: Duration) -> Self {
        self.look_every = interval;
        self
    }

    /// Says that the thread which fetches has nothing else to do: it may sleep for a millisecond while the server is
    /// behind, which then sends more at once.
    #[must_use]
    pub fn on_its_own_thread(mut self) -> Self {
        self.may_sleep = true;
        self
    }

    /// Connects, checks what a relay needs, makes the slot if it never existed, and starts the stream.
    ///
    /// # Errors
    /// No server can be reached, the slot is in use, or something that only a person can mend is wrong.
    pub async fn open(&mut self) -> Result<ReplicationStore, OutboxError> {
        let mut last = OutboxError::usage("no host to connect to", "set PGHOST or the database URL");
        for endpoint in session::servers(&self.settings).await {
            match self.open_at(&endpoint).await {
                Ok(store) => {
                    self.sign = None;
                    return Ok(store);
                }
                Err(error) if error.is_slot_in_use() => return Err(error),
                // What only a person can mend is told, even if another host is merely away.
                Err(error) if last.is_usage() || last.is_transient() => last = error,
                Err(_) => {}
            }
        }
        self.sign = None;
        Err(last)
    }

    async fn open_at(&mut self, endpoint: &Endpoint) -> Result<ReplicationStore, OutboxError> {
        let session = Session::open_steady(endpoint).await?;
        if self.vitals.since_slot_seen().is_none_or(|since| since >= SEEN_AGAIN) {
            // A relay that stands by, or can't begin, tells of the slot as well.
            sight::look(session.client(), &self.target, &self.vitals).await;
        }
        // All the rest is looked at once that matters: a relay that stands by looks again and again.
        if self.looked
            && let Err(error) = self.find_free(&session).await
        {
            return Err(self.show(error, session).await);
        }
        let mut report = inspect(&session, &self.target).await?;
        self.looked = true;
        inspect_write_back(&session, &self.target, &mut report).await?;
        if self.published.is_some() && report.fails_at(&["table", "mapping", "publication"]) {
            // What has changed says more than what is wrong.
            self.look(&session, &report).await?;
        }
        let preflight = report.passed()?;
        if let Some(pid) = preflight.slot_holder {
            let error = self.stand_by(&session, pid).await?;
            return Err(self.show(error, session).await);
        }
        self.ensure_slot(&session, &preflight).await?;
        let mut connection = open_replication(endpoint).await?;
        let system = System::identify(&mut connection).await?;
        let reader = reader(&mut connection).await?;
        let (timeline, id) = (system.timeline, system.id.clone());
        self.memory.meet(system, &place(&endpoint.config))?;
        let look = self.look(&session, &preflight).await?;
        let at = slot::position(&session, &self.target.slot).await?;
        self.memory.resume(at, &self.target)?;
        let binary = preflight.is_binary() && !self.text_only.load(Relaxed);
        let started = connection.copy_both(&slot::start_command(&self.target, binary)).await;
        self.memory.shared |= started.as_ref().is_err_and(OutboxError::is_slot_in_use);
        started?;
        let (server, security) = (place(&endpoint.config), session.security());
        // The same one again is no news: lives may end at once, one after the other.
        let same = format!("reading the log of {server} ({security}, {id}, {timeline}, {binary})");
        if self.vitals.told().meet(&same).is_some() {
            tracing::info!(
                server, connection = %security, slot = self.target.slot, confirmed = %at, system = id, timeline, binary,
                "reading the log"
            );
        }
        self.vitals.reading(Reads { system: id, pid: reader });
        let letters = (endpoint.clone(), self.dead_letters.read_by(reader));
        Ok(self.stream(connection, reader, session, letters, &preflight, look))
    }

    fn stream(
        &self,
        connection: Connection<Box<dyn Wire>>,
        reader: i32,
        session: Session,
        letters: (Endpoint, DeadLetterTable),
        preflight: &Preflight,
        look: Look,
    ) -> ReplicationStore {
        let (client, driver) = session.into_parts();
        let client = Arc::new(client);
        let late = if self.may_sleep {
            LateReader::sleeping(is_unix(&letters.0.config))
        } else {
            LateReader::default()
        };
        let trail = Arc::clone(&self.memory.trail);
        trail.passed(look.place);
        self.vitals.database_answered();
        self.vitals.log_heard();
        let beat = Beat {
            target: self.target.clone(),
            reader,
            table_oids: preflight.oids(),
            server_version: preflight.server_version,
            published: look.published,
            look_every: self.look_every,
            trail: Arc::clone(&trail),
            vitals: Arc::clone(&self.vitals),
        };
        let mut schedule = Schedule::new(Means {
            endpoint: letters.0.clone(),
            table: ScheduledTable::of(&self.target).read_by(reader),
            beside: Arc::clone(&client),
            written_back: self.target.write_back != WriteBackMode::None,
            vitals: Arc::clone(&self.vitals),
        });
        if preflight.delivers_later {
            schedule.start();
        }
        ReplicationStore {
            connection,
            driver,
            lookout: Lookout::start(Arc::clone(&client), beat),
            schedule,
            withheld: Batch::new(),
            client,
            letters,
            write_back: preflight.tables.iter().filter_map(|table| table.write_back.clone()).collect(),
            trail,
            intake: Intake::new(
                &self.target,
                Relations::new(&self.target, preflight),
                preflight.seal.clone(),
                Arc::clone(&self.text_only),
            ),
            target: self.target.clone(),
            table: OutboxTable::of(self.target.main.table.clone()),
            heard: Instant::now(),
            late,
            listening: None,
            failure: None,
            left: false,
            vitals: Arc::clone(&self.vitals),
        }
    }
}

/// A stream of changes from one slot.
pub struct ReplicationStore {
    connection: Connection<Box<dyn Wire>>,
    /// Of the session beside the stream.
    client: Arc<Client>,
    /// Where dead letters are kept, and how to get there.
    letters: (Endpoint, DeadLetterTable),
    /// How rows are written back, if they are.
    write_back: Vec<WriteBackTable>,
    /// Hears first when the server shuts down.
    driver: Driver,
    lookout: Lookout,
    target: Target,
    trail: Arc<Trail>,
    intake: Intake,
    schedule: Schedule,
    /// What follows rows that are not stored yet.
    withheld: Batch,
    table: OutboxTable,
    heard: Instant,
    late: LateReader,
    /// Since when somebody fetches; `None` while the window is closed.
    listening: Option<Instant>,
    /// What went wrong behind the changes that are already handed out.
    failure: Option<OutboxError>,
    /// Changes were dropped, in search of what goes wrong: nothing may be handed out any more.
    left: bool,
    vitals: Arc<Vitals>,
}

impl OutboxStore for ReplicationStore {
    type Transaction<'t> = Transaction<'t>;

    async fn save<'t>(
        &'t self,
        transaction: &'t Transaction<'t>,
        message: &'t OutboxMessage,
    ) -> Result<(), OutboxError> {
        self.table.save(transaction, message).await
    }

    async fn fetch_pending(&mut self, into: &mut Batch) -> Result<(), OutboxError> {
        let before = into.len();
        loop {
            let listening = *self.listening.get_or_insert_with(Instant::now);
            // Before anything is handed out: what came while this process stood still is not ours any more.
            if let Err(error) = self.lookout.check() {
                return Err(self.last_words().await.unwrap_or(error));
            }
            if self.left {
                return Err(OutboxError::transient("changes of this stream were dropped as it was left"));
            }
            if self.intake.doubts_the_seal() {
                self.look_at_seal().await?;
            }
            let storing = self.schedule.is_storing() || self.hand_out(into)?;
            if into.len() > before {
                return Ok(());
            }
            if self.failure.is_some() && !storing {
                continue;
            }
            if !storing && !self.connection.is_in_large_frame() {
                self.late.rest(self.intake.behind(), self.heard.elapsed());
            }
            // Each branch may be dropped at any await: what was read is in the buffer, and nothing else
            // is held across it.
            tokio::select! {
                biased;
                result = self.connection.fill(), if !storing => {
                    self.late.has_read(result?);
                    self.heard = Instant::now();
                    self.vitals.log_heard();
                }
                error = self.driver.ended() => return Err(error),
                result = self.schedule.answered() => {
                    result?;
                    // The stream was not read meanwhile, so that silence was no news.
                    self.listening = None;
                    self.vitals.log_heard();
                }
                result = self.lookout.changed() => result?,
                () = sleep_until(self.heard.max(listening) + SILENCE), if !storing => {
                    return Err(OutboxError::transient("the server has not answered for 40 s"));
                }
            }
        }
    }

    async fn mark_published(&mut self, through: Lsn) -> Result<(), OutboxError> {
        // While the window is closed nobody fetches, and this is where the server's leave is noticed: it
        // waits for ever on a relay that goes on answering.
        if self.driver.has_ended() {
            return Err(self.driver.ended().await);
        }
        if let Err(error) = self.lookout.check() {
            return Err(self.last_words().await.unwrap_or(error));
        }
        if self.listening.take().is_none() {
            // Nobody has fetched since the last status, so that silence is no news.
            self.vitals.log_heard();
        }
        self.trail.confirming(through);
        let status = StandbyStatus {
            write: self.intake.received(),
            flush: through,
            apply: through,
            clock: SystemTime::now(),
            reply_requested: self.heard.elapsed() >= ASK_AFTER,
        };
        status.append_frame(self.connection.output());
        match timeout(SEND_TIMEOUT, self.connection.flush()).await {
            Ok(result) => result,
            Err(_) => Err(OutboxError::transient("the server takes no more bytes")),
        }
    }

    async fn last_words(&mut self) -> Option<OutboxError> {
        let kept = self.failure.take_if(|failure| !failure.is_transient());
        let was_left = std::mem::replace(&mut self.left, true);
        if kept.is_some() || was_left || !self.lookout.may_listen() {
            return kept;
        }
        let listen = async {
            let mut dropped = Batch::new();
            loop {
                self.take_all(&mut dropped);
                dropped.clear();
                self.withheld.clear();
                let held = std::mem::take(self.intake.held());
                if let Some(failure) = self.failure.take() {
                    return failure;
                }
                if held.is_full() {
                    continue;
                }
                if let Err(failure) = self.connection.fill().await {
                    return failure;
                }
            }
        };
        timeout(LAST_WORDS, listen).await.ok().filter(|failure| !failure.is_transient())
    }

    fn write_back(&self) -> Option<Box<dyn WriteBack>> {
        let (endpoint, tables) = (self.letters.0.clone(), self.write_back.clone());
        if tables.is_empty() {
            None
        } else {
            Some(Box::new(RowSession::new(endpoint, tables, Arc::clone(&self.client))))
        }
    }

    async fn close(self) -> Result<(), OutboxError> {
        self.connection.finish().await
    }
}

impl ReplicationStore {
    /// Where the dead letters of this stream are kept, by a session of their own.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetterSession {
        let (endpoint, table) = self.letters.clone();
        DeadLetterSession::new(endpoint, table, Arc::clone(&self.client))
    }

    /// Looks whether the seal was changed: then the next life begins with the new one.
    async fn look_at_seal(&mut self) -> Result<(), OutboxError> {
        let (secret, as_of) = read_seal(&self.client, &self.target).await?;
        if self.intake.compare_seal(secret, as_of)? {
            self.failure = None;
        }
        Ok(())
    }

    /// Passes on what may be passed on, and tells whether rows are being stored that must be stored first.
    fn hand_out(&mut self, into: &mut Batch) -> Result<bool, OutboxError> {
        // In a life that holds nothing back, this is all that it costs.
        if !self.withheld.is_empty() {
            into.append(&mut self.withheld);
            return Ok(false);
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.take_all(into);
        let held = std::mem::take(self.intake.held());
        let storing = !held.is_empty();
        if storing {
            self.schedule.store(held);
        }
        self.schedule.has_read(self.intake.received());
        Ok(storing)
    }

    /// Passes on everything that has been read. What goes wrong is kept until the changes before it have
    /// been fetched, so that they are published and confirmed first.
    fn take_all(&mut self, into: &mut Batch) {
        // Behind a failure comes nothing that is worth its place.
        while self.failure.is_none() && !self.intake.held().is_full() {
            let out = if self.intake.held().is_empty() { &mut *into } else { &mut self.withheld };
            let taken = match self.connection.next_event() {
                Ok(Some(event)) => self.intake.take(event, out),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                self.failure = Some(publication::explained(error, &self.trail, &self.target));
            }
        }
    }
}
