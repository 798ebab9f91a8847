//! One side of the comparison: what its client reads, without what does not count.

use std::collections::VecDeque;

use super::Pair;
use crate::comparison::{Place, Repeats, Rules, Side, Source, Stored};
use crate::error::OutboxError;
use crate::kafka::{Span, TopicReader};

/// A client and what is passed over.
pub(super) struct Half {
    pub(super) reader: TopicReader,
    pub(super) rules: Rules,
    pub(super) repeats: Option<Repeats>,
}

impl Half {
    /// Where each partition begins and ends now.
    pub(super) fn spans(&self, topic: &str, partitions: i32) -> Result<Vec<Span>, OutboxError> {
        (0..partitions).map(|partition| self.reader.span(topic, partition)).collect()
    }

    /// How many repeats were passed over.
    pub(super) fn repeats(&self) -> u64 {
        self.repeats.as_ref().map_or(0, Repeats::passed)
    }
}

/// Some partitions of a topic, one behind the other.
pub(super) struct Stream<'a> {
    half: &'a mut Half,
    topic: &'a str,
    ahead: VecDeque<(i32, Span)>,
}

impl<'a> Stream<'a> {
    /// All partitions.
    pub(super) fn of(half: &'a mut Half, pair: &'a Pair, side: Side) -> Stream<'a> {
        let (topic, spans) = match side {
            Side::Left => (&pair.topics[0], &pair.spans[0]),
            Side::Right => (&pair.topics[1], &pair.spans[1]),
        };
        // Where a limit has stopped, more would have come.
        half.reader.leave();
        Stream { half, topic, ahead: (0..).zip(spans.iter().copied()).collect() }
    }

    /// One of them.
    pub(super) fn of_one(half: &'a mut Half, pair: &'a Pair, side: Side, number: usize) -> Stream<'a> {
        let mut stream = Stream::of(half, pair, side);
        stream.ahead = stream.ahead.into_iter().skip(number).take(1).collect();
        stream
    }

    /// A record that was read before, once more.
    pub(super) fn at(&mut self, place: Place) -> Result<Stored, OutboxError> {
        let span = Span { first: place.offset, end: place.offset + 1 };
        self.half.reader.seek(self.topic, place.partition, span)?;
        let mut record = self.half.reader.next()?.ok_or_else(|| {
            let what = format!("{} [{}] {} was deleted meanwhile", self.topic, place.partition, place.offset);
            OutboxError::definite(what, "run this again")
        })?;
        self.half.rules.trim(&mut record.content);
        Ok(record)
    }
}

impl Source for Stream<'_> {
    fn next(&mut self) -> Result<Option<Stored>, OutboxError> {
        loop {
            let Some(mut record) = self.half.reader.next()? else {
                let Some((partition, span)) = self.ahead.pop_front() else { return Ok(None) };
                if let Some(repeats) = &mut self.half.repeats {
                    repeats.forget();
                }
                self.half.reader.seek(self.topic, partition, span)?;
                continue;
            };
            self.half.rules.trim(&mut record.content);
            if !self.half.repeats.as_mut().is_some_and(|repeats| repeats.has(&record.content)) {
                return Ok(Some(record));
            }
        }
    }
}
