//! A broker with several topics and partitions, and the client that sends to it.
//!
//! Records of one client and partition land in order, those of different partitions in any. What a dropped
//! client had on its way may still land, but before anything of its successor in that partition.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use walpost::{Offer, OutboxError, Position, Receipt, Record, Ticket};

use crate::checker::{Checker, Invariant};
use crate::consumer::Consumer;
use crate::dice::Dice;
use crate::log::{Log, Place, RowId};
use crate::poison::{Manner, Poisons, too_large};

#[derive(Debug)]
pub(crate) struct Broker {
    partitions: Vec<Partition>,
    /// On their way, by the time of landing.
    wire: BTreeMap<(Instant, u64), Landing>,
    sent: u64,
    /// Nothing lands in these spans.
    outages: Vec<(Instant, Instant)>,
    pub(crate) poison: Poisons,
    consumer: Consumer,
    clients: u64,
    /// How many records were stored.
    pub(crate) stored: u64,
}

#[derive(Debug)]
struct Partition {
    /// How many of its rows have arrived, each after the one before.
    reached: usize,
    /// The last row of each client.
    last: HashMap<u64, usize>,
    /// Nothing new lands before.
    floor: Instant,
}

#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) client: u64,
    pub(crate) partition: usize,
    pub(crate) id: RowId,
    /// The position that its headers say.
    pub(crate) position: Position,
}

/// The client's side: what was taken and has no receipt yet.
#[derive(Debug)]
pub(crate) struct Client {
    number: u64,
    records: usize,
    bytes: usize,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    lanes: Vec<Lane>,
    failed: bool,
    /// The highest ticket whose failure the caller knows of.
    told: Option<Ticket>,
    /// After a failure every later record counts as failed, wherever it went.
    strict: bool,
    /// It takes nothing any more.
    ended: bool,
    /// The message that was refused last, before it was sent.
    pub(crate) refused: Option<RowId>,
    /// Whether its relay has the slot.
    pub(crate) holds_slot: bool,
}

/// The road to one partition.
#[derive(Clone, Debug)]
struct Lane {
    landed: Instant,
    acknowledged: Instant,
    /// After a failure: so many later ones are stored all the same, then none.
    slipping: Option<usize>,
    /// A batch was refused: those after it are told the same.
    refused: bool,
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    id: RowId,
    replayed: bool,
    landed: Instant,
    bytes: usize,
    partition: usize,
    answered: Instant,
    result: Result<(), OutboxError>,
}

fn broken() -> OutboxError {
    OutboxError::broker("publishing", -187, "all brokers are down")
}

impl Broker {
    pub(crate) fn new(log: &Log, span: Duration, dice: &mut Dice) -> Self {
        let now = Instant::now();
        let mut outages = Vec::new();
        if dice.fault(2) {
            let from = now + span.mul_f64(dice.below(1000) as f64 / 1000.0);
            // Some last longer than a stop waits.
            let most = if dice.one_in(3) { 60_000 } else { 10_000 };
            outages.push((from, (from + dice.millis(most)).min(now + span)));
        }
        let partition = || Partition { reached: 0, last: HashMap::new(), floor: now };
        Broker {
            partitions: (0..log.topics.partitions()).map(|_| partition()).collect(),
            wire: BTreeMap::new(),
            sent: 0,
            outages,
            poison: Poisons::new(log, span, dice),
            consumer: Consumer::new(log),
            clients: 0,
            stored: 0,
        }
    }

    /// Nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.wire.is_empty()
    }

    pub(crate) fn connect(&mut self, now: Instant, dice: &mut Dice) -> Client {
        self.clients += 1;
        let lane =
            |of: &Partition| Lane { landed: of.floor, acknowledged: now, slipping: None, refused: false };
        Client {
            number: self.clients,
            records: dice.size(50),
            bytes: 200 + dice.index(4_000),
            pending: VecDeque::new(),
            pending_bytes: 0,
            lanes: self.partitions.iter().map(lane).collect(),
            failed: false,
            told: None,
            strict: dice.one_in(2),
            ended: false,
            refused: None,
            holds_slot: true,
        }
    }

    /// Stores what has landed by now, in that order.
    pub(crate) fn advance(&mut self, now: Instant, log: &mut Log, checker: &mut Checker) {
        while let Some(first) = self.wire.first_entry().filter(|first| first.key().0 <= now) {
            let landing = first.remove();
            self.store(&landing, log, checker);
        }
    }

    fn store(&mut self, landing: &Landing, log: &mut Log, checker: &mut Checker) {
        let Landing { client, partition, id, position } = *landing;
        self.stored += 1;
        checker.note(|| {
            format!(
                "broker: partition {partition} has {}+{} of client {client} as {position}",
                id.entry, id.row
            )
        });
        let Some(row) = log.row_mut(id) else { return };
        row.arrivals += 1;
        let place = row.place;
        if log.parks {
            return self.consumer.hear(landing, log, checker);
        }
        let Place::Partition(_, number) = place else { return };
        let of = &mut self.partitions[partition];
        // One client's records are one piece of the partition's order, and none begins behind a gap.
        let expected = of.last.get(&client).map_or(0..=of.reached, |last| last + 1..=last + 1);
        if !expected.contains(&number) {
            checker.broken(
                Invariant::Reordered,
                format!("partition {partition}: number {number} comes where {expected:?} belongs"),
            );
        }
        of.last.insert(client, number);
        of.reached = of.reached.max(number + 1);
    }

    /// The client is gone. Of what it had on the way, a first part of each partition still lands.
    pub(crate) fn abandon(&mut self, client: &Client, now: Instant, dice: &mut Dice, checker: &mut Checker) {
        for (number, partition) in self.partitions.iter_mut().enumerate() {
            let ours = |landing: &Landing| landing.client == client.number && landing.partition == number;
            let keys: Vec<_> =
                self.wire.iter().filter(|(_, landing)| ours(landing)).map(|(key, _)| *key).collect();
            let lands = dice.index(keys.len() + 1);
            for key in &keys[lands..] {
                self.wire.remove(key);
            }
            if lands > 0 {
                checker.happened("landed after its client had gone");
            }
            let last = keys[..lands].last().map_or(now, |(at, _)| *at);
            partition.floor = partition.floor.max(last);
        }
    }

    /// The first moment from `at` on at which the broker answers.
    fn awake(&self, at: Instant) -> Instant {
        let outage = self.outages.iter().find(|(from, until)| (*from..*until).contains(&at));
        outage.map_or(at, |(_, until)| *until)
    }
}

impl Client {
    pub(crate) fn publish(
        &mut self,
        ticket: Ticket,
        record: &Record<'_>,
        broker: &mut Broker,
        log: &mut Log,
        dice: &mut Dice,
        checker: &mut Checker,
    ) -> Result<Offer, OutboxError> {
        let now = Instant::now();
        broker.advance(now, log, checker);
        if self.ended {
            return Err(OutboxError::transient("an earlier record failed"));
        }
        let bytes = record.value.map_or(0, <[u8]>::len) + 50;
        let full = self.pending.len() >= self.records || self.pending_bytes + bytes > self.bytes;
        if !self.pending.is_empty() && (full || dice.one_in(30)) {
            checker.happened("full");
            return Ok(Offer::Full);
        }
        let (id, position) = match log.recognise(record) {
            Ok(known) => known,
            Err(why) => {
                checker.broken(Invariant::Invented, why);
                return Ok(Offer::Taken);
            }
        };
        let replayed = position != log.position(id);
        // One that has lost the slot, and is about to hear of it, knows no letters of the next one.
        if self.holds_slot && !replayed && log.letters.get(position).is_some() {
            checker.broken(Invariant::Repeated, format!("{id:?} is a letter, and sent as a message"));
        }
        let refusal = broker.poison.refuses(id, record.topic, now);
        if let Some((Manner::AtOnce, refusal)) = refusal {
            self.refused = Some(id);
            checker.happened(if replayed { "letter refused at once" } else { "message refused at once" });
            checker.note(|| format!("client {}: refuses {}+{}", self.number, id.entry, id.row));
            return Err(refusal);
        }
        if dice.fault(100) {
            self.ended = true;
            checker.happened("publish failed");
            return Err(broken());
        }
        let partition = match log.row_mut(id).map(|row| row.place) {
            Some(Place::Partition(partition, _)) => partition,
            Some(Place::AnyOf(topic)) => log.topics.any_of(topic, dice),
            None => return Ok(Offer::Full),
        };
        let had_failed = self.failed;
        let poisoned = refusal.is_some();
        let with_company = refusal.as_ref().is_some_and(|(manner, _)| *manner == Manner::WithCompany);
        let (stored, result) = self.fate(partition, record.topic, refusal, dice);
        let refused = result.as_ref().is_err_and(OutboxError::is_message);
        if with_company && refused && self.refuse_company(partition, record.topic, now, broker) {
            checker.happened("company refused");
        }
        if self.failed && !had_failed {
            checker.happened(match (poisoned, stored) {
                (true, _) if replayed => "letter refused by receipt",
                (true, _) => "message refused by receipt",
                (false, true) => "answer lost",
                (false, false) => "delivery failed",
            });
        }
        let lane = &mut self.lanes[partition];
        let latency = if dice.is_calm() { 300 } else { 6_000 };
        lane.landed = lane.landed.max(broker.awake(now + dice.latency(8, latency)));
        lane.acknowledged = lane.acknowledged.max(broker.awake(lane.landed + dice.latency(8, latency)));
        if stored {
            broker.sent += 1;
            broker
                .wire
                .insert((lane.landed, broker.sent), Landing { client: self.number, partition, id, position });
        }
        self.pending_bytes += bytes;
        let (landed, answered) = (lane.landed, lane.acknowledged);
        self.pending.push_back(Pending { ticket, id, replayed, landed, bytes, partition, answered, result });
        Ok(Offer::Taken)
    }

    /// Whether the next record to this partition is stored, and what its receipt says.
    fn fate(
        &mut self,
        partition: usize,
        topic: &str,
        refusal: Option<(Manner, OutboxError)>,
        dice: &mut Dice,
    ) -> (bool, Result<(), OutboxError>) {
        let lane = &mut self.lanes[partition];
        if self.told.is_some() {
            // The caller was told to stop. One that does not is served as librdkafka would serve it.
            return (true, Ok(()));
        }
        if let (None, Some((manner, refusal))) = (lane.slipping, refusal) {
            (lane.slipping, lane.refused, self.failed) = (Some(0), manner == Manner::WithCompany, true);
            return (false, Err(refusal));
        }
        match &mut lane.slipping {
            Some(0) if lane.refused => (false, Err(too_large(topic))),
            Some(0) => (false, Err(broken())),
            Some(more) => {
                *more -= 1;
                (true, Err(broken()))
            }
            None if dice.fault(40) => {
                self.failed = true;
                let lost_answers = dice.index(4);
                lane.slipping = Some(lost_answers.saturating_sub(1));
                (lost_answers > 0, Err(broken()))
            }
            None => (true, Ok(())),
        }
    }

    /// What has not landed in the partition is refused as the last one is; whether there is anything.
    fn refuse_company(&mut self, partition: usize, topic: &str, now: Instant, broker: &mut Broker) -> bool {
        let ours = |landing: &Landing| landing.client == self.number && landing.partition == partition;
        broker.wire.retain(|(at, _), landing| *at <= now || !ours(landing));
        let mut any = false;
        let company =
            self.pending.iter_mut().filter(|other| other.partition == partition && other.landed > now);
        for other in company.filter(|other| other.result.is_ok()) {
            (other.result, any) = (Err(too_large(topic)), true);
        }
        any
    }

    /// The first that is still to be answered for.
    pub(crate) fn oldest(&self) -> Option<Ticket> {
        self.pending.front().map(|pending| pending.ticket)
    }

    /// Appends the receipts that have come; otherwise tells when the next one may.
    pub(crate) fn receipts(
        &mut self,
        broker: &mut Broker,
        log: &mut Log,
        dice: &mut Dice,
        checker: &mut Checker,
        into: &mut Vec<Receipt>,
    ) -> Result<(Vec<RowId>, Option<Instant>), OutboxError> {
        let now = Instant::now();
        broker.advance(now, log, checker);
        if dice.fault(200) {
            checker.happened("producer ended");
            return Err(OutboxError::transient("the producer has met a fatal error"));
        }
        let next = self.pending.iter().map(|pending| pending.answered).min();
        if next.is_none_or(|next| next > now) {
            return Ok((Vec::new(), next));
        }
        let mut room = if dice.one_in(3) { dice.size(self.records) } else { self.records };
        let mut passed = vec![false; self.lanes.len()];
        let (mut acknowledged, mut kept) = (Vec::new(), VecDeque::new());
        for mut pending in self.pending.drain(..) {
            // In order within a partition, in any across.
            let waits = pending.answered > now || passed[pending.partition] || room == 0;
            if waits {
                passed[pending.partition] = true;
                kept.push_back(pending);
                continue;
            }
            room -= 1;
            self.pending_bytes -= pending.bytes;
            if self.strict && self.told.is_some_and(|told| told < pending.ticket) && pending.result.is_ok() {
                pending.result = Err(broken());
            }
            if let (Ok(()), Some(row)) = (&pending.result, log.row_mut(pending.id)) {
                row.acknowledged = true;
            }
            match &pending.result {
                Ok(()) if pending.replayed => {}
                Ok(()) => acknowledged.push(pending.id),
                Err(_) => self.told = self.told.max(Some(pending.ticket)),
            }
            into.push(Receipt { ticket: pending.ticket, result: pending.result });
        }
        self.pending = kept;
        checker.note(|| {
            format!(
                "client {}: {} acknowledged, {} wait",
                self.number,
                acknowledged.len(),
                self.pending.len()
            )
        });
        Ok((acknowledged, None))
    }

    /// The record that was taken last, and whether it is a letter.
    pub(crate) fn newest(&self) -> Option<(RowId, bool)> {
        self.pending.back().map(|pending| (pending.id, pending.replayed))
    }

    /// Whether the caller was told of a failure.
    pub(crate) fn has_told(&self) -> bool {
        self.told.is_some()
    }
}
