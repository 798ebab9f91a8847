//! What must hold: a ledger of each connection that knows nothing of the relay's own bookkeeping, and the list of
//! what was broken.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use walpost::Lsn;

use crate::letters::Fate;
use crate::log::{Log, RowId};

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Invariant {
    /// I1: what is confirmed is acknowledged, with everything before it.
    ConfirmedIsAcknowledged,
    /// I2: what is confirmed never falls within a connection and was received on it.
    ConfirmedIsReceived,
    /// I3: every committed row arrives.
    Lost,
    /// I4: nothing else arrives.
    Invented,
    /// I5: first arrivals in commit order, repeats as one piece of it.
    Reordered,
    /// I6: nothing is repeated but what was in flight, and after a stop nothing at all.
    Repeated,
    /// I7: once all is well the slot comes to the end of the log.
    Stuck,
    /// I8: what is read and not yet taken by the publisher is one fetch at most.
    Unbounded,
    /// The server never has to wait: for a sign of life, or for the relay's leave.
    Silent,
    /// I9: nobody is parked without a fault of its own, its topic's or its key's.
    Blamed,
    /// I10: no row is marked as published before the relay was told that it is.
    MarkedEarly,
    /// I11: every published row is marked in the end.
    Unmarked,
    /// Whatever comes is answered by an error.
    Panic,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Invariant::ConfirmedIsAcknowledged => "I1 confirmed unacknowledged",
            Invariant::ConfirmedIsReceived => "I2 confirmed unreceived",
            Invariant::Lost => "I3 lost",
            Invariant::Invented => "I4 invented",
            Invariant::Reordered => "I5 reordered",
            Invariant::Repeated => "I6 repeated",
            Invariant::Stuck => "I7 stuck",
            Invariant::Unbounded => "I8 unbounded",
            Invariant::Silent => "silent",
            Invariant::Blamed => "I9 parked without a cause",
            Invariant::MarkedEarly => "I10 marked unpublished",
            Invariant::Unmarked => "I11 published unmarked",
            Invariant::Panic => "panic",
        })
    }
}

/// How long a confirmation may wait for its status: the shortest time between two, and the clock's steps.
const STATUS_PATIENCE: Duration = Duration::from_millis(110);

/// What was broken, and what happened before.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) violations: Vec<(Invariant, String)>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) happened: BTreeMap<&'static str, u64>,
    start: Option<Instant>,
}

impl Checker {
    pub(crate) fn new(traced: bool) -> Self {
        let start = Some(Instant::now());
        Checker { trace: traced.then(Vec::new), start, ..Checker::default() }
    }

    pub(crate) fn broken(&mut self, invariant: Invariant, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("BROKEN {invariant}: {what}"));
        self.violations.push((invariant, what));
    }

    /// Counts what happens to the relay, so that a fault that is never tried is noticed.
    pub(crate) fn happened(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// Adds to the trace, if there is one.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.start.map_or(0, |start| start.elapsed().as_millis());
            trace.push(format!("{at:>7} ms  {}", what()));
        }
    }

    /// After all has healed and settled.
    pub(crate) fn finish(&mut self, log: &Log) {
        for (id, row) in log.rows_of_all() {
            let at = log.position(id);
            let kept = log.letters.get(at);
            if kept.is_some_and(|kept| kept.is_open()) {
                self.broken(Invariant::Stuck, format!("{id:?} at {at} is still a letter"));
            } else if row.arrivals == 0 && kept.is_none() {
                self.broken(Invariant::Lost, format!("{id:?} at {at} never arrived"));
            } else if log.parks && !row.seen && !kept.is_some_and(|kept| kept.fate != Fate::Sent) {
                self.broken(Invariant::Lost, format!("{id:?} at {at} came behind what came before"));
            }
            let stays = kept.is_some_and(|kept| kept.fate != Fate::Sent);
            if log.writes_back && !row.marked && !stays {
                self.broken(Invariant::Unmarked, format!("{id:?} at {at} is not marked"));
            } else if row.marked && row.arrivals == 0 {
                self.broken(Invariant::MarkedEarly, format!("{id:?} at {at} is marked and never arrived"));
            }
        }
    }
}

/// What one connection has been told, and what may therefore be confirmed on it.
#[derive(Debug)]
pub(crate) struct Ledger {
    steps: VecDeque<Step>,
    open: bool,
    /// The highest position that the relay was told.
    received: Lsn,
    /// The highest position that may be confirmed.
    allowed: Lsn,
    /// The position that was confirmed last.
    sent: Lsn,
    /// Since when a higher one might be.
    late_since: Option<Instant>,
    /// Until when, or for good, a late status has another reason.
    excused: Option<Instant>,
    /// Until when it waits for a statement: receipts are taken in when that is done.
    asking: Option<Instant>,
    ended: bool,
    /// A message was refused: the next one shows whether the relay goes on.
    refused: Option<RowId>,
    /// So many rows are no messages and not yet parked.
    doubtful: usize,
    acknowledged: HashSet<RowId>,
    /// Those that were written back, or need not be; none if none are.
    marked: Option<HashSet<RowId>>,
    taken: HashSet<RowId>,
    /// Requests to replay letters that were met.
    met: HashSet<Lsn>,
    /// The request whose letters are all sent or refused.
    answered: Option<Lsn>,
    /// Rows handed to the relay and not taken by the publisher.
    waiting: usize,
}

#[derive(Debug)]
enum Step {
    Row(RowId),
    /// Somebody has touched the letters.
    Request(Lsn),
    End(Lsn),
}

impl Ledger {
    pub(crate) fn new(writes_back: bool) -> Self {
        Ledger {
            marked: writes_back.then(HashSet::new),
            steps: VecDeque::new(),
            open: false,
            received: Lsn::ZERO,
            allowed: Lsn::ZERO,
            sent: Lsn::ZERO,
            late_since: None,
            excused: None,
            asking: None,
            ended: false,
            refused: None,
            doubtful: 0,
            acknowledged: HashSet::new(),
            taken: HashSet::new(),
            met: HashSet::new(),
            answered: None,
            waiting: 0,
        }
    }

    pub(crate) fn begin(&mut self) {
        self.open = true;
    }

    /// A row is handed over; of a letter nothing more is wanted.
    pub(crate) fn row(&mut self, id: RowId, is_letter: bool) {
        if is_letter {
            self.acknowledged.insert(id);
            self.marked.iter_mut().for_each(|marked| marked.extend([id]));
        } else {
            self.waiting += 1;
        }
        self.steps.push_back(Step::Row(id));
    }

    pub(crate) fn request(&mut self, at: Lsn) {
        self.steps.push_back(Step::Request(at));
    }

    /// The relay asks for letters to replay, and gets some or none.
    pub(crate) fn replays(&mut self, request: Lsn, none: bool) {
        self.answered = none.then_some(request);
    }

    /// The relay is told what is parked: the last thing that it needs to pass a request.
    pub(crate) fn learns(&mut self, now: Instant) {
        if let Some(request) = self.answered.take() {
            self.met.insert(request);
            self.settle(now);
        }
    }

    /// A row that is no message is handed over: the relay may be about to end, unless it is parked.
    pub(crate) fn unfit(&mut self) {
        self.doubtful += 1;
    }

    /// These rows are on their way to the table of letters, of which some are no messages.
    pub(crate) fn sets_aside(&mut self, rows: &[RowId], unfit: usize, now: Instant) {
        self.waiting = self.waiting.saturating_sub(rows.len());
        self.doubtful = self.doubtful.saturating_sub(unfit);
        // One that was refused and is not among them may end the relay yet.
        if self.refused.is_none_or(|id| rows.contains(&id)) {
            self.goes_on(now);
        }
    }

    pub(crate) fn commit(&mut self, end: Lsn, now: Instant) {
        self.open = false;
        self.end(end, now);
    }

    pub(crate) fn keepalive(&mut self, wal_end: Lsn, now: Instant) {
        // Inside of a transaction it promises nothing.
        if !self.open {
            self.end(wal_end, now);
        }
    }

    fn end(&mut self, end: Lsn, now: Instant) {
        self.received = self.received.max(end);
        self.steps.push_back(Step::End(end));
        self.settle(now);
    }

    /// The relay is about to read on.
    pub(crate) fn fetching(&self, checker: &mut Checker) {
        if self.waiting > 0 {
            checker.broken(Invariant::Unbounded, format!("reads on with {} rows not taken", self.waiting));
        }
    }

    /// The publisher has taken the record of this row.
    pub(crate) fn took(&mut self, id: RowId, replayed: bool, checker: &mut Checker) {
        self.waiting = self.waiting.saturating_sub(usize::from(!replayed));
        if !self.taken.insert(id) {
            checker.broken(Invariant::Repeated, format!("{id:?} published twice in one life"));
        }
    }

    /// The relay was told that the broker, which has it, has it.
    pub(crate) fn acknowledge(&mut self, id: RowId, now: Instant) {
        self.acknowledged.insert(id);
        self.settle(now);
    }

    /// The relay was told that this row is written back.
    pub(crate) fn marks(&mut self, id: RowId, now: Instant) {
        self.marked.iter_mut().for_each(|marked| marked.extend([id]));
        self.settle(now);
    }

    /// The row is in the table of letters, and stays unmarked.
    pub(crate) fn parks(&mut self, id: RowId, now: Instant) {
        self.acknowledged.insert(id);
        self.marks(id, now);
    }

    fn settle(&mut self, now: Instant) {
        while let Some(step) = self.steps.front() {
            match step {
                Step::Row(id) if !self.acknowledged.contains(id) => break,
                Step::Row(id) if self.marked.as_ref().is_some_and(|marked| !marked.contains(id)) => break,
                Step::Request(at) if !self.met.contains(at) => break,
                Step::Row(_) | Step::Request(_) => {}
                Step::End(end) => self.allowed = self.allowed.max(*end),
            }
            self.steps.pop_front();
        }
        if self.allowed > self.sent && self.late_since.is_none() {
            self.late_since = Some(now);
        }
    }

    /// For so long a status may be late: the relay is paused, or waits for the socket.
    pub(crate) fn excuse(&mut self, until: Instant) {
        self.excused = self.excused.max(Some(until));
    }

    /// The relay waits for a statement until then. That is no reason for silence.
    pub(crate) fn asks(&mut self, until: Instant) {
        self.asking = self.asking.max(Some(until));
    }

    /// Whether there is another reason for silence.
    pub(crate) fn is_excused(&self, now: Instant) -> bool {
        self.excused.is_some_and(|until| now <= until + Duration::from_secs(1))
    }

    /// An end has failed or the relay was told to stop: what is not confirmed now comes again.
    pub(crate) fn excuse_for_good(&mut self) {
        self.ended = true;
    }

    /// A message was refused: unless the next one is offered or it is parked, the relay may be about to end.
    pub(crate) fn refused(&mut self, id: Option<RowId>) {
        self.refused = id;
    }

    /// A refusal has not ended the relay.
    pub(crate) fn goes_on(&mut self, now: Instant) {
        self.refused = None;
        self.late_since = self.late_since.map(|_| now);
    }

    /// Another message is offered.
    pub(crate) fn offered(&mut self, now: Instant) {
        if self.refused.is_some() {
            self.goes_on(now);
        }
    }

    /// The relay confirms up to `through`.
    pub(crate) fn confirms(&mut self, through: Lsn, now: Instant, checker: &mut Checker) {
        if through > self.allowed {
            checker.broken(
                Invariant::ConfirmedIsAcknowledged,
                format!("confirms {through}, may confirm {}", self.allowed),
            );
        }
        if through < self.sent || through > self.received {
            let (sent, received) = (self.sent, self.received);
            checker.broken(
                Invariant::ConfirmedIsReceived,
                format!("confirms {through} after {sent}, received {received}"),
            );
        }
        self.promptness(now, checker);
        self.sent = self.sent.max(through);
        self.late_since = (self.allowed > self.sent).then_some(now);
    }

    /// The window of what a crash repeats stays small: what can be confirmed is confirmed.
    pub(crate) fn promptness(&mut self, now: Instant, checker: &mut Checker) {
        let Some(since) =
            self.late_since.filter(|_| !(self.ended || self.refused.is_some() || self.doubtful > 0))
        else {
            return;
        };
        let since = self.excused.max(self.asking).map_or(since, |until| since.max(until));
        if now > since + STATUS_PATIENCE {
            let late = (now - since).as_millis();
            self.late_since = None;
            checker.broken(
                Invariant::Repeated,
                format!(
                    "{} may be confirmed for {late} ms and is not: a crash would repeat it",
                    self.allowed
                ),
            );
        }
    }
}
