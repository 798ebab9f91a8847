//! A server with one slot, as the real one behaves: it believes whatever it is told, skips a transaction if its
//! commit record starts before the confirmed position, and forgets the last confirmations when it crashes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use walpost::{Batch, Lsn, OutboxError};

use crate::checker::{Checker, Invariant, Ledger};
use crate::dice::Dice;
use crate::log::{Entry, Log};
use crate::stream::{Connection, Wire, told};

/// After so much silence the relay gives a connection up.
const SILENCE: Duration = Duration::from_secs(40);
/// A relay hangs up within this time when the server wants to stop.
const LEAVE: Duration = Duration::from_secs(12);

/// What happens to the server at a set time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The slot's position is saved.
    Checkpoint,
    /// The server dies, and is away for this long.
    Crash(Duration),
    /// It is told to stop fast: it waits for the client to confirm all or hang up, then is away for this long.
    FastStop(Duration),
}

#[derive(Debug)]
pub(crate) struct Server {
    start: Instant,
    events: VecDeque<(Instant, Event)>,
    /// The slot's position, and the one that would survive a crash.
    pub(crate) confirmed: Lsn,
    saved: Lsn,
    pub(crate) connection: Option<Connection>,
    pub(crate) connections: u64,
    held_until: Instant,
    away_until: Instant,
    stopping: Option<(Instant, Duration)>,
    sender_timeout: Duration,
    /// PostgreSQL 14 sends transactions that have no row for us.
    sends_empty: bool,
    most_per_fetch: usize,
}

/// What a fetch brings.
pub(crate) enum Fetch {
    Changes,
    /// Nothing before then.
    Wait(Instant),
}

/// What becomes of a status.
pub(crate) enum Sent {
    Gone(Result<(), OutboxError>),
    /// The socket is full for so long.
    Slow(Duration, Result<(), OutboxError>),
}

fn lost() -> OutboxError {
    OutboxError::transient("the connection is lost")
}

fn leaving() -> OutboxError {
    OutboxError::server("reading", "57P01", "terminating connection due to administrator command")
}

impl Server {
    pub(crate) fn new(log: &Log, span: Duration, dice: &mut Dice) -> Self {
        let start = Instant::now();
        let mut events = Vec::new();
        for _ in 0..dice.below(8) {
            events.push((start + span.mul_f64(dice.below(1000) as f64 / 1000.0), Event::Checkpoint));
        }
        for _ in 0..dice.below(6) {
            let away = dice.millis(4_000);
            let event = if dice.one_in(2) { Event::Crash(away) } else { Event::FastStop(away) };
            if dice.fault(2) {
                events.push((start + span.mul_f64(dice.below(1000) as f64 / 1000.0), event));
            }
        }
        events.sort_by_key(|(at, _)| *at);
        Server {
            start,
            events: events.into(),
            confirmed: log.end(),
            saved: log.end(),
            connection: None,
            connections: 0,
            held_until: start,
            away_until: start,
            stopping: None,
            sender_timeout: Duration::from_secs(30) + dice.millis(30_000),
            sends_empty: dice.one_in(2),
            most_per_fetch: dice.size(60),
        }
    }

    /// What was still to go wrong will not.
    pub(crate) fn heal(&mut self) {
        self.events.clear();
    }

    /// Lets everything happen that was due.
    pub(crate) fn advance(&mut self, now: Instant, log: &mut Log, checker: &mut Checker) {
        while let Some((at, event)) = self.events.front().copied().filter(|(at, _)| *at <= now) {
            self.events.pop_front();
            self.happen(at, event, checker);
        }
        while log.entries.get(log.committed).is_some_and(|entry| self.start + entry.at <= now) {
            if let Some(what) = log.commit() {
                checker.note(|| what);
            }
        }
        self.hear(now, checker);
        self.stop_if_possible(now, log, checker);
    }

    fn happen(&mut self, at: Instant, event: Event, checker: &mut Checker) {
        if at < self.away_until || self.stopping.is_some() {
            return;
        }
        checker.note(|| format!("server: {event:?}, slot at {}", self.confirmed));
        match event {
            Event::Checkpoint => self.saved = self.confirmed,
            Event::Crash(away) => {
                let falls_back = self.saved < self.confirmed;
                checker.happened(if falls_back { "server crash, slot falls back" } else { "server crash" });
                self.connection = None;
                self.confirmed = self.saved;
                self.away_until = at + away;
            }
            Event::FastStop(away) => self.stopping = Some((at, away)),
        }
    }

    /// Takes in the statuses that have arrived, and gives up a client that is silent.
    fn hear(&mut self, now: Instant, checker: &mut Checker) {
        let Some(connection) = &mut self.connection else { return };
        let passes = match connection.wire {
            Wire::Whole => true,
            Wire::Broken(_) => false,
            Wire::Frozen(until) => until <= now,
        };
        if passes && let Wire::Frozen(until) = connection.wire {
            connection.wire = Wire::Whole;
            connection.heard = connection.heard.max(until);
        }
        while passes && let Some((at, flush)) = connection.statuses.front().copied() {
            if at > now || at > connection.heard + self.sender_timeout {
                break;
            }
            connection.statuses.pop_front();
            connection.heard = at;
            connection.asked = false;
            // Whatever it is, and never backwards.
            self.confirmed = self.confirmed.max(flush);
        }
        if now > connection.heard + self.sender_timeout {
            let heard = now - connection.heard;
            if matches!(connection.wire, Wire::Whole) && !connection.ledger.is_excused(now) {
                checker.broken(Invariant::Silent, format!("no status for {} ms", heard.as_millis()));
            }
            checker.happened("sender timeout");
            checker.note(|| "server: gives up a silent client".to_owned());
            self.connection = None;
        }
    }

    /// A server that stops fast waits until the client has confirmed all or is gone.
    fn stop_if_possible(&mut self, now: Instant, log: &Log, checker: &mut Checker) {
        let Some((since, away)) = self.stopping else { return };
        if let Some(connection) = &self.connection {
            let all_sent = connection.entry >= log.committed;
            let all_confirmed = log.committed == 0 || self.confirmed >= log.entries[log.committed - 1].end;
            if !(all_sent && all_confirmed) {
                if now > since + LEAVE && !connection.ledger.is_excused(now) {
                    checker.broken(Invariant::Silent, "the relay does not let the server stop");
                    self.connection = None;
                }
                return;
            }
        }
        checker.happened("server stopped fast");
        checker.note(|| "server: has stopped".to_owned());
        (self.connection, self.stopping, self.saved) = (None, None, self.confirmed);
        self.away_until = now + away;
    }

    /// A new client asks for the stream.
    pub(crate) fn open(
        &mut self,
        owner: usize,
        now: Instant,
        log: &mut Log,
        dice: &mut Dice,
        checker: &mut Checker,
    ) -> Result<u64, OutboxError> {
        self.advance(now, log, checker);
        if now < self.away_until {
            return Err(OutboxError::transient("connection refused"));
        }
        if self.stopping.is_some() {
            return Err(OutboxError::server("connecting", "57P03", "the database system is shutting down"));
        }
        if self.connection.is_some() || now < self.held_until {
            checker.happened("slot in use");
            return Err(OutboxError::server("starting", "55006", "slot is active for PID 1"));
        }
        if dice.fault(40) {
            // Only a person can help, and one does.
            checker.happened("login refused");
            return Err(OutboxError::server("connecting", "28P01", "password authentication failed"));
        }
        self.connections += 1;
        let skipped = |entry: &Entry| match entry.is_transaction() {
            true => entry.commit_lsn < self.confirmed,
            false => entry.end <= self.confirmed,
        };
        let entry = log.entries.iter().position(|entry| !skipped(entry)).unwrap_or(log.entries.len());
        checker.note(|| format!("server: stream {} from {} on", self.connections, self.confirmed));
        self.connection = Some(Connection {
            id: self.connections,
            owner,
            entry,
            step: 0,
            sent: self.confirmed,
            owes_keepalive: dice.one_in(2),
            asked: false,
            heard: now,
            ready: now + dice.latency(3, 500),
            statuses: VecDeque::new(),
            wire: Wire::Whole,
            ledger: Ledger::new(log.writes_back),
        });
        Ok(self.connections)
    }

    fn connected(&mut self, id: u64) -> Result<&mut Connection, OutboxError> {
        self.connection.as_mut().filter(|connection| connection.id == id).ok_or_else(lost)
    }

    /// Whether nobody can be reached there.
    pub(crate) fn is_away(&self, now: Instant) -> bool {
        now < self.away_until
    }

    /// The ledger of that connection, if it still is one.
    pub(crate) fn ledger(&mut self, id: u64) -> Option<&mut Ledger> {
        self.connected(id).ok().map(|connection| &mut connection.ledger)
    }

    pub(crate) fn fetch(
        &mut self,
        id: u64,
        now: Instant,
        log: &mut Log,
        dice: &mut Dice,
        checker: &mut Checker,
        into: &mut Batch,
    ) -> Result<Fetch, OutboxError> {
        self.advance(now, log, checker);
        let (stopping, committed, most) = (self.stopping.is_some(), log.committed, self.most_per_fetch);
        let (sender_timeout, sends_empty) = (self.sender_timeout, self.sends_empty);
        let next = self.next_event(log);
        let connection = self.connected(id)?;
        connection.ledger.fetching(checker);
        connection.ledger.promptness(now, checker);
        if stopping {
            connection.ledger.excuse_for_good();
            return Err(leaving());
        }
        match connection.wire {
            Wire::Broken(since) if now >= since + SILENCE || dice.healed => {
                return Err(self.cut(now, dice, checker));
            }
            Wire::Broken(since) => return Ok(Fetch::Wait(since + SILENCE)),
            Wire::Frozen(until) if until > now => return Ok(Fetch::Wait(until)),
            Wire::Frozen(_) | Wire::Whole => {}
        }
        if dice.fault(50) {
            return Err(self.cut(now, dice, checker));
        }
        if dice.fault(150) {
            connection.wire = Wire::Broken(now);
            checker.happened("wire half open");
            checker.note(|| "wire: broken, and nobody is told".to_owned());
        } else if dice.fault(150) {
            connection.wire = Wire::Frozen(now + dice.millis(8_000));
            connection.ledger.excuse(now + Duration::from_secs(8));
            checker.happened("wire frozen");
            checker.note(|| "wire: frozen".to_owned());
        }
        if connection.ready > now {
            return Ok(Fetch::Wait(connection.ready));
        }
        let before = into.len();
        for _ in 0..dice.size(most) {
            connection.produce(committed, sends_empty, now, log, dice, into);
        }
        // Nobody waits behind what is not ours.
        while into.len() == before && connection.entry < committed {
            connection.produce(committed, sends_empty, now, log, dice, into);
        }
        if connection.entry >= committed && !connection.asked && now >= connection.heard + sender_timeout / 2
        {
            connection.asked = true;
            connection.say(true, into, now);
        }
        if into.len() == before {
            let ask = if connection.asked { next } else { next.min(connection.heard + sender_timeout / 2) };
            return Ok(Fetch::Wait(ask));
        }
        connection.ready = now + if dice.one_in(2) { Duration::ZERO } else { dice.latency(3, 1_000) };
        checker.note(|| format!("server: sends {}, now at {}", told(into, before), connection.sent));
        Ok(Fetch::Changes)
    }

    /// When something happens next.
    fn next_event(&self, log: &Log) -> Instant {
        let far = self.start + Duration::from_secs(86_400);
        let event = self.events.front().map_or(far, |(at, _)| *at);
        let commit = log.entries.get(log.committed).map_or(far, |entry| self.start + entry.at);
        event.min(commit)
    }

    /// The client is told that the connection is lost; the server may notice later.
    fn cut(&mut self, now: Instant, dice: &mut Dice, checker: &mut Checker) -> OutboxError {
        let inside = self.connection.as_ref().is_some_and(|connection| connection.step > 0);
        checker.happened(if inside { "cut inside a transaction" } else { "cut between transactions" });
        checker.note(|| "wire: cut".to_owned());
        self.hang_up(None, now, dice);
        lost()
    }

    /// The client is gone, or as good as gone. What it sent last may arrive or not.
    pub(crate) fn hang_up(&mut self, id: Option<u64>, now: Instant, dice: &mut Dice) {
        if id.is_some_and(|id| self.connected(id).is_err()) {
            return;
        }
        let Some(connection) = self.connection.take() else { return };
        let arrives = dice.index(connection.statuses.len() + 1);
        if let Some((_, flush)) = connection.statuses.iter().take(arrives).next_back() {
            self.confirmed = self.confirmed.max(*flush);
        }
        self.held_until = if dice.fault(3) { now + dice.millis(4_000) } else { now };
    }

    pub(crate) fn status(
        &mut self,
        id: u64,
        through: Lsn,
        now: Instant,
        log: &mut Log,
        dice: &mut Dice,
        checker: &mut Checker,
    ) -> Sent {
        self.advance(now, log, checker);
        checker.note(|| format!("relay: confirms {through}"));
        let stopping = self.stopping.is_some();
        let connection = match self.connected(id) {
            Ok(connection) => connection,
            Err(error) => return Sent::Gone(Err(error)),
        };
        connection.ledger.confirms(through, now, checker);
        if stopping {
            connection.ledger.excuse_for_good();
            return Sent::Gone(Err(leaving()));
        }
        if let Wire::Broken(since) = connection.wire {
            // The system gives up on unanswered bytes after a while.
            let noticed = dice.healed || now >= since + SILENCE / 2;
            return Sent::Gone(if noticed { Err(self.cut(now, dice, checker)) } else { Ok(()) });
        }
        let arrival = now + dice.latency(2, 200);
        let arrival = connection.statuses.back().map_or(arrival, |(before, _)| arrival.max(*before));
        // A status that fails may have arrived, and one that went out may be lost with the connection.
        if !dice.fault(20) || dice.one_in(2) {
            connection.statuses.push_back((arrival, through));
        } else if dice.one_in(2) {
            checker.happened("status lost and not told");
            self.hang_up(Some(id), now, dice);
            return Sent::Gone(Ok(()));
        }
        if dice.fault(25) {
            checker.happened("status failed");
            connection.ledger.excuse_for_good();
            return Sent::Gone(Err(self.cut(now, dice, checker)));
        }
        if dice.fault(25) {
            checker.happened("status slow");
            let slow = dice.millis(9_000);
            connection.ledger.excuse(now + slow);
            return Sent::Slow(slow, if dice.one_in(2) { Ok(()) } else { Err(lost()) });
        }
        Sent::Gone(Ok(()))
    }

    /// The client takes leave: everything that it sent arrives, unless it fails.
    pub(crate) fn close(&mut self, id: u64, now: Instant, dice: &mut Dice) -> Result<(), OutboxError> {
        let failed = dice.fault(10);
        let connection = self.connected(id)?;
        if failed {
            self.hang_up(Some(id), now, dice);
            return Err(lost());
        }
        let last = connection.statuses.back().map(|(_, flush)| *flush);
        self.confirmed = self.confirmed.max(last.unwrap_or(Lsn::ZERO));
        self.connection = None;
        self.held_until = now;
        Ok(())
    }
}
