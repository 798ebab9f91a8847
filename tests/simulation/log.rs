//! What the services of a simulation write: a log, whole from the start, each entry with its time.

use std::time::Duration;

use uuid::Uuid;
use walpost::{Lsn, OutboxMessage, Position, Record, RowKey};

use crate::dice::Dice;
use crate::letters::{Ask, Table};

/// A row: which entry of the log, and which row of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowId {
    pub(crate) entry: usize,
    pub(crate) row: usize,
}

impl RowId {
    /// The id of the message says which row it is, so that a record is recognised by its content alone.
    fn uuid(self) -> Uuid {
        Uuid::from_u128((0x5EED_u128 << 96) | ((self.entry as u128) << 32) | self.row as u128)
    }

    fn of(id: Uuid) -> Option<RowId> {
        let bits = id.as_u128();
        let row = RowId { entry: (bits >> 32 & 0xFFFF_FFFF) as usize, row: (bits & 0xFFFF_FFFF) as usize };
        (row.uuid() == id).then_some(row)
    }

    /// The row of a key.
    pub(crate) fn of_key(key: &RowKey) -> Option<RowId> {
        RowId::of(Uuid::parse_str(key.values.first()?.as_deref()?).ok()?)
    }
}

pub(crate) struct Row {
    pub(crate) message: OutboxMessage,
    pub(crate) place: Place,
    /// Its key, counted over all topics.
    pub(crate) key: Option<usize>,
    /// It can't be read as a message.
    pub(crate) unfit: bool,
    /// A relay was told that it has arrived.
    pub(crate) acknowledged: bool,
    /// It is marked as published.
    pub(crate) marked: bool,
    /// It is not to be sent.
    pub(crate) passed_over: bool,
    /// How many times it has arrived.
    pub(crate) arrivals: u32,
    /// A consumer that drops what does not lie behind the last of the key has it.
    pub(crate) seen: bool,
}

/// Where a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To this partition, as the so-manieth of all that go there.
    Partition(usize, usize),
    /// Without a key: to any partition of the topic.
    AnyOf(usize),
}

pub(crate) struct Entry {
    /// When it is committed, from the start.
    pub(crate) at: Duration,
    /// Where its commit record begins.
    pub(crate) commit_lsn: Lsn,
    /// Where its commit record ends.
    pub(crate) end: Lsn,
    /// What went into the outbox; `None` for foreign transactions and for those that were rolled back.
    pub(crate) rows: Option<Vec<Row>>,
    /// Somebody touches the dead letters in it.
    pub(crate) ask: Option<Ask>,
}

impl Entry {
    pub(crate) fn is_transaction(&self) -> bool {
        self.rows.is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.as_ref().map_or(0, Vec::len)
    }
}

/// A topic and its partitions, which are counted over all topics.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    first: usize,
    pub(crate) partitions: usize,
}

#[derive(Debug)]
pub(crate) struct Topics(Vec<Topic>);

impl Topics {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let (mut topics, mut first) = (Vec::new(), 0);
        for index in 0..dice.size(3) {
            let partitions = dice.size(4);
            topics.push(Topic { name: format!("topic-{index}"), first, partitions });
            first += partitions;
        }
        Topics(topics)
    }

    pub(crate) fn partitions(&self) -> usize {
        self.0.iter().map(|topic| topic.partitions).sum()
    }

    /// One of them by name.
    pub(crate) fn name(&self, dice: &mut Dice) -> String {
        self.0[dice.index(self.0.len())].name.clone()
    }

    pub(crate) fn any_of(&self, topic: usize, dice: &mut Dice) -> usize {
        self.0[topic].first + dice.index(self.0[topic].partitions)
    }
}

/// The log, and what it takes to write on.
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    pub(crate) topics: Topics,
    /// How many entries are committed by now.
    pub(crate) committed: usize,
    /// How many rows go to each partition.
    counts: Vec<usize>,
    /// The rows of each key, in order.
    pub(crate) keys: Vec<Vec<RowId>>,
    pub(crate) letters: Table,
    /// What can't be sent is parked, and the order is one of keys.
    pub(crate) parks: bool,
    /// Rows are marked once they are published.
    pub(crate) writes_back: bool,
    /// Not every row is to be sent.
    passes_over: bool,
    end: Lsn,
}

/// Keys of each topic.
const KEYS: usize = 6;

impl Log {
    pub(crate) fn new(parks: bool, writes_back: bool, dice: &mut Dice) -> Self {
        let topics = Topics::new(dice);
        let counts = vec![0; topics.partitions()];
        let keys = vec![Vec::new(); topics.0.len() * KEYS];
        // Near the place where the upper half of a position changes.
        let end = Lsn(0x2_0000_0000 - dice.below(3_000));
        let letters = Table::default();
        let passes_over = dice.one_in(3);
        Log {
            entries: Vec::new(),
            topics,
            committed: 0,
            counts,
            keys,
            letters,
            parks,
            writes_back,
            passes_over,
            end,
        }
    }

    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// Writes `count` entries at random times between `from` and `to`.
    pub(crate) fn write(&mut self, count: usize, from: Duration, to: Duration, dice: &mut Dice) {
        let span = u64::try_from((to - from).as_millis()).unwrap_or(u64::MAX).max(1);
        let mut times: Vec<_> = (0..count).map(|_| from + Duration::from_millis(dice.below(span))).collect();
        times.sort_unstable();
        // Bursts: what several writers commit at once stands side by side in the log.
        for index in 1..times.len() {
            if dice.one_in(2) {
                times[index] = times[index - 1];
            }
        }
        for at in times {
            self.append(at, dice);
        }
    }

    /// The operator asks for all letters, in the last transaction of the log.
    pub(crate) fn ask_for_all(&mut self, at: Duration) {
        let commit_lsn = self.end;
        self.end = Lsn(commit_lsn.0 + 8);
        let (rows, ask) = (Some(Vec::new()), Some(Ask::All));
        self.entries.push(Entry { at, commit_lsn, end: self.end, rows, ask });
    }

    /// What was due by then commits. Says what somebody did to the letters.
    pub(crate) fn commit(&mut self) -> Option<String> {
        let entry = &self.entries[self.committed];
        self.committed += 1;
        let (ask, at) = (entry.ask?, entry.commit_lsn);
        Some(format!("operator: at {at} {}", self.letters.ask(ask, at)))
    }

    fn append(&mut self, at: Duration, dice: &mut Dice) {
        // Half of all commit records stand right behind each other: the case in which one byte too much
        // loses a transaction.
        let gap = if dice.one_in(2) { 0 } else { dice.below(200) };
        let commit_lsn = Lsn(self.end.0 + gap);
        self.end = Lsn(commit_lsn.0 + 8 + dice.below(100));
        let entry = self.entries.len();
        let asks = self.parks && !dice.is_calm() && dice.one_in(5);
        let ask = asks.then(|| Ask::Some(dice.seed()));
        let rows = match dice.below(10) {
            _ if asks => Some(Vec::new()),
            0..=1 => None,
            2 => Some(Vec::new()),
            3 => Some(self.rows(entry, 30, dice)),
            _ => Some(self.rows(entry, 5, dice)),
        };
        self.entries.push(Entry { at, commit_lsn, end: self.end, rows, ask });
    }

    fn rows(&mut self, entry: usize, most: usize, dice: &mut Dice) -> Vec<Row> {
        (0..dice.size(most)).map(|row| self.row(RowId { entry, row }, dice)).collect()
    }

    fn row(&mut self, id: RowId, dice: &mut Dice) -> Row {
        if self.passes_over && dice.one_in(4) {
            let message = OutboxMessage::new("", "").with_id(id.uuid());
            let place = Place::AnyOf(0);
            return Row {
                message,
                place,
                key: None,
                unfit: false,
                passed_over: true,
                acknowledged: false,
                marked: false,
                arrivals: 0,
                seen: false,
            };
        }
        let topic = dice.index(self.topics.0.len());
        let Topic { name, first, partitions } = &self.topics.0[topic];
        let mut message = if dice.one_in(12) {
            OutboxMessage::tombstone(name.clone(), "")
        } else {
            let padding = if dice.one_in(10) { 300 } else { 3 };
            OutboxMessage::new(name.clone(), format!("{{\"n\":\"{:>padding$}\"}}", id.row))
        };
        message = message.with_id(id.uuid());
        let mut slot = None;
        let place = if dice.one_in(8) && message.key().is_none() {
            Place::AnyOf(topic)
        } else {
            let key = dice.index(KEYS);
            slot = Some(topic * KEYS + key);
            self.keys[topic * KEYS + key].push(id);
            let partition = first + key % partitions;
            self.counts[partition] += 1;
            message = message.with_key(format!("key-{key}"));
            Place::Partition(partition, self.counts[partition] - 1)
        };
        if dice.one_in(6) {
            message = message.with_event_type("Placed").with_correlation_id("c").with_header("trace", "1");
        }
        if self.writes_back {
            message =
                message.with_row(RowKey { table: 0, xid: 0, values: vec![Some(id.uuid().to_string())] });
        }
        let unfit = self.parks && dice.fault(30);
        Row {
            message,
            place,
            key: slot,
            unfit,
            passed_over: false,
            acknowledged: false,
            marked: false,
            arrivals: 0,
            seen: false,
        }
    }

    pub(crate) fn row_mut(&mut self, id: RowId) -> Option<&mut Row> {
        self.entries.get_mut(id.entry)?.rows.as_mut()?.get_mut(id.row)
    }

    pub(crate) fn position(&self, id: RowId) -> Position {
        Position { commit_lsn: self.entries[id.entry].commit_lsn, index: id.row as u64 }
    }

    /// The row that stands there.
    pub(crate) fn row_at(&self, at: Position) -> Option<RowId> {
        let entry = self.entries.binary_search_by_key(&at.commit_lsn, |entry| entry.commit_lsn).ok()?;
        let row = usize::try_from(at.index).ok()?;
        (row < self.entries[entry].len()).then_some(RowId { entry, row })
    }

    /// Every row that was ever committed and is to be sent.
    pub(crate) fn rows_of_all(&self) -> impl Iterator<Item = (RowId, &Row)> {
        self.entries.iter().enumerate().flat_map(|(entry, of)| {
            let rows = of.rows.iter().flatten().enumerate().filter(|(_, row)| !row.passed_over);
            rows.map(move |(row, it)| (RowId { entry, row }, it))
        })
    }

    /// The row that a record was made of, if it says exactly what the row says and is committed; and the position
    /// that it says, which is the row's, or the one that its letter was given.
    pub(crate) fn recognise(&self, record: &Record<'_>) -> Result<(RowId, Position), String> {
        let header = |wanted: &str| record.headers.iter().find(|(name, _)| *name == wanted)?.1;
        let id = header("id").and_then(|text| Uuid::try_parse_ascii(text).ok());
        let id = id.and_then(RowId::of).ok_or("its id is none of ours")?;
        let entry =
            self.entries.get(id.entry).filter(|_| id.entry < self.committed).ok_or("never committed")?;
        let row = entry.rows.as_ref().and_then(|rows| rows.get(id.row)).ok_or("no such row")?;
        let message = &row.message;
        if (record.topic, record.key, record.value) != (message.topic(), message.key(), message.payload()) {
            return Err(format!("{id:?}: topic, key or value differ"));
        }
        if record.timestamp != message.created_at().map(|micros| micros / 1000) {
            return Err(format!("{id:?}: the time differs"));
        }
        if row.unfit || row.passed_over {
            return Err(format!("{id:?} is not to be sent"));
        }
        let own = self.position(id);
        let said = |wanted: &str| header(wanted).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let position = match (said("walpost.lsn"), said("walpost.index")) {
            (Some(lsn), Some(index)) => lsn.parse().ok().zip(index.parse().ok()),
            _ => None,
        };
        let position = position.map_or(own, |(commit_lsn, index)| Position { commit_lsn, index });
        if position != own {
            let letter = self.letters.replayed_as(position).map(|kept| kept.letter.position);
            if letter != Some(own) {
                return Err(format!("{id:?} says that it is at {position}"));
            }
        }
        let (lsn, index, text) =
            (position.commit_lsn.to_string(), position.index.to_string(), message.id().to_string());
        let mut expected = vec![("id", text.as_str())];
        if message.event_type().is_some() {
            expected.extend([("event_type", "Placed"), ("correlation_id", "c"), ("trace", "1")]);
        }
        expected.extend([("walpost.lsn", lsn.as_str()), ("walpost.index", index.as_str())]);
        let seen = record.headers.iter();
        let same = seen.eq(expected.iter().map(|(name, value)| (*name, Some(value.as_bytes()))));
        same.then_some((id, position)).ok_or_else(|| format!("{id:?}: headers differ: {:?}", record.headers))
    }
}
