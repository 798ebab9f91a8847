//! Which partition a record goes to: librdkafka's own rules, decided here so that the choice is known.
//!
//! librdkafka chooses while it takes the record and tells of it only in the receipt. But the first record of
//! a partition must go alone (see `introduction`), so the choice has to be known before the next record.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rdkafka::producer::Partitioner;

thread_local! {
    /// What the record that this thread hands over says about its company.
    static SPREAD: Cell<Option<u64>> = const { Cell::new(None) };
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

/// The `partitioner` property. Records without a key are spread by [`Record::spread`](crate::Record), so that a
/// repeat goes where the first one went: elsewhere it could stand behind later ones.
#[derive(Debug)]
pub(super) struct Choice {
    hash: Hash,
    /// What counts as "any partition will do".
    random_null: bool,
    random_empty: bool,
    /// By topic: the spread of its first record, for which librdkafka chooses later and in a thread of its own.
    first: Mutex<HashMap<String, u64>>,
}

impl Choice {
    /// The choice that librdkafka makes under this name; `None` if there is no such name.
    pub(super) fn named(name: &str) -> Option<Self> {
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
        Some(Choice { hash, random_null, random_empty, first: Mutex::default() })
    }

    /// Runs `hand_over` of a record with this spread, and tells which partition was chosen meanwhile. `None` if none
    /// was: the record names its own, or the topic is not known yet and the choice is still to come.
    pub(super) fn observed<T>(spread: u64, hand_over: impl FnOnce() -> T) -> (T, Option<i32>) {
        CHOSEN.set(None);
        SPREAD.set(Some(spread));
        let result = hand_over();
        SPREAD.set(None);
        (result, CHOSEN.take())
    }

    /// The first record of a topic is about to be handed over.
    pub(super) fn begin(&self, topic: &str, spread: u64) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), spread);
    }

    /// By what a key leads to its partition, as the remainder of the number of them; `None` if any partition will do.
    pub(super) fn hash_of(&self, key: Option<&[u8]>) -> Option<u32> {
        let any = match key {
            None => self.random_null,
            Some(key) => key.is_empty() && self.random_empty,
        };
        let key = key.unwrap_or_default();
        match self.hash {
            Hash::Random => None,
            _ if any => None,
            Hash::Crc32 => Some(crc32fast::hash(key)),
            Hash::Murmur2 => Some(murmur2(key) & 0x7FFF_FFFF),
            Hash::Fnv1a => Some(fnv1a(key)),
        }
    }

    fn choose(&self, topic: &str, key: Option<&[u8]>, count: i32, available: impl Fn(i32) -> bool) -> i32 {
        let hash = match self.hash_of(key) {
            None if self.hash == Hash::Random => return random(count, available),
            None => murmur2(&self.spread(topic).to_le_bytes()),
            Some(hash) => hash,
        };
        // Both fit: a partition count is positive, and the remainder is below it.
        (hash % count.max(1).cast_unsigned()).cast_signed()
    }

    fn spread(&self, topic: &str) -> u64 {
        let first = || self.first.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        SPREAD.get().or_else(first).unwrap_or_default()
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
        Choice::named(name).expect("a partitioner")
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
                    (0..200).map(|spread| place(&choice(name), key, spread)).collect();
                match expected {
                    Some(partition) => assert_eq!(seen, [partition].into(), "{name} {key:?}"),
                    None => assert!(seen.len() > 5, "{name} {key:?}: {seen:?}"),
                }
            }
        }
        assert!(Choice::named("murmur3").is_none());
    }

    #[test]
    fn a_record_without_a_key_goes_where_it_went_before() {
        let choice = choice("murmur2_random");
        for spread in 0..50 {
            let first = place(&choice, None, spread);
            assert!((0..10).all(|_| place(&choice, None, spread) == first));
            choice.begin("new", spread);
            let elsewhere = std::thread::scope(|scope| {
                let other = scope.spawn(|| choice.choose("new", None, COUNT, |_| true));
                other.join().expect("no panic")
            });
            assert_eq!(elsewhere, first, "also in a thread of librdkafka's");
        }
    }

    fn place(choice: &Choice, key: Option<&[u8]>, spread: u64) -> i32 {
        Choice::observed(spread, || choice.choose("t", key, COUNT, |_| true)).0
    }

    #[test]
    fn the_choice_is_seen_by_who_handed_the_record_over() {
        let choice = choice("murmur2");
        let (partition, seen) =
            Choice::observed(0, || Partitioner::partition(&choice, "t", Some(b"abc"), COUNT, |_| true));
        assert_eq!(seen, Some(partition));
        assert_eq!(Choice::observed(0, || ()), ((), None));
    }
}
