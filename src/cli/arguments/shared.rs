//! Settings that several commands take.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Layer, layers};
use crate::error::OutboxError;

/// Where the outbox is.
#[derive(Args, Default)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArguments {
    /// Where Postgres is, as for psql [default: PG* variables, then the local socket]
    ///
    /// A URL or key=value pairs. What is missing in it comes from PGHOST, PGPORT, PGDATABASE, PGUSER,
    /// PGPASSWORD and the other variables of psql, then from ~/.pgpass. Several hosts are tried in turn;
    /// target_session_attrs=primary picks the primary. A password is refused here, since every user of the
    /// machine could see it. Connect directly, not through a pooler.
    ///
    /// [env: WALPOST_DATABASE_URL] [file: database_url]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The file that holds the password and nothing else, read again for each connection [default: none]
    ///
    /// Goes over PGPASSWORD and ~/.pgpass. When the password is changed, the file may follow later: a refused login is told
    /// and tried again. The end of the line is no part of the password.
    ///
    /// [env: WALPOST_PASSWORD_FILE] [file: password_file]
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// A command that prints the password, run by sh again for each connection [default: none]
    ///
    /// For tokens that expire, such as aws rds generate-db-auth-token. It may take ten seconds. What it prints is never
    /// logged; if it fails, the end of what it says on stderr is.
    ///
    /// [env: WALPOST_PASSWORD_COMMAND] [file: password_command]
    #[arg(long, value_name = "COMMAND")]
    password_command: Option<String>,
    /// The outbox table, written as in SQL [default: the preset's; of walpost, outbox.messages]
    ///
    /// A name without a schema means the schema public. Several tables, given again and again or separated by commas,
    /// are relayed together through one publication and one slot, in the order of commits over all of them; beside the
    /// first one stand the tables dead_letters and walpost_seal.
    ///
    /// [env: WALPOST_TABLE] [file: table]
    #[arg(long, value_name = "NAME")]
    table: Vec<String>,
    /// The publication of that table, exactly as in the catalogue [default: walpost]
    ///
    /// Only the rows that it publishes are relayed.
    ///
    /// [env: WALPOST_PUBLICATION] [file: publication]
    #[arg(long, value_name = "NAME")]
    publication: Option<String>,
    /// The replication slot: 1 to 63 of a-z, 0-9 and _ [default: walpost]
    ///
    /// It remembers how far messages were published; another name starts from the present. One slot serves
    /// one relay at a time.
    ///
    /// [env: WALPOST_SLOT] [file: slot]
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// Whose outbox table it is [default: walpost]
    ///
    /// walpost is the table that `walpost setup` makes; debezium, goharvest, k1s0, k1s0-csharp, k1s0-events, open-outbox
    /// and spakky are tables that other libraries have made. A preset says where the table is, unless --table does, and
    /// which of its columns are which part of a record, unless --map-... does.
    ///
    /// [env: WALPOST_PRESET] [file: preset]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Debezium's own configuration, for --preset debezium [default: none]
    ///
    /// The connector's JSON or properties, or the properties of Debezium Server. Records become what Debezium makes of them,
    /// byte for byte; table, slot and publication are the connector's unless they are given here. Several files, such as
    /// Connect's worker.properties and the connector's, are separated by commas, later ones over earlier ones. Where the
    /// database and the brokers are is not read from them. An option that is not reproduced is an error.
    ///
    /// [env: WALPOST_DEBEZIUM_CONFIG] [file: debezium_config]
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    debezium_config: Vec<String>,
    /// A setting for one of several tables, such as 'shop.events: topic=orders'; may be given again and again
    ///
    /// Entries are preset, and those of --map-...: id, topic, key and so on. They go over the settings for all tables. A
    /// table with a preset of its own takes of those none. In the variable they stand one a line, or separated by
    /// semicolons; in the file below [map_for."shop.events"], such as topic = "orders".
    ///
    /// [env: WALPOST_MAP_FOR] [file: map_for]
    #[arg(long, value_name = "TABLE: ENTRY=TEXT")]
    map_for: Vec<String>,
}

/// Which columns are which part of a record.
#[derive(Args, Default)]
#[command(next_help_heading = "Mapping: templates such as orders.{region}; none for no such part")]
pub struct MappingArguments {
    /// What tells a row from others [default: the preset's]
    ///
    /// In a template {column} stands for a column's text, {column.member} for what stands there in its JSON, {a|b} for
    /// the first that is not null, and {column?} allows that the table has no such column. A template is null when one of
    /// its columns is. {$schema} and {$table} are the names of the row's table.
    ///
    /// [env: WALPOST_MAP_ID] [file: map_id]
    #[arg(long, value_name = "TEMPLATE")]
    map_id: Option<String>,
    /// The topic, such as outbox.event.{aggregatetype} [default: the preset's]
    ///
    /// [env: WALPOST_MAP_TOPIC] [file: map_topic]
    #[arg(long, value_name = "TEMPLATE")]
    map_topic: Option<String>,
    /// The key, such as {payload.customer.id|id} [default: the preset's]
    ///
    /// [env: WALPOST_MAP_KEY] [file: map_key]
    #[arg(long, value_name = "TEMPLATE")]
    map_key: Option<String>,
    /// The partition: a column of whole numbers; null leaves the choice to the key [default: the preset's]
    ///
    /// [env: WALPOST_MAP_PARTITION] [file: map_partition]
    #[arg(long, value_name = "TEMPLATE")]
    map_partition: Option<String>,
    /// The value, such as {payload}, or object(type={type}, data={payload}) for a JSON object [default: the preset's]
    ///
    /// A bytea, json or text column gives its very bytes. In an object, JSON and numbers stay as they are, anything else
    /// becomes a string. compact({payload}) writes JSON as most programs do, which have read it first: without whitespace,
    /// members in the order of their names, strings with no more escapes than they need. Null makes a tombstone.
    ///
    /// [env: WALPOST_MAP_VALUE] [file: map_value]
    #[arg(long, value_name = "TEMPLATE")]
    map_value: Option<String>,
    /// The record's time: a column, or commit for that of the commit [default: the preset's]
    ///
    /// A column of numbers is read as milliseconds since 1970, or as its unit says: {created} s, ms, us or ns. none is
    /// the time of sending.
    ///
    /// [env: WALPOST_MAP_TIMESTAMP] [file: map_timestamp]
    #[arg(long, value_name = "COLUMN")]
    map_timestamp: Option<String>,
    /// The header event_type [default: the preset's]
    ///
    /// [env: WALPOST_MAP_EVENT_TYPE] [file: map_event_type]
    #[arg(long, value_name = "TEMPLATE")]
    map_event_type: Option<String>,
    /// The header correlation_id [default: the preset's]
    ///
    /// [env: WALPOST_MAP_CORRELATION_ID] [file: map_correlation_id]
    #[arg(long, value_name = "TEMPLATE")]
    map_correlation_id: Option<String>,
    /// The headers, separated by commas, such as type={type}, {headers} [default: the preset's]
    ///
    /// name={column} is one header, name?={column} one that is left out when null, {headers} the members of a JSON
    /// object, {names}={values} two columns of arrays.
    ///
    /// [env: WALPOST_MAP_HEADERS] [file: map_headers]
    #[arg(long, value_name = "LIST")]
    map_headers: Option<String>,
    /// Which rows are sent, such as status=PENDING|FAILED, sent_at= [default: the preset's]
    ///
    /// column=text|text, separated by commas; nothing stands for null. Other rows are passed over. A text is read as SQL reads
    /// a value of the column's type: false, f and 0 are the same of a boolean.
    ///
    /// [env: WALPOST_MAP_ONLY] [file: map_only]
    #[arg(long, value_name = "LIST")]
    map_only: Option<String>,
    /// What --write-back mark sets in a published row, such as status=SENT, sent_at=now [default: the preset's]
    ///
    /// column=text, separated by commas; now is the server's time, nothing is null. SENT|sent is in lower case where the
    /// column's text is; column?= allows that the table has no such column.
    ///
    /// [env: WALPOST_MAP_MARK] [file: map_mark]
    #[arg(long, value_name = "LIST")]
    map_mark: Option<String>,
    /// The column that tells when a row is to be sent, such as {scheduled_at} [default: the preset's]
    ///
    /// A row whose time is still to come when it is committed is held back in the table `scheduled` until then. A column
    /// of numbers is read as for --map-timestamp. none sends every row at once.
    ///
    /// [env: WALPOST_MAP_DUE] [file: map_due]
    #[arg(long, value_name = "COLUMN")]
    map_due: Option<String>,
    /// Whether records have the headers id, walpost.lsn and walpost.index: yes or no [default: the preset's]
    ///
    /// By the last two a consumer drops repeats with one comparison.
    ///
    /// [env: WALPOST_MAP_OWN_HEADERS] [file: map_own_headers]
    #[arg(long, value_name = "CHOICE")]
    map_own_headers: Option<String>,
}

/// Where messages go.
#[derive(Args, Default)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArguments {
    /// Brokers to ask first: host:port, separated by commas [default: localhost:9092]
    ///
    /// [env: WALPOST_BROKERS] [file: brokers]
    #[arg(long, value_name = "LIST")]
    brokers: Option<String>,
    /// A property of librdkafka; may be given again and again
    ///
    /// Such as compression.type=zstd, linger.ms=20, security.protocol=sasl_ssl. Those that the promises
    /// depend on (acks, enable.idempotence, retries, requests in flight) can't be weakened. Secrets are
    /// refused here: use the variable or the file.
    ///
    /// Any property may come from a file or a command: -X sasl.password@file=/run/secrets/kafka, -X
    /// sasl.password@command='...', WALPOST_KAFKA_SASL_PASSWORD_FILE, or sasl.password = { file = "..." } below [kafka]. It is
    /// read again when brokers refuse the login. sasl.oauthbearer.token, given so, is the token of OAUTHBEARER.
    ///
    /// [env: WALPOST_KAFKA_..., such as WALPOST_KAFKA_SASL_PASSWORD] [file: kafka.sasl.password]
    #[arg(short = 'X', value_name = "KEY=VALUE")]
    property: Vec<String>,
}

/// Where messages may go.
#[derive(Args, Default)]
#[command(next_help_heading = "Kafka")]
pub struct TopicArguments {
    /// The topics that may be written to, such as 'orders.*,audit' [default: all]
    ///
    /// Names separated by commas; * stands for any characters. A message for another topic is refused by name, before a
    /// broker hears of it, and then --on-refusal decides at once. The brokers' own topics, such as __consumer_offsets, are
    /// always refused.
    ///
    /// [env: WALPOST_TOPICS] [file: topics]
    #[arg(long, value_name = "LIST")]
    topics: Option<String>,
}

/// How to relay.
#[derive(Args, Default)]
#[command(next_help_heading = "Relay")]
pub struct RelayArguments {
    /// What is promised about repeats [default: at-least-once]
    ///
    /// This version knows at-least-once: nothing is lost, and after a fault the last messages may arrive
    /// again.
    ///
    /// [env: WALPOST_DELIVERY] [file: delivery]
    #[arg(long, value_name = "PROMISE")]
    delivery: Option<String>,
    /// How long a stop waits for Kafka's acknowledgements [default: 25s]
    ///
    /// A whole number and its unit: ms, s, m or h. What is not acknowledged by then is sent again at the
    /// next start. Keep it below the time after which your orchestrator kills (30s in Kubernetes).
    ///
    /// [env: WALPOST_DRAIN_TIMEOUT] [file: drain_timeout]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<String>,
    /// Where health, metrics and the page are answered over HTTP: host:port, or off [default: 127.0.0.1:8480]
    ///
    /// Port 0 takes a free one and logs it. /healthz, /readyz and /metrics are open to whoever reaches the address, and
    /// hold no payload and no secret. What the page shows is for this machine's users, or for whoever has the token.
    ///
    /// [env: WALPOST_LISTEN] [file: listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// A file with the token that a person gives to the page [default: none]
    ///
    /// Without one the page shows nothing on an address that others can reach. At least 16 letters, such as those of
    /// `openssl rand -hex 32`; read again for each request.
    ///
    /// [env: WALPOST_LISTEN_TOKEN_FILE] [file: listen_token_file]
    #[arg(long, value_name = "FILE")]
    listen_token_file: Option<String>,
    /// Let whoever has the token replay and discard dead letters on the page [default: no]
    ///
    /// [env: WALPOST_PAGE_ACTIONS] [file: page_actions]
    #[arg(long, value_name = "YES|NO", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    page_actions: Option<String>,
    /// A collector for spans of records whose rows belong to a trace: http:// or https://host:port, or off
    ///
    /// OTLP over HTTP. A row's header traceparent goes to the record untouched either way; with a collector, the way from
    /// commit to acknowledgement becomes a span of that trace. Without this setting OTEL_EXPORTER_OTLP_ENDPOINT counts.
    /// Over https the collector is verified, by the system's authorities or those in OTEL_EXPORTER_OTLP_CERTIFICATE.
    ///
    /// [env: WALPOST_OTLP_ENDPOINT] [file: otlp_endpoint]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// What becomes of a row that is published.
#[derive(Args, Default)]
#[command(next_help_heading = "Rows that are published")]
pub struct WriteBackArguments {
    /// What follows in the table when Kafka has a row's message: none, mark or delete [default: none]
    ///
    /// mark sets the columns that --map-mark or the preset names, so that dashboards and cleaning jobs of another library
    /// go on working; delete removes the row. Either needs a primary key and a right on the table, which `walpost check`
    /// names, and is done before the slot moves: a crash may repeat a message, and leaves no published row unmarked.
    ///
    /// [env: WALPOST_WRITE_BACK] [file: write_back]
    #[arg(long, value_name = "CHOICE")]
    write_back: Option<String>,
}

/// What becomes of a message that can't be sent.
#[derive(Args, Default)]
#[command(next_help_heading = "Messages that Kafka refuses")]
pub struct RefusalArguments {
    /// What follows when a message can't be sent after all retries: halt or dead-letter [default: halt]
    ///
    /// halt stops the line, says why and holds the slot, so that nothing passes the message until a person
    /// has mended the cause. dead-letter parks it in the table dead_letters beside the outbox table; later
    /// messages of the same key are parked behind it, all others flow. `walpost dead-letters` lists, replays
    /// and discards them. Nothing is dropped by itself.
    ///
    /// [env: WALPOST_ON_REFUSAL] [file: on_refusal]
    #[arg(long, value_name = "POLICY")]
    on_refusal: Option<String>,
}

/// How often and how slowly a refused message is tried again.
#[derive(Args, Default)]
#[command(next_help_heading = "Messages that Kafka refuses")]
pub struct RetryArguments {
    /// How often a refused message is tried again [default: 5]
    ///
    /// Refused means for good: too large, not authorised, no such topic. An unreachable broker refuses nothing:
    /// it is waited for without end.
    ///
    /// [env: WALPOST_MAX_RETRIES] [file: max_retries]
    #[arg(long, value_name = "NUMBER")]
    max_retries: Option<String>,
    /// The wait before the second try [default: 1s]
    ///
    /// [env: WALPOST_BASE_DELAY] [file: base_delay]
    #[arg(long, value_name = "TIME")]
    base_delay: Option<String>,
    /// By what each wait is longer than the one before; at least 1 [default: 2]
    ///
    /// [env: WALPOST_MULTIPLIER] [file: multiplier]
    #[arg(long, value_name = "FACTOR")]
    multiplier: Option<String>,
    /// The longest wait between two tries [default: 60s]
    ///
    /// [env: WALPOST_MAX_DELAY] [file: max_delay]
    #[arg(long, value_name = "TIME")]
    max_delay: Option<String>,
}

/// What is read besides, and what is told.
#[derive(Args, Default)]
#[command(next_help_heading = "Configuration and log")]
pub struct LogArguments {
    /// The configuration file [default: walpost.toml in the working folder, if there is one]
    ///
    /// TOML: every setting under its own name, such as slot = "walpost", and a table kafka. Flags go over
    /// environment variables, those over the file.
    ///
    /// [env: WALPOST_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How the log looks on stderr: text or json [default: text on a terminal, else json]
    ///
    /// [env: WALPOST_LOG_FORMAT] [file: log_format]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: error, warn, info, debug or trace, or directives [default: info]
    ///
    /// Directives choose by module, such as info,walpost=debug. Payloads are never logged.
    ///
    /// [env: WALPOST_LOG] [file: log_level]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl DatabaseArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) -> Result<(), OutboxError> {
        layer.put(&layers::DATABASE_URL, self.database_url.as_ref());
        layer.put(&layers::PASSWORD_FILE, self.password_file.as_ref());
        layer.put(&layers::PASSWORD_COMMAND, self.password_command.as_ref());
        layer.put(&layers::TABLE, Some(&self.table.join(", ")).filter(|_| !self.table.is_empty()));
        layer.put(&layers::PUBLICATION, self.publication.as_ref());
        layer.put(&layers::SLOT, self.slot.as_ref());
        layer.put(&layers::PRESET, self.preset.as_ref());
        let files = Some(self.debezium_config.join(",")).filter(|files| !files.is_empty());
        layer.put(&layers::DEBEZIUM_CONFIG, files.as_ref());
        self.map_for.iter().try_for_each(|entry| layer.put_for_table(entry))
    }
}

impl MappingArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::MAP_ID, self.map_id.as_ref());
        layer.put(&layers::MAP_TOPIC, self.map_topic.as_ref());
        layer.put(&layers::MAP_KEY, self.map_key.as_ref());
        layer.put(&layers::MAP_PARTITION, self.map_partition.as_ref());
        layer.put(&layers::MAP_VALUE, self.map_value.as_ref());
        layer.put(&layers::MAP_TIMESTAMP, self.map_timestamp.as_ref());
        layer.put(&layers::MAP_EVENT_TYPE, self.map_event_type.as_ref());
        layer.put(&layers::MAP_CORRELATION_ID, self.map_correlation_id.as_ref());
        layer.put(&layers::MAP_HEADERS, self.map_headers.as_ref());
        layer.put(&layers::MAP_ONLY, self.map_only.as_ref());
        layer.put(&layers::MAP_MARK, self.map_mark.as_ref());
        layer.put(&layers::MAP_DUE, self.map_due.as_ref());
        layer.put(&layers::MAP_OWN_HEADERS, self.map_own_headers.as_ref());
    }
}

impl KafkaArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) -> Result<(), OutboxError> {
        layer.put(&layers::BROKERS, self.brokers.as_ref());
        self.property.iter().try_for_each(|property| layer.put_property(property))
    }
}

impl TopicArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::TOPICS, self.topics.as_ref());
    }
}

impl RelayArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::DELIVERY, self.delivery.as_ref());
        layer.put(&layers::DRAIN_TIMEOUT, self.drain_timeout.as_ref());
        layer.put(&layers::LISTEN, self.listen.as_ref());
        layer.put(&layers::LISTEN_TOKEN_FILE, self.listen_token_file.as_ref());
        layer.put(&layers::PAGE_ACTIONS, self.page_actions.as_ref());
        layer.put(&layers::OTLP_ENDPOINT, self.otlp_endpoint.as_ref());
    }
}

impl WriteBackArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::WRITE_BACK, self.write_back.as_ref());
    }
}

impl RefusalArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::ON_REFUSAL, self.on_refusal.as_ref());
    }
}

impl RetryArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::MAX_RETRIES, self.max_retries.as_ref());
        layer.put(&layers::BASE_DELAY, self.base_delay.as_ref());
        layer.put(&layers::MULTIPLIER, self.multiplier.as_ref());
        layer.put(&layers::MAX_DELAY, self.max_delay.as_ref());
    }
}

impl LogArguments {
    pub(super) fn put_into(&self, layer: &mut Layer) {
        layer.put(&layers::LOG_FORMAT, self.log_format.as_ref());
        layer.put(&layers::LOG_LEVEL, self.log_level.as_ref());
    }
}
