//! The topics that records go to: whether they are there, how many copies they keep, and what they take.

use std::collections::BTreeMap;

use rdkafka::admin::{ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::compaction::is_compacted;
use super::{ANSWER, Finding, Subject, alter, native, options};
use crate::kafka::guard::canonical;
use crate::kafka::probe::fetch_metadata;

const SUBJECT: &str = "topic";
const WRITE: &str = "write";

/// A topic that records go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicInUse {
    pub(crate) name: String,
    /// Some of its records have no key.
    pub(crate) keyless: bool,
    /// Bytes of the largest record that is known, about.
    pub(crate) largest: i64,
}

/// What the brokers say of one.
struct Described {
    partitions: usize,
    /// The fewest replicas that a partition has, and the fewest of them that are in sync, with that partition.
    replicas: usize,
    in_sync: (usize, i32),
    leaderless: Vec<i32>,
}

enum There {
    Yes(Described),
    Missing,
    Refused,
    Invalid,
    Unknown(String),
}

pub(super) async fn look(subject: &Subject<'_>, topics: &[TopicInUse]) -> Vec<Finding> {
    if topics.is_empty() {
        let text = "none is known: the mapping names none by itself, and there are no rows to take one from";
        return vec![Finding::good("topics", text)];
    }
    let mut found = Vec::new();
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    let (topics, forbidden): (Vec<_>, Vec<_>) =
        topics.iter().partition(|topic| subject.settings.topics.allow(&topic.name));
    for topic in forbidden {
        let text =
            format!("{} is named by a row or the mapping, and is not on the list of --topics", topic.name);
        let advice = "its messages are refused: add it to --topics (WALPOST_TOPICS), or see which service writes such rows";
        found.push(Finding::fail(SUBJECT, text, advice));
    }
    for topic in topics {
        // It waits for the answer in place; a worker of the runtime may.
        match tokio::task::block_in_place(|| describe(subject, &topic.name)) {
            There::Yes(described) => there.push((topic, described)),
            There::Missing => missing.push(topic),
            There::Refused => found.push(refused(subject, &topic.name)),
            There::Invalid => found.push(Finding::fail(
                SUBJECT,
                format!("{} is no name of a topic", topic.name),
                "Kafka allows 1 to 249 of a-z A-Z 0-9 . _ -: see --map-topic, or the rows that say so",
            )),
            There::Unknown(why) => {
                let text = format!("{} was not looked at: {why}", topic.name);
                found.push(Finding::warn(SUBJECT, text, "run this again"));
            }
        }
    }
    let settings = configurations(subject, &there).await;
    for (topic, described) in &there {
        found.extend(judge(subject, topic, described, settings.get(&topic.name)));
    }
    found.extend(permissions(subject, &there));
    if !missing.is_empty() {
        found.extend(absent(subject, &missing).await);
    }
    found
}

/// What the metadata says, without anything being made by the question.
fn describe(subject: &Subject<'_>, name: &str) -> There {
    use RDKafkaErrorCode as Code;
    let metadata = match fetch_metadata(subject.admin.inner(), Some(name), ANSWER) {
        Ok(metadata) => metadata,
        Err(error) => {
            return match error.rdkafka_error_code() {
                Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => There::Missing,
                Some(Code::TopicAuthorizationFailed) => There::Refused,
                Some(Code::InvalidTopic) => There::Invalid,
                _ => There::Unknown(error.to_string()),
            };
        }
    };
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return There::Missing;
    };
    match topic.error() {
        None => There::Yes(described(topic)),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => There::Missing,
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => There::Refused,
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION) => There::Invalid,
        Some(other) => There::Unknown(RDKafkaErrorCode::from(other).to_string()),
    }
}

fn described(topic: &MetadataTopic) -> Described {
    let partitions = topic.partitions();
    let in_sync = partitions.iter().map(|partition| (partition.isr().len(), partition.id())).min();
    Described {
        partitions: partitions.len(),
        replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
        in_sync: in_sync.unwrap_or_default(),
        leaderless: partitions.iter().filter(|one| one.leader() < 0).map(|one| one.id()).collect(),
    }
}

fn refused(subject: &Subject<'_>, name: &str) -> Finding {
    let text = format!("the Kafka user may not even ask about {name}, and so not write to it");
    Finding::fail(SUBJECT, text, grant(subject, name))
}

/// What an operator runs to let the relay write to a topic.
fn grant(subject: &Subject<'_>, name: &str) -> String {
    format!(
        "grant it: kafka-acls.sh --bootstrap-server {} --add --allow-principal User:<the relay's> --operation Write --topic {name}, \
         and take away what denies it (kafka-acls.sh --list --topic {name})",
        subject.settings.brokers
    )
}

/// Whether each topic may be written to, as the brokers tell; those before 2.3 do not (KIP-430).
fn permissions(subject: &Subject<'_>, there: &[(&TopicInUse, Described)]) -> Vec<Finding> {
    let names: Vec<_> = there.iter().map(|(topic, _)| topic.name.as_str()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    // It waits for the answer in place; a worker of the runtime may.
    let told = tokio::task::block_in_place(|| native::may_write(subject.admin.inner(), &names, ANSWER));
    let (told, why) = match told {
        Ok(told) => (told, "the brokers do not tell".to_owned()),
        Err(why) => (BTreeMap::new(), why),
    };
    let of = |wanted: Option<bool>| -> Vec<&str> {
        names.iter().copied().filter(|name| told.get(*name).copied() == wanted).collect()
    };
    let mut found: Vec<_> = of(Some(false)).iter().map(|name| forbidden(subject, name)).collect();
    let unknown = of(None);
    if !unknown.is_empty() {
        let text = format!("whether the Kafka user may write to {} is not known: {why}", unknown.join(", "));
        found.push(Finding::warn(WRITE, text, "see the broker's access lists: kafka-acls.sh --list"));
    } else if found.is_empty() {
        found.push(Finding::good(WRITE, format!("the Kafka user may write to {}", names.join(", "))));
    }
    found
}

fn forbidden(subject: &Subject<'_>, name: &str) -> Finding {
    Finding::fail(WRITE, format!("the Kafka user may not write to {name}"), grant(subject, name))
}

pub(super) type Settings = BTreeMap<String, String>;

/// The settings of topics, as far as they may be seen.
async fn configurations(
    subject: &Subject<'_>,
    there: &[(&TopicInUse, Described)],
) -> BTreeMap<String, Result<Settings, String>> {
    let specifiers: Vec<_> =
        there.iter().map(|(topic, _)| ResourceSpecifier::Topic(topic.name.as_str())).collect();
    if specifiers.is_empty() {
        return BTreeMap::new();
    }
    let names = there.iter().map(|(topic, _)| topic.name.clone());
    let answers = match subject.admin.describe_configs(&specifiers, &options()).await {
        Ok(answers) => answers,
        Err(error) => return names.map(|name| (name, Err(error.to_string()))).collect(),
    };
    let mut known = BTreeMap::new();
    // In the order of the questions, since a refusal does not say of what.
    for (name, answer) in names.zip(answers) {
        known.insert(name, answer.map(|resource| values(&resource)).map_err(|code| code.to_string()));
    }
    known
}

pub(super) fn values(resource: &ConfigResource) -> Settings {
    let entries = resource.entries.iter().filter(|entry| !entry.is_sensitive);
    entries.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect()
}

/// What is to be said of a topic that is there: one line if all is well.
fn judge(
    subject: &Subject<'_>,
    topic: &TopicInUse,
    described: &Described,
    settings: Option<&Result<Settings, String>>,
) -> Vec<Finding> {
    let TopicInUse { name, .. } = topic;
    let Described { partitions, replicas, leaderless, .. } = described;
    let mut found = Vec::new();
    if !leaderless.is_empty() {
        let text =
            format!("partitions {leaderless:?} of {name} have no leader: nothing can be written there");
        found.push(Finding::fail(SUBJECT, text, "start the brokers that hold them"));
    }
    let known = match settings {
        Some(Ok(known)) => Some(known),
        Some(Err(_)) | None => None,
    };
    let number = |key: &str| known.and_then(|known| known.get(key)).and_then(|text| text.parse::<i64>().ok());
    found.extend(copies(subject, name, described, number("min.insync.replicas")));
    found.extend(sizes(subject, topic, number("max.message.bytes")));
    if topic.keyless && is_compacted(known.and_then(|known| known.get("cleanup.policy"))) {
        let mend = alter(subject.settings, name, "cleanup.policy=delete");
        let text =
            format!("{name} is compacted, and records go there without a key: the broker refuses them");
        found.push(Finding::fail(SUBJECT, text, format!("give rows a key (--map-key); or {mend}")));
    }
    if found.is_empty() {
        let unseen = match settings {
            Some(Err(why)) => format!("; its settings may not be seen ({why})"),
            _ => number("min.insync.replicas")
                .map(|least| format!(", min.insync.replicas {least}"))
                .unwrap_or_default(),
        };
        let text = format!("{name}: partitions {partitions}, replicas {replicas}{unseen}");
        found.push(Finding::good(SUBJECT, text));
    }
    found
}

/// How many brokers have a record once it is acknowledged.
fn copies(subject: &Subject<'_>, name: &str, of: &Described, least: Option<i64>) -> Option<Finding> {
    let (in_sync, partition) = of.in_sync;
    let (replicas, in_sync) = (to_number(of.replicas), to_number(in_sync));
    if let Some(least) = least.filter(|least| in_sync < *least) {
        let text = format!(
            "partition {partition} of {name} has {in_sync} of {replicas} replicas in sync, and min.insync.replicas is \
             {least}: the broker refuses every record"
        );
        let mend = alter(subject.settings, name, &format!("min.insync.replicas={}", in_sync.max(1)));
        return Some(Finding::fail(SUBJECT, text, format!("start the brokers that are missing; or {mend}")));
    }
    if replicas == 1 {
        let text = format!(
            "{name} keeps one copy of each record: a broker that is lost takes them along, acknowledged or not"
        );
        let advice = if subject.brokers.len() == 1 {
            "a cluster of one broker can't keep more; for production, three brokers and replication factor 3"
                .to_owned()
        } else {
            format!(
                "kafka-reassign-partitions.sh adds replicas; a new topic: kafka-topics.sh --bootstrap-server {} --create \
                 --topic {name} --partitions {} --replication-factor {}",
                subject.settings.brokers,
                of.partitions,
                subject.brokers.len().min(3)
            )
        };
        return Some(Finding::warn(SUBJECT, text, advice));
    }
    if least.is_some_and(|least| least <= 1) {
        let text = format!(
            "{name} has {replicas} replicas, but acknowledges with one (min.insync.replicas is 1): a record may be lost with \
             its only broker"
        );
        return Some(Finding::warn(SUBJECT, text, alter(subject.settings, name, "min.insync.replicas=2")));
    }
    None
}

fn to_number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The largest batch that the topic takes, against what is sent.
fn sizes(subject: &Subject<'_>, topic: &TopicInUse, most: Option<i64>) -> Vec<Finding> {
    let TopicInUse { name, largest, .. } = topic;
    let own = |property: &str, default: i64| {
        let properties = subject.settings.properties.iter().rev();
        let of = properties.filter(|(name, _)| canonical(name) == property);
        of.filter_map(|(_, value)| value.trim().parse().ok()).next().unwrap_or(default)
    };
    let (message, batch) = (own("message.max.bytes", 1_000_000), own("batch.size", 1_000_000));
    let mut found = Vec::new();
    if *largest > message {
        let text = format!(
            "a row for {name} has {largest} bytes, and message.max.bytes of the producer is {message}"
        );
        let wider = largest + largest / 2;
        let advice = format!("-X message.max.bytes={wider}, and as much as max.message.bytes of the topic");
        found.push(Finding::warn(SUBJECT, text, advice));
    }
    let Some(most) = most else { return found };
    if *largest > most {
        let text =
            format!("a row for {name} has {largest} bytes, and the topic takes {most} (max.message.bytes)");
        let wider = format!("max.message.bytes={}", (largest + largest / 2).max(batch.min(message) + 1024));
        found.push(Finding::warn(SUBJECT, text, alter(subject.settings, name, &wider)));
    } else if batch.min(message) > most {
        let text = format!(
            "{name} takes {most} bytes at once (max.message.bytes), and the producer may send {} in a batch: it would be \
             refused as too large",
            batch.min(message)
        );
        let wider = format!("max.message.bytes={}", batch.min(message) + 1024);
        let mend = alter(subject.settings, name, &wider);
        found.push(Finding::warn(SUBJECT, text, format!("-X batch.size={most}; or {mend}")));
    }
    found
}

/// Topics that are not there: whether a broker makes them with the first record.
async fn absent(subject: &Subject<'_>, missing: &[&TopicInUse]) -> Vec<Finding> {
    let broker = subject.brokers.first().map_or(0, |(number, _)| *number);
    let answer = subject.admin.describe_configs(&[ResourceSpecifier::Broker(broker)], &options()).await;
    let answer = answer.map_err(|error| error.to_string()).and_then(|mut answers| match answers.pop() {
        Some(Ok(resource)) if resource.specifier == OwnedResourceSpecifier::Broker(broker) => {
            Ok(values(&resource))
        }
        Some(Err(code)) => Err(code.to_string()),
        _ => Err("no answer".to_owned()),
    });
    let ours = subject.settings.properties.iter().rev();
    let refuses = ours
        .filter(|(name, _)| canonical(name) == "allow.auto.create.topics")
        .map(|(_, value)| value.trim().eq_ignore_ascii_case("false") || value.trim() == "0")
        .next()
        .unwrap_or_default();
    missing.iter().map(|topic| absence(subject, &topic.name, &answer, refuses)).collect()
}

fn absence(subject: &Subject<'_>, name: &str, broker: &Result<Settings, String>, refuses: bool) -> Finding {
    let mend = format!(
        "kafka-topics.sh --bootstrap-server {} --create --topic {name} --partitions 3 --replication-factor {}",
        subject.settings.brokers,
        subject.brokers.len().clamp(1, 3)
    );
    let text = format!("{name} does not exist");
    let value = |known: &Settings, key: &str| known.get(key).cloned().unwrap_or_else(|| "?".to_owned());
    match broker {
        Ok(known) if !refuses && value(known, "auto.create.topics.enable") == "true" => Finding::good(
            SUBJECT,
            format!(
                "{text} yet; the broker makes it with its first record: partitions {}, replicas {}",
                value(known, "num.partitions"),
                value(known, "default.replication.factor")
            ),
        ),
        Ok(_) if refuses => {
            Finding::fail(SUBJECT, format!("{text}, and allow.auto.create.topics is false"), mend)
        }
        Ok(_) => Finding::fail(SUBJECT, format!("{text}, and the broker makes none by itself"), mend),
        Err(why) => {
            let text = format!("{text}; whether the broker would make it may not be asked ({why})");
            Finding::warn(SUBJECT, text, mend)
        }
    }
}
