//! `walpost verify`: whether two topics, or two sets of them, hold the same.

mod found;
mod stream;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::process;

use self::found::{Found, Of};
use self::stream::{Half, Stream};
use self::verdict::{Totals, Verdict};
use crate::cli::arguments::VerifyArguments;
use crate::cli::{self, output};
use crate::comparison::{
    Count, Difference, KeyVerdict, Leftover, Pairing, Pattern, Place, Repeats, Rules, Side, by_key, in_order,
    pair, parts, unordered,
};
use crate::error::OutboxError;
use crate::kafka::{KafkaSettings, Span, TopicReader, tell_unreadable_names};

/// Compares, prints the verdict, and fails if there is a difference.
pub(super) async fn verify(arguments: &VerifyArguments, kafka: KafkaSettings) -> Result<(), OutboxError> {
    let question = Question::of(arguments, kafka)?;
    let (show, json) = (arguments.show, arguments.json);
    tell_unreadable_names(|error| {
        cli::report(error);
        process::exit(1);
    });
    // librdkafka blocks while it waits.
    let verdict = tokio::task::spawn_blocking(move || question.answer())
        .await
        .map_err(|error| OutboxError::connection("the comparison was abandoned", error))??;
    output::write(&if json { verdict.json(show)? } else { verdict.text(show) });
    verdict.into_result()
}

/// What was typed, checked.
struct Question {
    left: (Pattern, KafkaSettings),
    right: (Pattern, KafkaSettings),
    one_cluster: bool,
    rules: Rules,
    order: Order,
    ignore_repeats: bool,
}

#[derive(Clone, Copy)]
enum Order {
    /// Per partition, and no more than so many records of each.
    Partition(u64),
    Key,
    None,
}

/// Two topics and where their partitions begin and end.
struct Pair {
    topics: [String; 2],
    spans: [Vec<Span>; 2],
}

impl Question {
    fn of(arguments: &VerifyArguments, kafka: KafkaSettings) -> Result<Question, OutboxError> {
        let parse = |name: &str, text: &str| {
            Pattern::parse(text)
                .map_err(|why| OutboxError::usage(format!("{name}: `{text}` is no topic"), why))
        };
        let (left, right) = (parse("LEFT", &arguments.left)?, parse("RIGHT", &arguments.right)?);
        if left.is_set() != right.is_set() {
            return Err(OutboxError::usage(
                "a topic can't be compared with a set of topics",
                "write a * at the end of both, or of neither",
            ));
        }
        let one_cluster = arguments.right_brokers.is_none();
        if one_cluster && left == right {
            return Err(OutboxError::usage(
                "LEFT and RIGHT are the same",
                "name two topics, or the other cluster with --right-brokers",
            ));
        }
        let mut other = kafka.clone();
        if let Some(brokers) = &arguments.right_brokers {
            other.brokers.clone_from(brokers);
        }
        let order = match (arguments.by_key, arguments.unordered) {
            (true, _) => Order::Key,
            (_, true) => Order::None,
            _ => Order::Partition(arguments.limit.unwrap_or(u64::MAX)),
        };
        let rules = Rules { ignored: arguments.ignore_header.clone(), timestamps: arguments.timestamps };
        let ignore_repeats = arguments.ignore_repeats;
        Ok(Question { left: (left, kafka), right: (right, other), one_cluster, rules, order, ignore_repeats })
    }

    fn answer(self) -> Result<Verdict, OutboxError> {
        let (mut left, mut right) = (self.half(&self.left.1)?, self.half(&self.right.1)?);
        let (on_left, on_right) = (left.reader.topics()?, right.reader.topics()?);
        let names = |topics: &BTreeMap<String, i32>| topics.keys().cloned().collect::<BTreeSet<_>>();
        let (here, there) = (names(&on_left), names(&on_right));
        let pairs = match pair((&self.left.0, &here), (&self.right.0, &there), self.one_cluster) {
            Pairing::Pairs(pairs) => pairs,
            Pairing::Nothing(side) => return Err(self.nothing(side)),
            Pairing::Unpaired { on, topic, wanted, count } => {
                let found = Some(Found::Unpaired { on, topic, wanted, count });
                return Ok(Verdict::new(Totals::default(), found));
            }
        };
        // All ends before the first record, so that what is compared is of one moment, however long it takes.
        let mut ready = Vec::with_capacity(pairs.len());
        for (one, two) in pairs {
            let spans = [left.spans(&one, on_left[&one])?, right.spans(&two, on_right[&two])?];
            ready.push(Pair { topics: [one, two], spans });
        }
        let mut totals = Totals::default();
        for pair in ready {
            totals.topics += 1;
            totals.partitions.0 += pair.spans[0].len();
            totals.partitions.1 += pair.spans[1].len();
            let found = self.compare(&pair, [&mut left, &mut right], &mut totals)?;
            totals.repeats = (left.repeats(), right.repeats());
            if found.is_some() {
                return Ok(Verdict::new(totals, found));
            }
        }
        Ok(Verdict::new(totals, None))
    }

    fn half(&self, settings: &KafkaSettings) -> Result<Half, OutboxError> {
        let repeats = self.ignore_repeats.then(Repeats::default);
        Ok(Half { reader: TopicReader::open(settings)?, rules: self.rules.clone(), repeats })
    }

    fn nothing(&self, side: Side) -> OutboxError {
        let (pattern, settings) = if side == Side::Left { &self.left } else { &self.right };
        let what = match pattern {
            Pattern::One(name) => format!("topic {name} does not exist"),
            Pattern::Set(prefix) => format!("there is no topic {prefix}*"),
        };
        let what = format!("{what} at {}, on the {} side", settings.brokers, side.name());
        OutboxError::definite(
            what,
            "check the name; a topic that the user may not DESCRIBE is not seen either",
        )
    }

    fn compare(
        &self,
        pair: &Pair,
        [left, right]: [&mut Half; 2],
        totals: &mut Totals,
    ) -> Result<Option<Found>, OutboxError> {
        let topics = || pair.topics.clone();
        let Order::Partition(limit) = self.order else {
            let (one, two) = (Stream::of(left, pair, Side::Left), Stream::of(right, pair, Side::Right));
            return self.whole(pair, one, two, totals);
        };
        let counts = (pair.spans[0].len(), pair.spans[1].len());
        if counts.0 != counts.1 {
            return Ok(Some(Found::Partitions { topics: topics(), left: counts.0, right: counts.1 }));
        }
        for number in 0..counts.0 {
            let mut one = Stream::of_one(left, pair, Side::Left, number);
            let mut two = Stream::of_one(right, pair, Side::Right, number);
            let (equal, difference) = in_order(&mut one, &mut two, limit)?;
            totals.records += equal;
            if let Some(difference) = difference {
                return Ok(Some(Found::Record { topics: topics(), of: Of::Partition(number), difference }));
            }
        }
        Ok(None)
    }

    /// All partitions of a topic together.
    fn whole(
        &self,
        pair: &Pair,
        mut left: Stream<'_>,
        mut right: Stream<'_>,
        totals: &mut Totals,
    ) -> Result<Option<Found>, OutboxError> {
        if matches!(self.order, Order::None) {
            let (records, leftover) = unordered(&mut left, &mut right)?;
            totals.records += records;
            return self.leftover(pair, left, right, leftover);
        }
        let (records, verdict) = by_key(&mut left, &mut right)?;
        totals.records += records;
        let difference = match verdict {
            KeyVerdict::Equal => return Ok(None),
            KeyVerdict::Keyless(leftover) => return self.leftover(pair, left, right, leftover),
            KeyVerdict::Unequal { number, left: here, right: there } => {
                let (here, there) = (Box::new(left.at(here)?), Box::new(right.at(there)?));
                let parts = parts(&here.content, &there.content);
                Difference::Unequal { number, left: here, right: there, parts }
            }
            KeyVerdict::Missing { on, number, count, place } => {
                let first = Box::new(if on == Side::Right { left.at(place)? } else { right.at(place)? });
                Difference::Missing { on, number, count: Count::Exactly(count), first }
            }
        };
        Ok(Some(Found::Record { topics: pair.topics.clone(), of: Of::Key, difference }))
    }

    /// Fetches one record of each side, to be shown.
    fn leftover(
        &self,
        pair: &Pair,
        mut left: Stream<'_>,
        mut right: Stream<'_>,
        leftover: Leftover,
    ) -> Result<Option<Found>, OutboxError> {
        let fetch = |stream: &mut Stream<'_>, one: Option<(u64, Place)>| {
            one.map(|(count, place)| stream.at(place).map(|record| (count, record))).transpose()
        };
        if leftover.is_none() {
            return Ok(None);
        }
        let (left, right) = (fetch(&mut left, leftover.left)?, fetch(&mut right, leftover.right)?);
        Ok(Some(Found::Leftover { topics: pair.topics.clone(), left, right }))
    }
}
