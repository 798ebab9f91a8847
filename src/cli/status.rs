//! `walpost status`: where the slot stands, and how the relay is.

mod rates;
mod relay;
mod text;
mod unseen;
mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::interval;
use tokio_postgres::Row;

use self::rates::{LongTerm, Rates, Sample};
use self::relay::{Known, Relay};
use self::unseen::{Unseen, unreachable, without_slot};
use self::verdict::{Verdict, word_for_it};
use crate::cli::arguments::StatusArguments;
use crate::cli::output;
use crate::config::Config;
use crate::config::layers::BROKERS;
use crate::error::OutboxError;
use crate::lsn::Lsn;
use crate::postgres::{
    Behind, Cells, DeadLetterOffice, Obstacle, ScheduledTable, Session, StandingBy, Unpublished,
};
use crate::postgres::{Waiting, lag_sql, look_behind, standing_by};

/// One row of `sql/lag.sql`, what waits beside it, and what the relay says.
#[derive(Debug, Default, Serialize)]
struct Status {
    /// In a word: OK, BEHIND, NOBODY, STALLED, FILLING or LOST; with its reason and advice.
    #[serde(flatten)]
    verdict: Verdict,
    /// What else is wrong, the most urgent first.
    others: Vec<Verdict>,
    slot: String,
    active: bool,
    pid: Option<i32>,
    held_by: Option<String>,
    held_from: Option<String>,
    held_since: Option<String>,
    /// Relays that take over when the slot is free.
    standing_by: Vec<StandingBy>,
    /// What the relay says of itself, or why that is not known.
    relay: Relay,
    /// Why none could begin, while nobody reads the slot.
    obstacle: Option<Obstacle>,
    confirmed_lsn: Option<String>,
    current_lsn: String,
    lag_bytes: Option<i64>,
    lag_seconds: Option<f64>,
    /// The oldest row behind what is confirmed.
    oldest_unpublished: Option<Oldest>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_unpublished_unknown: Option<String>,
    retained_bytes: Option<i64>,
    safe_bytes: Option<i64>,
    wal_status: Option<String>,
    /// Why the server has given the slot up; known from 17 on.
    invalidation_reason: Option<String>,
    /// Since when nobody reads the slot; known from 17 on.
    inactive_since: Option<String>,
    #[serde(skip)]
    inactive_seconds: Option<f64>,
    /// The server's `max_slot_wal_keep_size`.
    max_kept: Option<String>,
    #[serde(flatten)]
    rates: Rates,
    /// How fast what is not confirmed grows, by the worse of these.
    growth_bytes_per_second: f64,
    /// When the slot is lost if it goes on like this; none if it is not, or nothing bounds it.
    lost_in_seconds: Option<f64>,
    /// What the server keeps log for, beyond what the relay has not confirmed.
    oldest_transaction: Option<OpenTransaction>,
    /// Open dead letters; none when there is no table, or it may not be read.
    dead_letters: Option<i64>,
    /// Rows that are due later; none as above.
    held: Option<i64>,
    /// When the first of them is due.
    next_due: Option<String>,
    /// Those of tables that the relay does not serve, which are not sent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    held_unserved: BTreeMap<String, i64>,
    /// Where these settings say that Kafka is, if they do.
    #[serde(skip)]
    brokers: Option<String>,
    /// By the server's clock, in seconds since 1970.
    #[serde(skip)]
    at: f64,
}

/// The oldest row that is committed and not confirmed.
#[derive(Debug, Default, Serialize)]
struct Oldest {
    /// Of its transaction, as in the header `walpost.lsn`.
    lsn: String,
    table: String,
    committed_at: String,
    /// How long it waits.
    seconds: f64,
}

/// The oldest transaction that has written and has not ended. Of a session of another user most is hidden, unless
/// the role may read all statistics.
#[derive(Debug, Default, Serialize)]
struct OpenTransaction {
    xid: String,
    pid: Option<i32>,
    /// The name of one that was prepared; no session has it.
    prepared: Option<String>,
    application: Option<String>,
    user: Option<String>,
    database: Option<String>,
    state: Option<String>,
    since: Option<String>,
    seconds: Option<f64>,
}

/// How long rates are measured.
const MEASURED: Duration = Duration::from_secs(1);
/// How long the server may search its log for the oldest row, or a table for any.
const SEARCH: Duration = Duration::from_secs(2);
/// How often relay and slot are asked again when they do not agree, and after which pause.
const AGAIN: u32 = 2;
const PAUSE: Duration = Duration::from_millis(400);

/// Prints position, lag, retained log and who holds the slot, and what all that means. With `check` it is an error if a
/// person is needed.
pub(super) async fn status(arguments: &StatusArguments, config: &Config) -> Result<(), OutboxError> {
    if let Some(seconds) = arguments.watch {
        return watch::watch(config, Duration::from_secs(seconds.into()), arguments.json).await;
    }
    let status = match Viewer::new(config).look().await {
        Ok(status) => status,
        Err(blind) => return Err(blind.told(arguments.json)?),
    };
    if arguments.json {
        output::say(&json(&status)?);
    } else {
        output::write(&status.text());
    }
    let urgent = std::iter::once(&status.verdict).chain(&status.others);
    let mut urgent = urgent.filter(|verdict| arguments.check && verdict.needs_a_person());
    match urgent.next() {
        Some(Verdict { word, reason, advice }) => {
            let advice = advice.as_deref().unwrap_or("see `walpost status`");
            Err(OutboxError::definite(format!("{word}: {reason}"), advice))
        }
        None => Ok(()),
    }
}

/// Why there is nothing to be told of the slot.
enum Blind {
    Told(Box<Unseen>),
    Error(OutboxError),
}

impl From<OutboxError> for Blind {
    fn from(error: OutboxError) -> Blind {
        Blind::Error(error)
    }
}

impl From<Unseen> for Blind {
    fn from(unseen: Unseen) -> Blind {
        Blind::Told(Box::new(unseen))
    }
}

impl Blind {
    /// Prints what is known all the same, and gives the error that the command ends with.
    fn told(self, as_json: bool) -> Result<OutboxError, OutboxError> {
        let told = match self {
            Blind::Told(told) => told,
            Blind::Error(error) => return Ok(error),
        };
        let text = if as_json { json(&*told)? + "\n" } else { told.text() };
        output::write(&text);
        Ok(told.error)
    }
}

/// Who looks, once or again and again.
struct Viewer<'a> {
    config: &'a Config,
    session: Option<Session>,
    /// What rates are measured from.
    before: Option<Sample>,
    system: Option<String>,
}

impl<'a> Viewer<'a> {
    fn new(config: &'a Config) -> Viewer<'a> {
        Viewer { config, session: None, before: None, system: None }
    }

    /// A look; the first one takes a second longer.
    async fn look(&mut self) -> Result<Status, Blind> {
        // Taken out, so that one that broke is not used again.
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                self.before = None;
                let session = match Session::open_any(&self.config.database).await {
                    Ok(session) => session,
                    Err(error) => return Err(unreachable(self.config, error).await.into()),
                };
                self.system = system(&session).await;
                session
            }
        };
        let status = self.look_through(&session).await?;
        self.session = Some(session);
        Ok(status)
    }

    async fn look_through(&mut self, session: &Session) -> Result<Status, Blind> {
        let config = self.config;
        let first = match self.before.take() {
            Some(before) => before,
            None => Sample::of(&slot(session, config).await?)?,
        };
        let mut clock = interval(MEASURED);
        clock.tick().await;
        let (behind, _) = tokio::join!(look_behind(&config.database, &config.target, SEARCH), clock.tick());
        let (mut status, sample) = self.slot_and_relay(session, &first).await?;
        status.standing_by = standing_by(session, &config.target.slot).await?;
        status.dead_letters = open_letters(session, config).await?;
        status.note_waiting(waiting(session, config).await?);
        status.brokers = Some(config.kafka.brokers.clone()).filter(|brokers| brokers != BROKERS.default);
        status.note_behind(behind);
        self.before = Some(sample);
        Ok(status.judged(Rates::between(&first, &sample)))
    }

    /// Both of one moment: while a relay comes or goes, one may know what the other does not.
    async fn slot_and_relay(&self, session: &Session, first: &Sample) -> Result<(Status, Sample), Blind> {
        let listen = self.config.observe.listen.as_deref();
        let (mut asked, mut clock) = (0, interval(PAUSE));
        loop {
            clock.tick().await;
            let (relay, row) = tokio::join!(relay::ask(listen), slot(session, self.config));
            let row = row?;
            let (mut status, sample) = (Status::of(&row)?, Sample::of(&row)?);
            let known = Known { slot: &status.slot, system: self.system.as_deref(), pid: status.pid };
            status.relay = relay.of(&known);
            if asked == AGAIN || status.agrees(Rates::between(first, &sample)) {
                return Ok((status, sample));
            }
            asked += 1;
        }
    }
}

fn json(told: &impl Serialize) -> Result<String, OutboxError> {
    serde_json::to_string(told).map_err(|error| OutboxError::connection("writing JSON", error))
}

async fn slot(session: &Session, config: &Config) -> Result<Row, Blind> {
    match session.query_one_row("reading the slot's position", &lag_sql(&config.target)?).await? {
        Some(row) => Ok(row),
        None => Err(without_slot(config, session).await.into()),
    }
}

/// The identifier of the database system, by which a relay says what it reads; some services hide it.
async fn system(session: &Session) -> Option<String> {
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    let row = session.query_one_row("asking for the system's identifier", sql).await.ok().flatten();
    row.and_then(|row| row.cell(0).ok())
}

impl Sample {
    fn of(row: &Row) -> Result<Sample, OutboxError> {
        let lsn = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let current = lsn(row.cell("current_lsn")?).unwrap_or(Lsn::ZERO);
        Ok(Sample { at: row.cell("at")?, current, confirmed: lsn(row.cell("confirmed_lsn")?) })
    }
}

/// How many messages wait as dead letters. A table that was set up by an earlier version, or is not granted, is
/// for `walpost check` to complain of.
async fn open_letters(session: &Session, config: &Config) -> Result<Option<i64>, OutboxError> {
    let office = DeadLetterOffice::of(&config.target);
    let rights = office.rights(session).await?;
    match office.require(rights.as_ref(), &["SELECT"]) {
        Ok(()) => office.count_open(session).await.map(Some),
        Err(_) => Ok(None),
    }
}

/// The rows that are due later. The table is there only where the outbox says when.
async fn waiting(session: &Session, config: &Config) -> Result<Option<Waiting>, OutboxError> {
    let table = ScheduledTable::of(&config.target);
    let rights = table.rights(session).await?;
    if config.target.outboxes().all(|outbox| outbox.mapping.due.is_none())
        || table.require(rights.as_ref(), &["SELECT"]).is_err()
    {
        return Ok(None);
    }
    table.waiting(session).await.map(Some)
}

impl Status {
    fn of(row: &Row) -> Result<Status, OutboxError> {
        Ok(Status {
            slot: row.cell("slot")?,
            active: row.cell("active")?,
            pid: row.cell("pid")?,
            held_by: row.cell("held_by")?,
            held_from: row.cell("held_from")?,
            held_since: row.cell("held_since")?,
            confirmed_lsn: row.cell("confirmed_lsn")?,
            current_lsn: row.cell("current_lsn")?,
            lag_bytes: row.cell("lag_bytes")?,
            lag_seconds: row.cell("lag_seconds")?,
            retained_bytes: row.cell("retained_bytes")?,
            safe_bytes: row.cell("safe_bytes")?,
            wal_status: row.cell("wal_status")?,
            invalidation_reason: row.cell("invalidation_reason")?,
            inactive_since: row.cell("inactive_since")?,
            inactive_seconds: row.cell("inactive_seconds")?,
            max_kept: row.cell("max_kept")?,
            oldest_transaction: OpenTransaction::of(row)?,
            at: row.cell("at")?,
            ..Status::default()
        })
    }

    fn note_waiting(&mut self, waiting: Option<Waiting>) {
        if let Some(Waiting { rows, next, unserved }) = waiting {
            (self.held, self.next_due, self.held_unserved) = (Some(rows), next, unserved);
        }
    }

    fn note_behind(&mut self, Behind { obstacle, oldest }: Behind) {
        self.obstacle = obstacle.filter(|_| !self.active);
        match oldest {
            Ok(found) => self.oldest_unpublished = found.map(|found| Oldest::of(&found, self.at)),
            Err(error) => self.oldest_unpublished_unknown = Some(error.chain()),
        }
    }

    /// Whether the relay's word and the slot can be of one moment: not if all is well and nobody reads, nor if it stands still
    /// and more is confirmed.
    fn agrees(&self, rates: Rates) -> bool {
        let Some(word) = &self.relay.word else { return true };
        let is_well = word_for_it(word).is_none();
        if self.active { is_well || rates.confirmed <= 0.0 } else { !is_well }
    }

    /// With what the figures mean.
    fn judged(self, rates: Rates) -> Status {
        let rates = Rates { long_term: LongTerm::of(&self), ..rates };
        let mut all = Verdict::all(&self, rates).into_iter();
        Status {
            verdict: all.next().unwrap_or_default(),
            others: all.collect(),
            rates,
            growth_bytes_per_second: rates.growth().max(0.0),
            lost_in_seconds: self.safe_bytes.and_then(|bytes| rates.used_up(bytes)),
            ..self
        }
    }

    fn lag(&self) -> i64 {
        self.lag_bytes.unwrap_or_default()
    }

    /// Whether the server has given the slot up.
    fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation_reason.is_some()
    }
}

impl Oldest {
    fn of(found: &Unpublished, now: f64) -> Oldest {
        let Unpublished { commit_lsn, committed_at, table } = found;
        let since = committed_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Oldest {
            lsn: commit_lsn.to_string(),
            table: table.clone(),
            committed_at: text::time(*committed_at),
            seconds: (now - since.as_secs_f64()).max(0.0),
        }
    }
}

impl OpenTransaction {
    fn of(row: &Row) -> Result<Option<OpenTransaction>, OutboxError> {
        let Some(xid) = row.cell("oldest_xid")? else { return Ok(None) };
        Ok(Some(OpenTransaction {
            xid,
            pid: row.cell("oldest_pid")?,
            prepared: row.cell("oldest_prepared")?,
            application: row.cell("oldest_application")?,
            user: row.cell("oldest_user")?,
            database: row.cell("oldest_database")?,
            state: row.cell("oldest_state")?,
            since: row.cell("oldest_since")?,
            seconds: row.cell("oldest_seconds")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::relay::Word;
    use super::*;

    #[test]
    fn a_word_and_a_slot_of_two_moments_do_not_agree() {
        let (still, moving) = (Rates::default(), Rates { confirmed: 1.0, ..Rates::default() });
        for (state, ready, active, rates, agree) in [
            ("streaming", true, true, moving, true),
            ("streaming", true, false, still, false),
            ("retrying", false, false, still, true),
            ("retrying", false, true, still, true),
            ("retrying", false, true, moving, false),
        ] {
            let word = Word { state: state.to_owned(), ready, ..Word::default() };
            let relay = Relay { word: Some(word), ..Relay::default() };
            let status = Status { active, relay, ..Status::default() };
            assert_eq!(status.agrees(rates), agree, "{state} {active} {rates:?}");
        }
        assert!(Status::default().agrees(still), "nobody says anything");
    }
}
