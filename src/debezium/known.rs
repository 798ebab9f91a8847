//! Options that are known: those that change records and are not reproduced, and those without influence on them.

use super::options::{Options, WrongOption};

/// Refuses what changes records in a way that is not reproduced.
pub(super) fn refuse(options: &mut Options) -> Result<(), WrongOption> {
    for (name, only, why) in ONLY {
        let written = options.written(name);
        match options.take(name)? {
            Some(text) if !only.contains(&text.trim()) => {
                return Err(WrongOption::new(written, format!("`{}` is not reproduced: {why}", text.trim())));
            }
            _ => {}
        }
    }
    let written = options.written("skipped.operations");
    let skipped = options.text("skipped.operations", "t")?;
    if skipped.split(',').any(|operation| operation.trim() == "c") {
        return Err(WrongOption::new(written, "inserts would be skipped, and nothing else is relayed"));
    }
    let is_refused = |name: &str| REFUSED.iter().find(|(start, _)| name.starts_with(start));
    match options.rest().find_map(|(name, written, _)| Some((written, is_refused(name)?.1))) {
        Some((written, why)) => Err(WrongOption::new(written, format!("it is not reproduced: {why}"))),
        None => Ok(()),
    }
}

/// Options that may only have one of these values.
const ONLY: [(&str, &[&str], &str); 22] = [
    (
        "connector.class",
        &["io.debezium.connector.postgresql.PostgresConnector", "PostgresConnector"],
        "only PostgreSQL is read",
    ),
    ("sink.type", &["kafka"], "records go to Kafka"),
    ("plugin.name", &["pgoutput"], "slots are read through pgoutput"),
    ("tasks.max", &["1"], "the connector has one task"),
    ("errors.tolerance", &["none"], "rows would be dropped in silence; see --on-refusal"),
    ("topic.naming.strategy", &["io.debezium.schema.SchemaTopicNamingStrategy"], "it names the schemas"),
    ("field.name.adjustment.mode", &["none"], "it renames fields"),
    ("schema.name.adjustment.mode", &["none"], "it renames schemas"),
    ("include.schema.comments", &["false"], "it adds comments to schemas"),
    ("include.unknown.datatypes", &["false"], "it adds columns of unknown types"),
    ("provide.transaction.metadata", &["false"], "it adds a topic of transactions"),
    ("slot.drop.on.stop", &["false"], "what is committed while nobody reads would be lost"),
    ("slot.stream.params", &[""], "the server may send other rows by it"),
    ("exactly.once.support", &["requested"], TRANSACTIONS),
    ("exactly.once.source.support", &["disabled", "preparing"], TRANSACTIONS),
    ("producer.override.key.serializer", SERIALIZERS, "it would serialize once more"),
    ("producer.override.value.serializer", SERIALIZERS, "it would serialize once more"),
    ("producer.override.partitioner.class", &[], "it chooses partitions"),
    ("producer.override.partitioner.ignore.keys", &["false"], "it chooses partitions"),
    ("producer.override.interceptor.classes", &[""], "it changes records"),
    ("producer.partitioner.class", &[], "it chooses partitions"),
    ("producer.interceptor.classes", &[""], "it changes records"),
];

const TRANSACTIONS: &str =
    "records come at least once, not in transactions; take it out of a copy of the file if that will do";

const SERIALIZERS: &[&str] = &[
    "org.apache.kafka.common.serialization.StringSerializer",
    "org.apache.kafka.common.serialization.ByteArraySerializer",
];

/// Options by the beginning of their names.
const REFUSED: [(&str, &str); 8] = [
    ("converters", "converters of one's own change values"),
    ("post.processors", "post-processors change values"),
    ("predicates", "of an outbox table alone none is needed"),
    ("column.", "it leaves columns out, or changes their values or schemas"),
    ("datatype.propagate.source.type", "it adds parameters to schemas"),
    ("engine.factory", "another engine may do anything"),
    ("producer.override.transactional.id", TRANSACTIONS),
    ("producer.transactional.id", TRANSACTIONS),
];

/// Whether an option has no influence on records: where things are, how fast, how often, how loud.
pub(super) fn is_without_influence(name: &str) -> bool {
    EXACT.contains(&name) || STARTS.iter().any(|start| name.starts_with(start))
}

/// The beginnings of names: the connection, the slot, snapshots, and the worker's own affairs.
const STARTS: [&str; 45] = [
    "access.control.",
    "admin.",
    "advanced.metrics.",
    "api.",
    "config.providers",
    "config.storage.",
    "connection.",
    "consumer.",
    "custom.metric.",
    "database.",
    "driver.",
    "errors.deadletterqueue.",
    "errors.log.",
    "errors.retry.",
    "guardrail.",
    "heartbeat.",
    "incremental.snapshot.",
    "internal.",
    "listeners",
    "log.position.",
    "lsn.flush.",
    "message.prefix.",
    "metric.",
    "metrics.",
    "notification.",
    "offset.",
    "offsets.",
    "openlineage.",
    "producer.",
    "queue.",
    "replica.identity.",
    "rest.",
    "sasl.",
    "schema.history.",
    "security.",
    "signal.",
    "sink.kafka.wait.",
    "slot.",
    "snapshot.",
    "ssl.",
    "status.",
    "task.management.",
    "topic.creation.",
    "topic.heartbeat.",
    "topic.tracking.",
];

const EXACT: [&str; 69] = [
    "auto.include.jmx.reporter",
    "bootstrap.servers",
    "client.dns.lookup",
    "client.id",
    "config.action.reload",
    "config.mode",
    "connect.protocol",
    "connections.max.idle.ms",
    "connector.client.config.override.policy",
    "create.slot.command.timeout",
    "event.processing.failure.handling.mode",
    "executor.shutdown.timeout.ms",
    "flush.lsn.source",
    "group.id",
    "header.converter.schemas.cache.size",
    "hstore.handling.mode",
    "include.schema.changes",
    "initial.statements",
    "inter.worker.key.generation.algorithm",
    "inter.worker.key.size",
    "inter.worker.key.ttl.ms",
    "inter.worker.signature.algorithm",
    "inter.worker.verification.algorithms",
    "interval.handling.mode",
    "max.batch.size",
    "max.queue.size",
    "max.queue.size.in.bytes",
    "message.key.columns",
    "metadata.max.age.ms",
    "money.fraction.digits",
    "name",
    "offset.flush.interval.ms",
    "plugin.discovery",
    "plugin.path",
    "poll.interval.ms",
    "publication.autocreate.mode",
    "publish.via.partition.root",
    "query.fetch.size",
    "query.timeout.ms",
    "read.only",
    "rebalance.timeout.ms",
    "receive.buffer.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "response.http.headers.config",
    "retriable.restart.connector.wait.ms",
    "retry.backoff.ms",
    "scheduled.rebalance.max.delay.ms",
    "schema.refresh.mode",
    "send.buffer.bytes",
    "session.timeout.ms",
    "skip.messages.without.change",
    "sourceinfo.struct.maker",
    "statistics.metrics.enabled",
    "streaming.delay.ms",
    "table.ignore.builtin",
    "task.shutdown.graceful.timeout.ms",
    "termination.wait",
    "tombstones.on.delete",
    "topic.cache.size",
    "topic.transaction",
    "transaction.boundary",
    "transaction.boundary.interval.ms",
    "transaction.metadata.factory",
    "unavailable.value.placeholder",
    "worker.sync.timeout.ms",
    "worker.unsync.backoff.ms",
    "xmin.fetch.interval.ms",
];
