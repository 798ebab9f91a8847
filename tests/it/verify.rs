//! `walpost verify`: two topics, or two sets of them, side by side.

use std::process::Output;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::support::kafka::config;
use crate::support::{KafkaBroker, PATIENCE, Walpost, acl, consume, eventually, unique};

/// A record as it is produced, written as `key=value`; a null key or value is a dash. Headers stand behind slashes,
/// `/name:value`, with a null one as `/name`. `2>` before it all names the partition, else it is 0.
fn send(producer: &BaseProducer, topic: &str, word: &str) {
    let (partition, word) = word.split_once('>').unwrap_or(("0", word));
    let mut pieces = word.split('/');
    let (key, value) = pieces.next().unwrap().split_once('=').unwrap();
    let headers = pieces.fold(OwnedHeaders::new(), |headers, piece| {
        let (key, value) = piece.split_once(':').map_or((piece, None), |(name, value)| (name, Some(value)));
        headers.insert(Header { key, value })
    });
    let mut record: BaseRecord<'_, str, str> =
        BaseRecord::to(topic).partition(partition.parse().unwrap()).headers(headers);
    record.key = Some(key).filter(|key| *key != "-");
    record.payload = Some(value).filter(|value| *value != "-");
    while let Err((error, again)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(Duration::from_millis(10));
        record = again;
    }
}

/// Writes the words one after the other.
async fn fill(topic: &str, words: &str) {
    let (brokers, topic, words) =
        (KafkaBroker::shared().await.brokers().to_owned(), topic.to_owned(), words.to_owned());
    let write = move || {
        let producer: BaseProducer = config(&brokers).create().unwrap();
        for word in words.split_whitespace() {
            send(&producer, &topic, word);
        }
        producer.flush(PATIENCE).unwrap();
    };
    spawn_blocking(write).await.unwrap();
}

async fn topic(name: &str, partitions: i32, words: &str) -> String {
    let name = unique(name);
    KafkaBroker::shared().await.create_topic(&name, partitions).await;
    fill(&name, words).await;
    name
}

/// Two topics of so many partitions with these records.
async fn pair(partitions: (i32, i32), left: &str, right: &str) -> [String; 2] {
    [topic("left", partitions.0, left).await, topic("right", partitions.1, right).await]
}

async fn verify(topics: &[String; 2], flags: &[&str]) -> Output {
    let brokers = KafkaBroker::shared().await.brokers();
    Walpost::with(["verify", &topics[0], &topics[1], "--brokers", brokers]).args(flags).output().await
}

/// Exit code and stdout, with left and right in the place of the topics' own names.
async fn outcome(topics: &[String; 2], flags: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = verify(topics, flags).await;
    let (code, stderr) = (status.code().unwrap(), String::from_utf8(stderr).unwrap());
    let stdout = String::from_utf8(stdout).unwrap();
    let advised = stderr.starts_with("error: the two sides do not hold the same\n  advice: ");
    assert_eq!((code == 1, code == 0), (advised, stderr.is_empty()), "{stdout}{stderr}");
    (code, stdout.replace(&topics[0], "LEFT").replace(&topics[1], "RIGHT"))
}

const SAME: &str = "a=1/id:1 b=2/id:2 1>c=3/id:3/x 2>-=4 2>d=-";

#[tokio::test]
async fn topics_that_hold_the_same_are_equal() {
    let topics = pair((3, 3), SAME, SAME).await;
    let expected = (0, "equal: 5 records in 1 topic, 3 partitions\n".to_owned());
    assert_eq!(outcome(&topics, &[]).await, expected);
    assert_eq!(outcome(&topics, &["--by-key"]).await, expected);
    assert_eq!(outcome(&topics, &["--unordered"]).await, expected);
    let limited = outcome(&topics, &["--limit", "1"]).await;
    assert_eq!(limited, (0, "equal: 3 records in 1 topic, 3 partitions\n".to_owned()));
    // Each record was written at a time of its own.
    let (code, text) = outcome(&topics, &["--timestamps"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("\n  time is 1"), "{text}");
    let empty = pair((2, 2), "", "").await;
    assert_eq!(outcome(&empty, &[]).await, (0, "equal: 0 records in 1 topic, 2 partitions\n".to_owned()));
}

#[tokio::test]
async fn the_first_difference_is_shown() {
    for (left, right, expected) in [
        (
            "a=1 a=abcd a=5",
            "a=1 a=abxd a=5",
            "record 2 of partition 0 is not the same\n  \
             left     LEFT, partition 0, offset 1: key 1 byte, value 4 bytes\n  \
             right    RIGHT, partition 0, offset 1: key 1 byte, value 4 bytes\n  \
             value has 4 bytes on the left, 4 bytes on the right; byte 2 is the first that differs\n",
        ),
        (
            "1>a=1",
            "1>b=1",
            "record 1 of partition 1 is not the same\n  \
             left     LEFT, partition 1, offset 0: key 1 byte, value 1 byte\n  \
             right    RIGHT, partition 1, offset 0: key 1 byte, value 1 byte\n  \
             key has 1 byte on the left, 1 byte on the right; byte 0 is the first that differs\n",
        ),
        (
            "-=1",
            "=1",
            "record 1 of partition 0 is not the same\n  \
             left     LEFT, partition 0, offset 0: key null, value 1 byte\n  \
             right    RIGHT, partition 0, offset 0: key 0 bytes, value 1 byte\n  \
             key has null on the left, 0 bytes on the right\n",
        ),
        (
            "a=-",
            "a=",
            "record 1 of partition 0 is not the same\n  \
             left     LEFT, partition 0, offset 0: key 1 byte, value null\n  \
             right    RIGHT, partition 0, offset 0: key 1 byte, value 0 bytes\n  \
             value has null on the left, 0 bytes on the right\n",
        ),
        (
            "a=1/x:1/y:2",
            "a=1/y:2/x:1",
            "record 1 of partition 0 is not the same\n  \
             left     LEFT, partition 0, offset 0: key 1 byte, value 1 byte\n  \
             right    RIGHT, partition 0, offset 0: key 1 byte, value 1 byte\n  \
             header 1 is x on the left, y on the right: another order\n",
        ),
        (
            "a=1/x",
            "a=1/x:",
            "record 1 of partition 0 is not the same\n  \
             left     LEFT, partition 0, offset 0: key 1 byte, value 1 byte\n  \
             right    RIGHT, partition 0, offset 0: key 1 byte, value 1 byte\n  \
             header x has null on the left, 0 bytes on the right\n",
        ),
        (
            "a=1/x:1",
            "a=1/x:1/walpost.lsn:0",
            "record 1 of partition 0 is not the same\n  \
             left     LEFT, partition 0, offset 0: key 1 byte, value 1 byte\n  \
             right    RIGHT, partition 0, offset 0: key 1 byte, value 1 byte\n  \
             header walpost.lsn is missing on the left\n",
        ),
        (
            "a=1 a=2 a=3",
            "a=1",
            "record 2 of partition 0 is missing on the right side, and 1 more\n  \
             left     LEFT, partition 0, offset 1: key 1 byte, value 1 byte\n",
        ),
        (
            "",
            "1>a=1",
            "record 1 of partition 1 is missing on the left side\n  \
             right    RIGHT, partition 1, offset 0: key 1 byte, value 1 byte\n",
        ),
        (
            "a=1 a=2 a=3",
            "a=1 a=3",
            "record 2 of partition 0 is missing on the right side\n  \
             left     LEFT, partition 0, offset 1: key 1 byte, value 1 byte\n",
        ),
    ] {
        let topics = pair((2, 2), left, right).await;
        assert_eq!(outcome(&topics, &[]).await, (1, format!("different: {expected}")), "{left} | {right}");
    }
}

#[tokio::test]
async fn contents_are_shown_only_when_asked_and_never_logged() {
    let long = "x".repeat(200);
    let topics =
        pair((1, 1), &format!("a=1 k=secret-{long}\u{7}1"), &format!("a=1 k=secret-{long}\u{7}2")).await;
    let flags = ["--log-level", "trace", "-X", "debug=all"];
    let Output { stdout, stderr, .. } = verify(&topics, &flags).await;
    let all = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(
        all.contains("byte 208 is the first") && !all.contains("secret") && !all.contains("xxx"),
        "{all}"
    );

    let (_, text) = outcome(&topics, &["--show"]).await;
    let around = "x".repeat(29);
    assert!(text.ends_with(&format!("\n    left   …{around}\\x071\n    right  …{around}\\x072\n")), "{text}");
    let topics = pair((1, 1), "k=\"v\"", "").await;
    let (_, text) = outcome(&topics, &["--show"]).await;
    assert!(text.ends_with("\n           key   k\n           value \"v\"\n"), "{text}");
}

#[tokio::test]
async fn headers_that_do_not_count_are_passed_over() {
    let topics = pair(
        (1, 1),
        "a=1/id:1/__debezium.context.runId:5 a=2/id:2/__debezium.context.runId:6",
        "a=1/id:1/walpost.lsn:1/walpost.index:0 a=2/id:2/walpost.lsn:2/walpost.index:0",
    )
    .await;
    let flags = ["--ignore-header", "walpost.*", "--ignore-header", "__debezium.context.runId"];
    for order in ["--by-key", "--unordered", "--show"] {
        let (code, text) = outcome(&topics, &[&flags[..], &[order]].concat()).await;
        assert_eq!((code, text.as_str()), (0, "equal: 2 records in 1 topic, 1 partition\n"));
        let (code, text) = outcome(&topics, &[&flags[..2], &[order]].concat()).await;
        assert_eq!(code, 1);
        assert!(text.contains("header __debezium.context.runId is missing on the right"), "{order}: {text}");
    }
}

#[tokio::test]
async fn repeats_are_passed_over_when_asked() {
    let topics = pair(
        (2, 2),
        "a=1/id:1/lsn:1 a=2/id:2 1>b=1 1>b=2 1>b=1 1>b=2",
        "a=1/id:1/lsn:1 a=2/id:2 a=1/id:1/lsn:1 a=2/id:2 1>b=1 1>b=2",
    )
    .await;
    let (code, text) = outcome(&topics, &[]).await;
    assert_eq!(code, 1);
    assert!(text.contains("record 3 of partition 0 is missing on the left side, and 1 more"), "{text}");
    let expected =
        "equal: 4 records in 1 topic, 2 partitions; repeats passed over: 2 on the left, 2 on the right\n";
    for order in ["--show", "--by-key", "--unordered"] {
        assert_eq!(outcome(&topics, &["--ignore-repeats", order]).await, (0, expected.to_owned()), "{order}");
    }
}

#[tokio::test]
async fn partitions_count_unless_keys_or_nothing_but_records_do() {
    let topics = pair((3, 1), "a=1 1>b=1 2>-=0 a=2 1>-=7", "b=1 -=7 a=1 -=0 a=2").await;
    let (code, text) = outcome(&topics, &[]).await;
    let expected = "different: topic LEFT has 3 partitions, topic RIGHT has 1 partition\n";
    assert_eq!((code, text.as_str()), (1, expected));
    let equal = "equal: 5 records in 1 topic, 3 partitions on the left and 1 on the right\n".to_owned();
    assert_eq!(outcome(&topics, &["--by-key"]).await, (0, equal.clone()));
    assert_eq!(outcome(&topics, &["--unordered"]).await, (0, equal));

    let topics = pair((2, 1), "a=1 1>b=1 1>b=2 1>-=0", "b=1 b=3 a=1 -=0").await;
    let spots = "  left     LEFT, partition 1, offset 1: key 1 byte, value 1 byte\n  \
                 right    RIGHT, partition 0, offset 1: key 1 byte, value 1 byte\n  \
                 value has 1 byte on the left, 1 byte on the right; byte 0 is the first that differs\n    \
                 left   2\n    right  3\n";
    let expected = format!("different: record 2 of its key is not the same\n{spots}");
    assert_eq!(outcome(&topics, &["--by-key", "--show"]).await, (1, expected));
    let expected = format!("different: 1 record only on the left, 1 record only on the right\n{spots}");
    assert_eq!(outcome(&topics, &["--unordered", "--show"]).await, (1, expected));

    let topics = pair((2, 2), "a=1 1>-=0", "1>a=1 1>a=2 -=0 -=0").await;
    let (_, text) = outcome(&topics, &["--by-key"]).await;
    assert!(text.starts_with("different: record 2 of its key is missing on the left side\n"), "{text}");
    let (_, text) = outcome(&topics, &["--unordered"]).await;
    assert!(
        text.starts_with("different: 0 records only on the left, 2 records only on the right\n"),
        "{text}"
    );
}

#[tokio::test]
async fn sets_are_paired_by_what_stands_for_the_star() {
    let (broker, prefix) = (KafkaBroker::shared().await, unique("set"));
    let name = |side: &str, rest: &str| format!("{prefix}.{side}{rest}");
    for rest in ["orders", "invoices"] {
        for side in ["", "new."] {
            broker.create_topic(&name(side, rest), 2).await;
            fill(&name(side, rest), "a=1 1>b=2").await;
        }
    }
    let sets = [name("", "*"), name("new.", "*")];
    assert_eq!(outcome(&sets, &[]).await, (0, "equal: 4 records in 2 topics, 4 partitions\n".to_owned()));

    fill(&name("new.", "orders"), "1>c=3").await;
    let (code, text) = outcome(&sets, &[]).await;
    let expected = format!(
        "different: record 2 of partition 1 is missing on the left side\n  \
         right    {}, partition 1, offset 1: key 1 byte, value 1 byte\n",
        name("new.", "orders")
    );
    assert_eq!((code, text), (1, expected));

    broker.create_topic(&name("new.", "payments"), 1).await;
    let (code, text) = outcome(&sets, &[]).await;
    let (topic, wanted) = (name("new.", "payments"), name("", "payments"));
    let expected =
        format!("different: topic {topic} has no counterpart: there is no {wanted} on the left side\n");
    assert_eq!((code, text), (1, expected));
}

/// Transactions leave markers in the log, and what was aborted is there as well: offsets that no record has.
#[tokio::test]
async fn markers_and_aborted_records_are_no_records() {
    let brokers = KafkaBroker::shared().await.brokers().to_owned();
    let topics = pair((2, 2), "1>z=0", "a=1 a=2 a=3 1>z=0").await;
    let left = topics[0].clone();
    let write = move || {
        let producer: BaseProducer =
            config(&brokers).set("transactional.id", unique("transaction")).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        for (words, commit) in [("a=1", true), ("a=X", false), ("a=2 a=3", true), ("a=Y a=Z", false)] {
            producer.begin_transaction().unwrap();
            words.split(' ').for_each(|word| send(&producer, &left, word));
            producer.flush(PATIENCE).unwrap();
            if commit {
                producer.commit_transaction(PATIENCE).unwrap();
            } else {
                producer.abort_transaction(PATIENCE).unwrap();
            }
        }
        // One that stays open: what it has written is not there yet.
        producer.begin_transaction().unwrap();
        send(&producer, &left, "a=open");
        producer.flush(PATIENCE).unwrap();
        producer
    };
    let producer = spawn_blocking(write).await.unwrap();
    let expected = (0, "equal: 4 records in 1 topic, 2 partitions\n".to_owned());
    assert_eq!(outcome(&topics, &[]).await, expected);
    assert_eq!(outcome(&topics, &["--unordered"]).await, expected);
    let (code, text) = outcome(&topics, &["-X", "isolation.level=read_uncommitted"]).await;
    assert_eq!(code, 1, "{text}");
    spawn_blocking(move || producer.commit_transaction(PATIENCE)).await.unwrap().unwrap();
    let (code, text) = outcome(&topics, &[]).await;
    assert_eq!(code, 1);
    assert!(text.contains("record 4 of partition 0 is missing on the right side\n"), "{text}");
}

/// Compaction takes records out of the middle.
#[tokio::test]
async fn what_was_compacted_away_leaves_no_trace() {
    let broker = KafkaBroker::shared().await;
    let topics = pair((1, 1), "", "").await;
    let admin: AdminClient<DefaultClientContext> = config(broker.brokers()).create().unwrap();
    let changes = AlterConfig::new(ResourceSpecifier::Topic(&topics[0]))
        .set("cleanup.policy", "compact")
        .set("min.cleanable.dirty.ratio", "0.001")
        .set("max.compaction.lag.ms", "100")
        .set("segment.ms", "100");
    let results = admin.alter_configs([&changes], &AdminOptions::new()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let words: Vec<String> = (0..400).map(|n| format!("a={n}")).collect();
    fill(&topics[0], &format!("b=1 {}", words.join(" "))).await;
    let left = eventually("the cleaner to come", PATIENCE, async || {
        // A segment is closed only when a record comes after its time.
        fill(&topics[0], "c=5").await;
        let records = consume(broker.brokers(), &topics[0], 1, Duration::from_secs(5)).await;
        (records.len() < 400).then_some(records)
    })
    .await;
    let [first, second, ..] = &left[..] else { panic!("{left:?}") };
    assert_eq!((first.offset, second.offset), (0, 400), "{left:?}");
    // Whatever the cleaner does meanwhile, the first two stay.
    fill(&topics[1], "b=1 a=399 x=0").await;
    let limited = outcome(&topics, &["--limit", "2"]).await;
    assert_eq!(limited, (0, "equal: 2 records in 1 topic, 1 partition\n".to_owned()));
    let (code, text) = outcome(&topics, &[]).await;
    assert_eq!(code, 1);
    assert!(
        text.contains("record 3 of partition 0 ") && text.contains("RIGHT, partition 0, offset 2"),
        "{text}"
    );
}

/// What comes while it reads is beyond the end, and it ends.
#[tokio::test]
async fn a_topic_that_still_grows_has_an_end() {
    let words = "a=1 ".repeat(3000);
    let topics = pair((1, 1), &words, &words).await;
    let (brokers, names) = (KafkaBroker::shared().await.brokers().to_owned(), topics.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = spawn_blocking(move || {
        let producer: BaseProducer = config(&brokers).create().unwrap();
        while stopped.try_recv().is_err() {
            names.iter().for_each(|name| send(&producer, name, "a=1"));
            producer.flush(PATIENCE).unwrap();
        }
    });
    for _ in 0..3 {
        let found = verify(&topics, &[]).await;
        let text = String::from_utf8(found.stdout).unwrap();
        assert!(text.starts_with("equal: 3") || text.contains("is missing on the"), "{text}");
        let limited = outcome(&topics, &["--limit", "3000"]).await;
        assert_eq!(limited, (0, "equal: 3000 records in 1 topic, 1 partition\n".to_owned()));
    }
    stop.send(()).unwrap();
    writer.await.unwrap();
}

#[tokio::test]
async fn programs_read_one_object() {
    let topics = pair((1, 1), "a=1/id:1/x:1 b=2", "a=1/id:1/x:1 b=2").await;
    let json = async |topics: &[String; 2], flags: &[&str]| -> Value {
        let Output { stdout, .. } = verify(topics, &[&["--json"], flags].concat()).await;
        let text = String::from_utf8(stdout).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let found = json(&topics, &[]).await;
    assert_eq!(
        found.to_string(),
        r#"{"difference":null,"equal":true,"partitions":{"left":1,"right":1},"records":2,"repeats":{"left":0,"right":0},"topics":1}"#
    );
    let other = topic("right", 1, "a=1/id:1/x:21 b=2").await;
    let found = json(&[topics[0].clone(), other.clone()], &["--show"]).await;
    assert_eq!((&found["equal"], &found["records"]), (&Value::Bool(false), &0.into()));
    let difference = &found["difference"];
    assert_eq!(difference["kind"], "record");
    assert_eq!(difference["right"]["topic"], other);
    assert_eq!((&difference["left"]["partition"], &difference["left"]["offset"]), (&0.into(), &0.into()));
    let part = &difference["parts"][0];
    assert_eq!((&part["part"], &part["header"]), (&"header".into(), &"x".into()));
    assert_eq!(part["bytes"].to_string(), r#"{"left":1,"right":2}"#);
    assert_eq!((&part["first_byte"], &part["excerpt"]["right"]), (&0.into(), &"21".into()));
    let hidden = json(&[topics[0].clone(), other], &[]).await;
    assert!(hidden["difference"]["parts"][0].get("excerpt").is_none(), "{hidden}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let brokers = KafkaBroker::shared().await.brokers();
    let here = topic("here", 1, "").await;
    for (left, right, expected) in [
        (
            here.as_str(),
            "not_there",
            format!("error: topic not_there does not exist at {brokers}, on the right side\n"),
        ),
        (
            "not_there",
            &here,
            format!("error: topic not_there does not exist at {brokers}, on the left side\n"),
        ),
        (
            "no.such.*",
            "no.other.*",
            format!("error: there is no topic no.such.* at {brokers}, on the left side\n"),
        ),
    ] {
        let found = verify(&[left.to_owned(), right.to_owned()], &[]).await;
        let stderr = String::from_utf8(found.stderr).unwrap();
        assert_eq!((found.status.code(), found.stdout.as_slice()), (Some(1), &b""[..]));
        assert!(stderr.starts_with(&expected) && stderr.contains("  advice: check the name"), "{stderr}");
    }
    // Asking for it has not made it.
    let again = verify(&[here.clone(), "not_there".to_owned()], &[]).await;
    assert_eq!(again.status.code(), Some(1));
    let away = Walpost::with(["verify", &here, "b", "--brokers", "127.0.0.1:1"]).output().await;
    let stderr = String::from_utf8(away.stderr).unwrap();
    assert_eq!(away.status.code(), Some(1));
    assert!(stderr.starts_with("error: no Kafka broker answers at 127.0.0.1:1: "), "{stderr}");
    // Another cluster may have a topic of the same name.
    let same = [here.clone(), here];
    let found = outcome(&same, &["--right-brokers", brokers]).await;
    assert_eq!(found, (0, "equal: 0 records in 1 topic, 1 partition\n".to_owned()));
}
/// To read is all that it needs: no group is joined, so none need be granted.
#[tokio::test]
async fn rights_on_the_topics_are_enough_and_their_lack_is_named() {
    let broker = KafkaBroker::start_guarded().await;
    let topics = [unique("left"), unique("right")];
    let brokers = broker.brokers().to_owned();
    for topic in &topics {
        broker.create_topic(topic, 1).await;
    }
    let names = topics.clone();
    let write = move || {
        let producer: BaseProducer = config(&brokers).create().unwrap();
        names.iter().for_each(|name| send(&producer, name, "a=1"));
        producer.flush(PATIENCE).unwrap();
    };
    spawn_blocking(write).await.unwrap();
    let verify = async || {
        let [left, right] = &topics;
        let found = Walpost::with(["verify", left, right, "--brokers", broker.brokers()]).output().await;
        let text = [found.stdout, found.stderr].map(|text| String::from_utf8(text).unwrap());
        (found.status.code(), text.concat())
    };
    let equal = (Some(0), "equal: 1 record in 1 topic, 1 partition\n".to_owned());
    acl::close_group(&broker, "walpost-verify").await;
    assert_eq!(verify().await, equal);
    acl::close_to_readers(&broker, &topics[1]).await;
    let (code, text) = verify().await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("error: ") && text.contains(&topics[1]), "{text}");
    assert!(
        text.contains("  advice: the Kafka user may not read this topic: grant READ and DESCRIBE"),
        "{text}"
    );
}
