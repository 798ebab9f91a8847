//! Which partition a record goes to: librdkafka's own rules, decided here so that the choice is known.
//!
//! librdkafka chooses while it takes the record and tells of it only in the receipt. But the first record of
//! a partition must go alone (see `introduction`), so the choice has to be known before the next record.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::producer::Partitioner;

thread_local! {
    /// What the last record that this thread handed over was given.
    static CHOSEN: Cell<Option<i32>> = const { Cell::new(None) };
}

/// How a key becomes a partition (librdkafka's CONFIGURATION.md, `partitioner`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Random,
    Crc32,
    Murmur2,
    Fnv1a,
}

/// The `partitioner` property, and `sticky.partitioning.linger.ms` for records without a key.
#[derive(Debug)]
pub(super) struct Choice {
    hash: Hash,
    /// What counts as "any partition will do".
    random_null: bool,
    random_empty: bool,
    /// How long keyless records stay with one partition, so that they share a batch.
    linger: Duration,
    sticky: Mutex<HashMap<String, (i32, Instant)>>,
}

impl Choice {
    /// The choice that librdkafka makes under this name; `None` if there is no such name.
    pub(super) fn named(name: &str, linger: Duration) -> Option<Self> {
        let (hash, random_null, random_empty) = match name {
            "random" => (Hash::Random, true, true),
            "consistent" => (Hash::Crc32, false, false),
            "consistent_random" => (Hash::Crc32, true, true),
            "murmur2" => (Hash::Murmur2, false, false),
            "murmur2_random" => (Hash::Murmur2, true, false),
            "fnv1a" => (Hash::Fnv1a, false, false),
            "fnv1a_random" => (Hash::Fnv1a, true, false),
            _ => return None,
        };
        Some(Choice { hash, random_null, random_empty, linger, sticky: Mutex::default() })
    }

    /// Runs `hand_over`, and tells which partition was chosen meanwhile. `None` if none was: the record names
    /// its own, or the topic is not known yet and the choice is still to come.
    pub(super) fn observed<T>(hand_over: impl FnOnce() -> T) -> (T, Option<i32>) {
        CHOSEN.set(None);
        let result = hand_over();
        (result, CHOSEN.take())
    }

    fn choose(&self, topic: &str, key: Option<&[u8]>, count: i32, available: impl Fn(i32) -> bool) -> i32 {
        let any = match key {
            None => self.random_null,
            Some(key) => key.is_empty() && self.random_empty,
        };
        if any {
            return self.stick(topic, count, available);
        }
        let key = key.unwrap_or_default();
        let hash = match self.hash {
            Hash::Random => return random(count, available),
            Hash::Crc32 => crc32fast::hash(key),
            Hash::Murmur2 => murmur2(key) & 0x7FFF_FFFF,
            Hash::Fnv1a => fnv1a(key),
        };
        // Both fit: a partition count is positive, and the remainder is below it.
        (hash % count.max(1).cast_unsigned()).cast_signed()
    }

    /// Any partition, but the same one for a while.
    fn stick(&self, topic: &str, count: i32, available: impl Fn(i32) -> bool) -> i32 {
        if self.linger.is_zero() {
            return random(count, available);
        }
        let mut sticky = self.sticky.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((partition, since)) = sticky.get_mut(topic) {
            if *partition >= count || now.duration_since(*since) > self.linger || !available(*partition) {
                (*partition, *since) = (random(count, available), now);
            }
            return *partition;
        }
        let partition = random(count, available);
        sticky.insert(topic.to_owned(), (partition, now));
        partition
    }
}

impl Partitioner for Choice {
    fn partition(&self, topic: &str, key: Option<&[u8]>, count: i32, available: impl Fn(i32) -> bool) -> i32 {
        let partition = self.choose(topic, key, count, available);
        CHOSEN.set(Some(partition));
        partition
    }
}

/// Any partition that has a leader, if one is found soon.
fn random(count: i32, available: impl Fn(i32) -> bool) -> i32 {
    let partition = fastrand::i32(0..count.max(1));
    if available(partition) { partition } else { fastrand::i32(0..count.max(1)) }
}

/// As `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    // Kafka hashes the low 32 bits of a length; no key is longer.
    let mut hash = 0x9747_B28C ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// FNV-1a, made positive as Sarama does.
fn fnv1a(data: &[u8]) -> u32 {
    let hash =
        data.iter().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: i32 = 17;

    fn choice(name: &str) -> Choice {
        Choice::named(name, Duration::from_millis(10)).expect("a partitioner")
    }

    /// Values of Kafka's `UtilsTest.testMurmur2` and of librdkafka's `unittest_fnv1a`.
    #[test]
    fn hashes_are_those_of_other_clients() {
        for (key, hash) in [
            ("", 275_646_681),
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        for (key, hash) in [
            ("kafka", 0x0D33_C4E1),
            ("giberish123456789", 0x77A5_8295),
            ("1234", 0x023B_DD03),
            ("", 0x7EE3_623B),
        ] {
            assert_eq!(fnv1a(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn null_and_empty_keys_are_hashed_or_go_anywhere() {
        for (name, null, empty) in [
            ("random", None, None),
            ("consistent", Some(0), Some(0)),
            ("consistent_random", None, None),
            ("murmur2", Some(275_646_681 % COUNT), Some(275_646_681 % COUNT)),
            ("murmur2_random", None, Some(275_646_681 % COUNT)),
            ("fnv1a", Some(0x7EE3_623B % COUNT), Some(0x7EE3_623B % COUNT)),
            ("fnv1a_random", None, Some(0x7EE3_623B % COUNT)),
        ] {
            for (key, expected) in [(None, null), (Some(&b""[..]), empty)] {
                let seen: std::collections::BTreeSet<_> =
                    (0..200).map(|n| choice(name).choose(&format!("t{n}"), key, COUNT, |_| true)).collect();
                match expected {
                    Some(partition) => assert_eq!(seen, [partition].into(), "{name} {key:?}"),
                    None => assert!(seen.len() > 5, "{name} {key:?}: {seen:?}"),
                }
            }
        }
        assert!(Choice::named("murmur3", Duration::ZERO).is_none());
    }

    #[test]
    fn keyless_records_stay_together_until_their_partition_is_gone() {
        let choice = Choice::named("murmur2_random", Duration::from_secs(3600)).expect("a partitioner");
        let first = choice.choose("t", None, COUNT, |_| true);
        assert!((0..100).all(|_| choice.choose("t", None, COUNT, |_| true) == first));
        let other = (0..100).map(|_| choice.choose("t", None, COUNT, |partition| partition != first)).last();
        assert!(other.is_some_and(|other| other != first));
    }

    #[test]
    fn the_choice_is_seen_by_who_handed_the_record_over() {
        let choice = choice("murmur2");
        let (partition, seen) =
            Choice::observed(|| Partitioner::partition(&choice, "t", Some(b"abc"), COUNT, |_| true));
        assert_eq!(seen, Some(partition));
        assert_eq!(Choice::observed(|| ()), ((), None));
    }
}
