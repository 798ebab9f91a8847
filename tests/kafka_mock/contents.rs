//! What arrives is what was published, in order, in the partition that Java would choose.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use walpost::{Headers, Record};

use crate::harness::{Bench, NO_HEADERS, PATIENCE, Seen, cluster, numbers, read, value};

#[tokio::test(flavor = "multi_thread")]
async fn contents_arrive_untouched() {
    let cluster = cluster(1, &[("t", 3)]);
    let mut bench = Bench::open(&cluster, &[]);
    let mut headers = Headers::default();
    headers.push("id", Some(b"7"));
    headers.push("null", None);
    headers.push("empty", Some(b""));
    headers.push("schlüssel", Some("größe 🦀".as_bytes()));
    headers.push("id", Some(&[0, 255]));
    headers.push("", Some(b"no name"));
    let bytes: Vec<u8> = (0..=255).collect();
    type Case<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, i64, &'a Headers);
    let cases: [Case<'_>; 5] = [
        (Some(b"key"), Some(b"{\"a\":1}"), 1_700_000_000_123, &headers),
        (None, Some(b""), 1, &NO_HEADERS),
        (Some(b""), None, 1_700_000_000_124, &NO_HEADERS),
        (Some("ключ".as_bytes()), Some("значение\0".as_bytes()), 4_102_444_800_000, &headers),
        (Some(&bytes), Some(&bytes), 1_700_000_000_125, &NO_HEADERS),
    ];
    for (key, value, timestamp, headers) in cases {
        let record = Record {
            partition: Some(2),
            key,
            value,
            timestamp: Some(timestamp),
            headers,
            ..crate::harness::value("t", b"")
        };
        bench.publish(&record).await;
    }
    bench.settle_well().await;

    let owned = |bytes: &[u8]| bytes.to_vec();
    let expected = cases.map(|(key, value, timestamp, headers)| Seen {
        partition: 2,
        key: key.map(owned),
        value: value.map(owned),
        timestamp: Some(timestamp),
        headers: headers.iter().map(|(name, value)| (name.to_owned(), value.map(owned))).collect(),
    });
    assert_eq!(read(&cluster, "t", 3), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_kafka_cannot_say_become_the_nearest_and_none_becomes_now() {
    let cluster = cluster(1, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[]);
    for timestamp in [Some(0), Some(-62_135_596_800_000), None] {
        bench.publish(&Record { timestamp, ..value("t", b"x") }).await;
    }
    bench.settle_well().await;
    let times: Vec<_> = read(&cluster, "t", 1).into_iter().filter_map(|seen| seen.timestamp).collect();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    assert_eq!(times[..2], [1, 1]);
    assert!(u128::try_from(times[2]).expect("positive").abs_diff(now) < 60_000);
}

/// Hashes as `org.apache.kafka.common.utils.Utils.murmur2` gives them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_java_clients_send_them() {
    const PARTITIONS: i32 = 17;
    let known: [(&str, i32); 7] = [
        ("", 275_646_681),
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let cluster = cluster(1, &[("t", PARTITIONS)]);
    let mut bench = Bench::open(&cluster, &[]);
    for (key, _) in known {
        bench.publish(&Record { key: Some(key.as_bytes()), ..value("t", b"x") }).await;
    }
    bench.settle_well().await;
    let seen: BTreeMap<_, _> = read(&cluster, "t", PARTITIONS)
        .into_iter()
        .map(|seen| (seen.key.expect("a key"), seen.partition))
        .collect();
    let java = known.map(|(key, hash)| (key.as_bytes().to_vec(), (hash & 0x7fff_ffff) % PARTITIONS));
    assert_eq!(seen, java.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_records_arrive_once_and_in_order() {
    let cluster = cluster(3, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..20_000).await;
    bench.settle_well().await;
    assert!(numbers(&cluster, "t").into_iter().eq(0..20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_slows_down_and_never_reorders() {
    let cluster = cluster(1, &[("t", 1)]);
    for (property, limit) in [("queue.buffering.max.messages", "3"), ("queue.buffering.max.kbytes", "1")] {
        let topic = property;
        cluster.create_topic(topic, 1, 1).expect("a topic");
        let mut bench = Bench::open(&cluster, &[(property, limit), ("linger.ms", "0")]);
        bench.publish_numbers(topic, 0..500).await;
        bench.settle_well().await;
        assert!(bench.fulls > 0, "{property}");
        assert!(numbers(&cluster, topic).into_iter().eq(0..500), "{property}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_the_window_goes_alone() {
    let cluster = cluster(1, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[("queue.buffering.max.kbytes", "1")]);
    let large = vec![b'x'; 900_000];
    for record in [&b"before"[..], &large, b"after"] {
        bench.publish(&value("t", record)).await;
    }
    bench.settle_well().await;
    assert_eq!(bench.fulls, 2, "once before it, once after it");
    let lengths: Vec<_> =
        read(&cluster, "t", 1).iter().map(|seen| seen.value.as_ref().map(Vec::len)).collect();
    assert_eq!(lengths, [Some(6), Some(900_000), Some(5)]);
}

/// Our partitioner stands in for librdkafka's, under each of its names.
#[tokio::test(flavor = "multi_thread")]
async fn each_partitioner_chooses_as_librdkafka_does() {
    const PARTITIONS: i32 = 13;
    let keys: Vec<String> = (0..50).map(|n| "k".repeat(n % 9) + &n.to_string()).collect();
    for name in ["consistent", "consistent_random", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"] {
        let cluster = cluster(1, &[("ours", PARTITIONS), ("theirs", PARTITIONS)]);
        let mut bench = Bench::open(&cluster, &[("partitioner", name)]);
        for key in &keys {
            bench.publish(&Record { key: Some(key.as_bytes()), ..value("ours", b"x") }).await;
        }
        bench.settle_well().await;
        let theirs: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("partitioner", name)
            .create()
            .expect("a producer");
        for key in &keys {
            theirs.send(BaseRecord::to("theirs").key(key).payload("x")).expect("room");
        }
        theirs.flush(PATIENCE).expect("all sent");
        let placed = |topic| {
            let seen = read(&cluster, topic, PARTITIONS).into_iter();
            seen.map(|seen| (seen.key, seen.partition)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(placed("ours"), placed("theirs"), "{name}");
    }
}

/// Elsewhere a repeat could stand behind records that came after it.
#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_key_find_their_partition_again() {
    const PARTITIONS: i32 = 13;
    let cluster = cluster(1, &[("t", PARTITIONS)]);
    let mut places = Vec::new();
    for life in 0..2_u64 {
        let mut bench = Bench::open(&cluster, &[]);
        // The second life begins elsewhere, so that another one is the topic's first.
        for spread in (life * 20)..40 {
            let text = format!("{life} {spread}");
            bench.publish(&Record { spread, ..value("t", text.as_bytes()) }).await;
        }
        bench.settle_well().await;
    }
    for seen in read(&cluster, "t", PARTITIONS) {
        let text = String::from_utf8(seen.value.expect("a value")).expect("text");
        places.push((text, seen.partition));
    }
    let of = |text: &str| places.iter().find(|(own, _)| own == text).map(|(_, partition)| *partition);
    let used: std::collections::BTreeSet<_> = places.iter().map(|(_, partition)| *partition).collect();
    assert!(used.len() > 6, "they are spread: {used:?}");
    for spread in 20..40 {
        assert_eq!(of(&format!("0 {spread}")), of(&format!("1 {spread}")), "{spread}");
    }
}
