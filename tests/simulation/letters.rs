//! The table of dead letters, as the server keeps it: durable, and touched by the operator too.

use std::collections::BTreeMap;

use fastrand::Rng;
use tokio::time::Instant;
use walpost::dead_letters::{Parked, Reach, Replay};
use walpost::{DeadLetter, Lsn, Position};

use crate::checker::Invariant;
use crate::ends::World;
use crate::log::RowId;

/// A letter, and what became of it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) letter: DeadLetter,
    requested: bool,
    /// Where the log was then.
    asked: Lsn,
    replay: Option<Position>,
    pub(crate) fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Sent,
    /// By the operator, in the transaction that commits there.
    Discarded(Lsn),
}

impl Kept {
    pub(crate) fn is_open(&self) -> bool {
        self.fate == Fate::Open
    }

    fn ask(&mut self, at: Lsn) {
        if !self.requested {
            (self.requested, self.asked) = (true, at);
        }
    }

    /// Whether it belongs to a later request than that.
    fn waits(&self, request: Lsn) -> bool {
        let numbered = self.replay.is_some_and(|replay| replay.commit_lsn > request);
        self.is_open() && (numbered || self.asked > request)
    }

    fn shares_key(&self, other: &DeadLetter) -> bool {
        let (own, other) = (&self.letter.message, &other.message);
        own.key().is_some() && own.key() == other.key() && own.topic() == other.topic()
    }

    fn size(&self) -> usize {
        let message = &self.letter.message;
        message.key().map_or(0, <[u8]>::len)
            + message.payload().map_or(0, <[u8]>::len)
            + message.headers_json().len()
    }
}

/// What an operator does in a transaction of its own, decided when it commits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// Letters are chosen by this seed, and mostly replayed.
    Some(u64),
    /// What can be sent is replayed, the rest discarded.
    All,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    kept: BTreeMap<Position, Kept>,
    /// How many times a letter was given a position under which it is sent.
    pub(crate) replays: u64,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn get(&self, at: Position) -> Option<&Kept> {
        self.kept.get(&at)
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = &Kept> {
        self.kept.values().filter(|kept| kept.is_open())
    }

    /// One that somebody asked for and nobody has sent or refused.
    pub(crate) fn unanswered(&self) -> Option<Position> {
        self.open().find(|kept| kept.requested).map(|kept| kept.letter.position)
    }

    /// The letter that may be sent under this position. The operator may have discarded it in this very moment.
    pub(crate) fn replayed_as(&self, position: Position) -> Option<&Kept> {
        self.kept.values().find(|kept| kept.replay == Some(position))
    }

    /// The operator's transaction commits. Says what it did.
    pub(crate) fn ask(&mut self, ask: Ask, at: Lsn) -> String {
        let seed = match ask {
            Ask::All => {
                for kept in self.kept.values_mut().filter(|kept| kept.is_open()) {
                    match kept.letter.unfit {
                        Some(_) => kept.fate = Fate::Discarded(at),
                        None => kept.ask(at),
                    }
                }
                return "replays all".to_owned();
            }
            Ask::Some(seed) => seed,
        };
        let mut random = Rng::with_seed(seed);
        let open: Vec<Position> = self.open().map(|kept| kept.letter.position).collect();
        if open.is_empty() {
            return "touches nothing".to_owned();
        }
        let chosen: Vec<Position> = match random.u8(0..3) {
            0 => open,
            1 => vec![open[random.usize(0..open.len())]],
            _ => open.into_iter().filter(|_| random.bool()).collect(),
        };
        if random.u8(0..5) == 0 {
            for position in &chosen {
                self.kept.entry(*position).and_modify(|kept| kept.fate = Fate::Discarded(at));
            }
            return format!("discards {chosen:?}");
        }
        let whole_keys = random.bool();
        for position in &chosen {
            let Some(letter) = self.kept.get(position).map(|kept| kept.letter.clone()) else { continue };
            for kept in self.kept.values_mut().filter(|kept| kept.is_open()) {
                let with_it = whole_keys && kept.shares_key(&letter);
                if with_it || kept.letter.position == *position {
                    kept.ask(at);
                }
            }
        }
        format!("asks for {chosen:?}")
    }

    pub(crate) fn parked(&self, confirmed: Lsn) -> Parked {
        let mut parked = Parked::default();
        for (position, kept) in &self.kept {
            let message = &kept.letter.message;
            if kept.is_open() {
                parked.keys.insert(message.topic(), message.key(), *position);
            }
            if position.commit_lsn >= confirmed {
                parked.settled.insert(*position, message.id());
            }
        }
        parked
    }

    pub(crate) fn next_to_replay(&mut self, request: Lsn, most: usize) -> Vec<Replay> {
        let asked: Vec<DeadLetter> =
            self.open().filter(|kept| kept.requested).map(|kept| kept.letter.clone()).collect();
        let waiting: Vec<DeadLetter> =
            self.open().filter(|kept| kept.waits(request)).map(|kept| kept.letter.clone()).collect();
        let of_request = |kept: &&Kept| kept.replay.is_some_and(|replay| replay.commit_lsn == request);
        let used = self.kept.values().filter_map(|kept| kept.replay);
        let used = used.filter(|replay| replay.commit_lsn == request).map(|replay| replay.index + 1);
        let mut index = used.max().unwrap_or(0);
        for (at, kept) in self.kept.iter_mut().filter(|(_, kept)| kept.is_open()) {
            // What belongs to a later request waits for it.
            let waits = kept.waits(request) || waiting.iter().any(|letter| kept.shares_key(letter));
            if waits || at.commit_lsn >= request {
                continue;
            }
            let chosen = kept.requested || asked.iter().any(|letter| kept.shares_key(letter));
            if chosen && !of_request(&&*kept) {
                kept.replay = Some(Position { commit_lsn: request, index });
                kept.requested = true;
                (index, self.replays) = (index + 1, self.replays + 1);
            }
        }
        let replay = |kept: &Kept| {
            let send_as = kept.replay.filter(|replay| replay.commit_lsn == request)?;
            Some(Replay { send_as, letter: kept.letter.clone() })
        };
        let mut next: Vec<_> = self.open().filter_map(replay).collect();
        next.sort_by_key(|replay| replay.send_as);
        next.truncate(most);
        next
    }

    pub(crate) fn replayed(&mut self, letters: &[Position]) {
        for position in letters {
            self.kept.entry(*position).and_modify(|kept| {
                if kept.is_open() {
                    kept.fate = Fate::Sent;
                }
            });
        }
    }

    /// A letter is refused again: those behind it of its key stay with it, and of its request all that would be
    /// refused alike, with their keys.
    pub(crate) fn refused_again(&mut self, refused: &Replay, error: &str, reach: Reach) {
        let (own, request) = (&refused.letter, refused.send_as.commit_lsn);
        let asked = |kept: &Kept| kept.is_open() && kept.replay.is_some_and(|at| at.commit_lsn == request);
        let least = match reach {
            Reach::Key => usize::MAX,
            Reach::AsLarge => self.kept.get(&own.position).map_or(usize::MAX, Kept::size),
            Reach::Topic => 0,
        };
        let alike = |kept: &&Kept| {
            asked(kept) && kept.letter.message.topic() == own.message.topic() && kept.size() >= least
        };
        let alike: Vec<DeadLetter> =
            self.kept.values().filter(alike).map(|kept| kept.letter.clone()).collect();
        for (position, kept) in self.kept.iter_mut().filter(|(_, kept)| kept.is_open()) {
            if *position == own.position {
                error.clone_into(&mut kept.letter.error);
                kept.letter.attempts += 1;
            }
            // Asked for again meanwhile, it is the later request's.
            let behind = *position > own.position && kept.shares_key(own) && !kept.waits(request);
            let alike = asked(kept)
                && alike.iter().any(|other| other.position == *position || kept.shares_key(other));
            if *position == own.position || behind || alike {
                (kept.requested, kept.replay) = (false, None);
            }
        }
    }

    /// Whether a letter of the row's key lies before it, of which the relay may know as an open one.
    fn has_one_before(&self, letter: &DeadLetter) -> bool {
        self.kept.range(..letter.position).any(|(_, kept)| {
            let waits = match kept.fate {
                Fate::Open => true,
                Fate::Sent => false,
                // The relay hears of it when it comes there.
                Fate::Discarded(at) => letter.position.commit_lsn < at,
            };
            waits && kept.shares_key(letter)
        })
    }
}

/// Letters are stored; whoever need not be among them is noticed.
pub(crate) fn park(world: &mut World, id: u64, letters: &[DeadLetter]) {
    for letter in letters {
        if world.log.letters.get(letter.position).is_some() {
            continue;
        }
        let Some(row) = world.log.row_at(letter.position) else {
            world.checker.broken(Invariant::Invented, format!("parked where no row is: {letter:?}"));
            continue;
        };
        blame(world, row, letter);
        world.checker.happened(if letter.attempts == 0 { "parked behind another" } else { "parked" });
        let kept = Kept {
            letter: letter.clone(),
            requested: false,
            asked: Lsn::ZERO,
            replay: None,
            fate: Fate::Open,
        };
        world.log.letters.kept.insert(letter.position, kept);
        if let Some(ledger) = world.server.ledger(id) {
            ledger.parks(row, Instant::now());
        }
    }
    let ids = letters.iter().map(|letter| format!("{}x{}", letter.position, letter.attempts));
    world.checker.note(|| format!("letters: parked {}", ids.collect::<Vec<_>>().join(" ")));
}

/// A row is parked for its own fault, its topic's, or because one of its key is.
fn blame(world: &mut World, id: RowId, letter: &DeadLetter) {
    let World { log, broker, checker, retry, .. } = world;
    let Some(row) = log.row_mut(id) else { return };
    let (unfit, same) = (row.unfit, row.message == letter.message);
    let Some(retry) = retry else {
        return checker.broken(Invariant::Blamed, format!("{id:?} is parked by a relay that shall halt"));
    };
    if !same {
        checker.broken(Invariant::Invented, format!("{id:?}: the letter says something else"));
    }
    let most = retry.max_retries + 1;
    let tried = broker.poison.refusals_of(id).max(u32::from(broker.poison.has_shut(letter.message.topic())));
    let sane = match letter.attempts {
        0 => !unfit && log.letters.has_one_before(letter),
        attempts => attempts <= most && (unfit || attempts <= tried),
    };
    if !sane {
        let what =
            format!("{id:?} after {} of {most} attempts; it was refused {tried} times", letter.attempts);
        checker.broken(Invariant::Blamed, what);
    }
}
