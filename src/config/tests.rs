use std::fs;

use super::*;
use crate::mapping::{HeaderRule, Mark, MarkValue, Template, Timestamp, Value};

#[derive(Default)]
struct Given<'a> {
    flags: &'a [(&'a str, &'a str)],
    properties: &'a [&'a str],
    tables: &'a [&'a str],
    variables: &'a [(&'a str, &'a str)],
    file: &'a str,
}

fn resolve(given: &Given<'_>) -> Result<Config, OutboxError> {
    let folder = tempfile::tempdir().unwrap();
    if !given.file.is_empty() {
        fs::write(folder.path().join("walpost.toml"), given.file).unwrap();
    }
    let mut flags = Layer::default();
    for (flag, value) in given.flags {
        let setting = layers::SETTINGS.iter().find(|setting| setting.flag == *flag).unwrap();
        flags.put(setting, Some(&(*value).to_owned()));
    }
    for entry in given.tables {
        flags.put_for_table(entry)?;
    }
    for property in given.properties {
        flags.put_property(property)?;
    }
    let environment = Environment::new(given.variables.iter().copied())?;
    let layers = Layers::gather(flags, None, &environment, folder.path())?;
    let os = Os { user: Some("me".to_owned()), socket_dir: "/run/pg".to_owned() };
    Config::resolve(&layers, &environment, &os)
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = resolve(&Given::default()).unwrap();
    let table = TableName { schema: "outbox".to_owned(), name: "messages".to_owned() };
    let (publication, slot) = ("walpost".to_owned(), "walpost".to_owned());
    assert_eq!(config.database.to_string(), "me on /run/pg:5432 as me");
    let main = Outbox { table, mapping: Mapping::walpost() };
    let write_back = WriteBackMode::None;
    assert_eq!(config.target, Target { main, others: vec![], publication, slot, write_back });
    assert_eq!((config.kafka.brokers.as_str(), config.kafka.properties.len()), ("localhost:9092", 0));
    let drain_timeout = Duration::from_secs(25);
    assert_eq!(config.delivery, Delivery { guarantee: Guarantee::AtLeastOnce, drain_timeout });
    assert_eq!(config.refusal, RefusalConfig::default());
    let listen = Some("127.0.0.1:8480".to_owned());
    let log_level = "info".to_owned();
    let observe =
        Observe { listen, listen_token_file: None, page_actions: false, log_format: None, log_level };
    assert_eq!(config.observe, observe);
}

fn text(template: Option<&Template>) -> String {
    template.map(ToString::to_string).unwrap_or_default()
}

/// Every setting: two values, and how the second one is seen in the configuration.
type Seen = fn(&Config) -> String;
const EVERY_SETTING: [(&str, &str, &str, Seen); 36] = [
    ("database_url", "dbname=a", "dbname=shop", |config| {
        config.database.candidates()[0]
            .config()
            .get_dbname()
            .map(|name| format!("dbname={name}"))
            .unwrap_or_default()
    }),
    ("table", "a.b", "shop.events", |config| config.target.main.table.to_string()),
    ("publication", "a", "The Events", |config| config.target.publication.clone()),
    ("slot", "a", "shop_2", |config| config.target.slot.clone()),
    ("password_file", "/a", "/b", |config| match format!("{:?}", config.database) {
        shown if shown.contains("the file /b") => "/b".to_owned(),
        shown => shown,
    }),
    ("password_command", "a", "b", |config| match format!("{:?}", config.database) {
        shown if shown.contains("its command") => "b".to_owned(),
        shown => shown,
    }),
    ("topics", "a", "b.*", |config| {
        match (config.kafka.topics.allow("b.1"), config.kafka.topics.allow("a")) {
            (true, false) => "b.*".to_owned(),
            other => format!("{other:?}"),
        }
    }),
    ("brokers", "a:1", "b:1,c:2", |config| config.kafka.brokers.clone()),
    ("preset", "spakky", "debezium", |config| match config.target.main.table.name.as_str() {
        "outboxevent" => "debezium".to_owned(),
        other => other.to_owned(),
    }),
    ("map_id", "{a}", "{b}", |config| text(config.target.main.mapping.id.as_ref())),
    ("map_topic", "{a}", "orders.{b}", |config| config.target.main.mapping.topic.to_string()),
    ("map_key", "{a}", "{b.c|d}", |config| text(config.target.main.mapping.key.as_ref())),
    ("map_partition", "{a}", "{b}", |config| text(config.target.main.mapping.partition.as_ref())),
    ("map_value", "{a}", "x{b}", |config| match &config.target.main.mapping.value {
        Some(Value::Template(template)) => template.to_string(),
        other => format!("{other:?}"),
    }),
    ("map_timestamp", "{a}", "commit", |config| match &config.target.main.mapping.timestamp {
        Timestamp::Commit => "commit".to_owned(),
        other => format!("{other:?}"),
    }),
    ("map_event_type", "{a}", "b", |config| text(config.target.main.mapping.event_type.as_ref())),
    ("map_correlation_id", "{a}", "b", |config| text(config.target.main.mapping.correlation_id.as_ref())),
    ("map_headers", "{a}", "b=1", |config| match config.target.main.mapping.headers.as_slice() {
        [HeaderRule::Named { name, value, .. }] => format!("{name}={value}"),
        other => format!("{other:?}"),
    }),
    ("map_only", "a=1", "b=2", |config| match config.target.main.mapping.only.as_slice() {
        [only] => format!("{}={}", only.column, only.is[0].as_deref().unwrap_or_default()),
        other => format!("{other:?}"),
    }),
    ("map_mark", "a=1", "b=2", |config| match config.target.main.mapping.mark.as_slice() {
        [Mark { column, value: MarkValue::Text(text), .. }] => format!("{column}={text}"),
        other => format!("{other:?}"),
    }),
    ("map_due", "{a}", "{b}", |config| match &config.target.main.mapping.due {
        Some((source, _)) => format!("{{{}}}", source.column),
        None => "none".to_owned(),
    }),
    ("map_own_headers", "yes", "no", |config| {
        if config.target.main.mapping.own_headers { "yes".to_owned() } else { "no".to_owned() }
    }),
    // One value as yet, so there is nothing to tell apart; that it is read is what counts.
    ("delivery", "at-least-once", "at-least-once", |config| match config.delivery.guarantee {
        Guarantee::AtLeastOnce => "at-least-once".to_owned(),
    }),
    ("drain_timeout", "1s", "90s", |config| format!("{}s", config.delivery.drain_timeout.as_secs())),
    ("write_back", "none", "delete", |config| format!("{:?}", config.target.write_back).to_lowercase()),
    ("on_refusal", "halt", "dead-letter", |config| match config.refusal.on_refusal {
        OnRefusal::Halt => "halt".to_owned(),
        OnRefusal::DeadLetter => "dead-letter".to_owned(),
    }),
    ("max_retries", "1", "0", |config| config.refusal.retry.max_retries.to_string()),
    ("base_delay", "2s", "1500ms", |config| format!("{}ms", config.refusal.retry.base_delay.as_millis())),
    ("multiplier", "3", "1.5", |config| config.refusal.retry.multiplier.to_string()),
    ("max_delay", "1h", "90s", |config| format!("{}s", config.refusal.retry.max_delay.as_secs())),
    ("listen", "127.0.0.1:1", "[::1]:0", |config| config.observe.listen.clone().unwrap_or_default()),
    ("listen_token_file", "a", "/run/b", |config| {
        config.observe.listen_token_file.as_ref().unwrap().display().to_string()
    }),
    ("page_actions", "no", "yes", |config| {
        if config.observe.page_actions { "yes".to_owned() } else { "no".to_owned() }
    }),
    ("otlp_endpoint", "http://a:1", "http://[::1]:2", |config| match &config.traces {
        Traces::To(collector) => format!("http://{}", collector.authority),
        _ => String::new(),
    }),
    ("log_format", "text", "json", |config| {
        format!("{:?}", config.observe.log_format.unwrap()).to_lowercase()
    }),
    ("log_level", "warn", "info,walpost=debug", |config| config.observe.log_level.clone()),
];

#[test]
fn every_setting_has_three_forms_and_the_higher_one_wins() {
    // All but --debezium-config, which names files.
    assert_eq!(EVERY_SETTING.len() + 1, layers::SETTINGS.len());
    for (key, low, high, seen) in EVERY_SETTING {
        let setting = layers::SETTINGS.iter().find(|setting| setting.key == key).unwrap();
        let (low_file, high_file) = (format!("{key} = '{low}'"), format!("{key} = '{high}'"));
        for (flag, variable, file) in [
            (high, low, low_file.as_str()),
            (high, "", ""),
            ("", high, low_file.as_str()),
            ("", "", high_file.as_str()),
        ] {
            let written =
                |name, value: &'static str| if value.is_empty() { vec![] } else { vec![(name, value)] };
            let (flags, variables) = (written(setting.flag, flag), written(setting.variable, variable));
            let given = Given { flags: &flags, variables: &variables, file, ..Given::default() };
            assert_eq!(seen(&resolve(&given).unwrap()), high, "{key}");
        }
    }
}

/// A connector's file, and the settings beside it.
fn with_connector(more: &str, flags: &[(&str, &str)]) -> Result<Config, OutboxError> {
    let folder = tempfile::tempdir().unwrap();
    let (worker, connector) = (folder.path().join("worker.properties"), folder.path().join("connector.json"));
    let json = "org.apache.kafka.connect.json.JsonConverter";
    fs::write(&worker, format!("key.converter={json}\nvalue.converter={json}\n")).unwrap();
    let options = r#""topic.prefix": "p", "transforms": "o", "transforms.o.type": "EventRouter", "database.password": "sesame""#;
    fs::write(&connector, format!("{{{options}, {more}}}")).unwrap();
    let files = format!("{},{}", worker.display(), connector.display());
    let flags: Vec<_> = flags.iter().copied().chain([("--debezium-config", files.as_str())]).collect();
    resolve(&Given { flags: &flags, ..Given::default() })
}

#[test]
fn a_connector_names_table_slot_and_publication_unless_settings_do() {
    let preset = ("--preset", "debezium");
    let names = |config: &Config| {
        let Target { publication, slot, .. } = &config.target;
        format!("{} {publication} {slot}", config.target.tables())
    };
    let config = with_connector(r#""tasks.max": 1"#, &[preset]).unwrap();
    assert_eq!(names(&config), "public.outboxevent dbz_publication debezium");
    let own = r#""table.include.list": "Shop.events", "slot.name": "s", "publication.name": "P""#;
    assert_eq!(names(&with_connector(own, &[preset]).unwrap()), "\"Shop\".events P s");
    let flags = [preset, ("--table", "a.b"), ("--slot", "c"), ("--publication", "d")];
    let config = with_connector(own, &flags).unwrap();
    assert_eq!(names(&config), "a.b d c");
    let both = |is| Borrowed { slot: is, publication: is };
    assert_eq!(config.borrowed, both(false), "said by name");
    assert_eq!(with_connector(own, &[preset]).unwrap().borrowed, both(true));
    assert_eq!(resolve(&Given::default()).unwrap().borrowed, both(false));
    assert!(!config.target.main.mapping.own_headers && !format!("{config:?}").contains("sesame"));
    let config = with_connector(own, &[preset, ("--map-own-headers", "yes")]).unwrap();
    assert!(config.target.main.mapping.own_headers);
    let flags = [preset, ("--map-mark", "sent=now"), ("--write-back", "mark")];
    assert_eq!(with_connector(own, &flags).unwrap().target.main.mapping.mark.len(), 1);
}

#[test]
fn a_connector_is_refused_with_its_file_and_option() {
    let preset = ("--preset", "debezium");
    for (more, flags, what) in [
        (r#""converters": "c""#, vec![preset], "connector.json: `converters`: it is not reproduced"),
        (
            r#""made.up": "c""#,
            vec![preset],
            "--debezium-config: `made.up`: Walpost does not know this option",
        ),
        (r#""name": "c""#, vec![], "--debezium-config: it belongs to the preset debezium"),
        (
            r#""name": "c""#,
            vec![preset, ("--map-key", "{a}")],
            "--map-key: the connector's configuration says",
        ),
        (r#""slot.name": "A""#, vec![preset], "--debezium-config: `A` is not the name of a replication slot"),
        (
            r#""producer.override.max.request.size": 5000000"#,
            vec![preset],
            "--debezium-config: its producer takes records of 5000000 bytes",
        ),
    ] {
        let Err(error) = with_connector(more, &flags) else { panic!("{what}") };
        assert!(error.is_usage() && !format!("{error:?}").contains("sesame"), "{error:?}");
        let is_told = error.to_string().contains(what.trim_start_matches("connector.json: "));
        assert!(is_told && error.advice().is_some(), "{what}: {error:?}");
    }
    // As large as Java's own, or as the operator says.
    for (size, property) in [("1048576", None), ("5000000", Some("message.max.bytes=2000000"))] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = "topic.prefix=p\ntransforms=o\ntransforms.o.type=EventRouter\nkey.converter=StringConverter\n\
                       value.converter=StringConverter\nproducer.override.max.request.size=";
        fs::write(file.path(), format!("{options}{size}\n")).unwrap();
        let flags = [preset, ("--debezium-config", file.path().to_str().unwrap())];
        let given = Given { flags: &flags, properties: property.as_slice(), ..Given::default() };
        assert!(resolve(&given).is_ok(), "{size}");
    }
    let gone = [preset, ("--debezium-config", "/nowhere/c.json")];
    let error = resolve(&Given { flags: &gone, ..Given::default() }).unwrap_err();
    assert!(error.to_string().contains("/nowhere/c.json cannot be read"), "{error}");
}

#[test]
fn properties_are_laid_over_each_other_key_by_key() {
    let config = resolve(&Given {
        properties: &["linger.ms=1", "linger.ms=2", "sasl.mechanism = a=b"],
        variables: &[
            ("WALPOST_KAFKA_LINGER_MS", "3"),
            ("WALPOST_KAFKA_SASL_PASSWORD", "sesame"),
            ("WALPOST_KAFKA_ACKS", ""),
        ],
        file: "[kafka]\n'queue.buffering.max.ms' = 4\nsasl.password = 'file'\n'acks' = 'all'",
        ..Given::default()
    });
    let kafka = config.unwrap().kafka;
    let pairs: Vec<String> = kafka.properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(pairs, ["acks=all", "linger.ms=2", "sasl.mechanism= a=b", "sasl.password=sesame"]);
    let shown = format!("{kafka:?}");
    assert!(!shown.contains("sesame") && shown.contains("linger.ms"), "{shown}");
}

/// Nothing for all tables is as much as nothing for one of them.
#[test]
fn what_is_written_as_nothing_is_none() {
    let (empty, none) =
        ([("--map-key", ""), ("--map-only", "")], [("--map-key", "none"), ("--map-only", "none")]);
    for flags in [&empty, &none] {
        let preset = [("--preset", "k1s0"), flags[0], flags[1]];
        let mapping = resolve(&Given { flags: &preset, ..Given::default() }).unwrap().target.main.mapping;
        assert!(mapping.key.is_none() && mapping.only.is_empty(), "{mapping:?}");
    }
    let given = Given { flags: &[("--preset", "k1s0")], file: "map_key = ''", ..Given::default() };
    assert!(resolve(&given).unwrap().target.main.mapping.key.is_none());
    let variables = [("WALPOST_MAP_KEY", "")];
    let given = Given { flags: &[("--preset", "k1s0")], variables: &variables, ..Given::default() };
    assert!(resolve(&given).unwrap().target.main.mapping.key.is_some(), "an empty variable is not set");
}

#[test]
fn settings_for_all_tables_that_reach_none_are_refused() {
    let tables = &["a.b: preset=spakky"][..];
    let key = [("--table", "a.b"), ("--map-key", "{id}")];
    let file = "table = 'a.b'\npreset = 'walpost'";
    for (given, what) in [
        (Given { tables, flags: &key, ..Given::default() }, "--map-key: it has no effect"),
        (Given { tables, file, ..Given::default() }, "`preset` in "),
        (Given { file: "map_topic = ''", ..Given::default() }, "a record without a topic"),
    ] {
        let error = resolve(&given).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(what), "{what}: {error:?}");
    }
    // A preset may say which tables there are, and all of it holds for those without one of their own.
    let flags = [("--table", "a.b, c"), ("--preset", "k1s0"), ("--map-key", "{id}")];
    assert!(resolve(&Given { tables, flags: &flags, ..Given::default() }).is_ok());
}

#[test]
fn properties_come_from_files_and_commands_in_every_form() {
    for given in [
        Given { properties: &["sasl.password@file=/a"], ..Given::default() },
        Given { properties: &["sasl.password.file=/a"], ..Given::default() },
        Given { variables: &[("WALPOST_KAFKA_SASL_PASSWORD_FILE", "/a")], ..Given::default() },
        Given { file: "[kafka]\nsasl.password = { file = '/a' }", ..Given::default() },
        Given { file: "[kafka]\n'sasl.password@file' = '/a'", ..Given::default() },
        Given {
            properties: &["sasl.password@file=/a"],
            variables: &[("WALPOST_KAFKA_SASL_PASSWORD", "sesame")],
            file: "[kafka]\nsasl.password = { command = 'sesame' }",
            ..Given::default()
        },
    ] {
        let kafka = resolve(&given).unwrap().kafka;
        assert_eq!(kafka.sources, [("sasl.password".to_owned(), SecretSource::File("/a".into()))]);
        assert!(kafka.properties.is_empty());
    }
    let variables = [("WALPOST_KAFKA_SASL_OAUTHBEARER_TOKEN_COMMAND", "echo sesame")];
    let kafka = resolve(&Given { variables: &variables, ..Given::default() }).unwrap().kafka;
    assert_eq!(kafka.sources[0].0, "sasl.oauthbearer.token");
    assert!(!format!("{kafka:?}").contains("sesame"));
    for (property, what) in [
        ("bootstrap.servers@file=/a", "setting of its own"),
        ("sasl.oauthbearer.token=t", "-X sasl.oauthbearer.token"),
        ("transactional.id@file=/a", "transactions need more"),
    ] {
        let error = resolve(&Given { properties: &[property], ..Given::default() }).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(what), "{error}");
    }
    let both = [("WALPOST_PASSWORD_FILE", "/a"), ("WALPOST_PASSWORD_COMMAND", "b")];
    let error = resolve(&Given { variables: &both, ..Given::default() }).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("from a file as well"), "{error}");
    let error = resolve(&Given { flags: &[("--topics", "a b")], ..Given::default() }).unwrap_err();
    assert!(error.is_usage() && error.to_string().starts_with("--topics: `a b`"), "{error}");
}

/// What each table's topic, key and preset are.
fn shapes(given: &Given<'_>) -> Vec<String> {
    let config = resolve(given).unwrap();
    let shape = |Outbox { table, mapping }: &Outbox| {
        format!("{table} {} {} {}", mapping.preset, mapping.topic, text(mapping.key.as_ref()))
    };
    config.target.outboxes().map(shape).collect()
}

#[test]
fn several_tables_have_settings_in_common_and_of_their_own() {
    let flags = [("--table", "a.b, c"), ("--preset", "k1s0-events"), ("--map-topic", "{$schema}.events")];
    let key = "{payload.activity_id|payload.task_id|payload.column_id|payload.board_id|id}";
    let in_common = format!("a.b k1s0-events {{$schema}}.events {key}");
    let given = Given { flags: &flags, ..Given::default() };
    assert_eq!(shapes(&given), [in_common.clone(), in_common.replace("a.b", "public.c")]);
    // A preset of its own takes nothing of the settings for all; an entry alone goes over them.
    let tables = ["c: preset=spakky", "a.b: key={id}"];
    let given = Given { flags: &flags, tables: &tables, ..Given::default() };
    let of_c = "public.c spakky {event_name} {partition_key?}".to_owned();
    assert_eq!(shapes(&given), ["a.b k1s0-events {$schema}.events {id}".to_owned(), of_c.clone()]);
    // Entry by entry, flags go over variables, those over the file.
    let file = "table = ['a.b', 'c']\npreset = 'k1s0-events'\n[map_for.'A.b']\ntopic = 'file'\nkey = 'file'\n\
                [map_for.c]\npreset = 'walpost'\ntopic = 'file'";
    let variables = [("WALPOST_MAP_FOR", "a.b: topic=variable; c: topic=variable; c: key=variable")];
    let given = Given {
        tables: &["c: preset=spakky", "c: key=flag"],
        variables: &variables,
        file,
        ..Given::default()
    };
    assert_eq!(shapes(&given), ["a.b k1s0-events variable file", "public.c spakky variable flag"]);
    let file = "table = 'a.b,c'\nmap_for = 'c: topic=x; a.b: topic=y'";
    let given = Given { file, ..Given::default() };
    assert_eq!(shapes(&given), ["a.b walpost y {key?}", "public.c walpost x {key?}"]);
}

#[test]
fn other_surroundings_are_left_alone() {
    let config = resolve(&Given {
        flags: &[("--listen", "off")],
        variables: &[
            ("WALPOST_SERVICE_HOST", "10.0.0.1"),
            ("WALPOST_PORT", "tcp://10.0.0.1:8480"),
            ("WALPOST_SLOT", ""),
            ("HOME", "/home/me"),
            ("PGHOST", "db"),
            ("PGPASSWORD", "sesame"),
        ],
        ..Given::default()
    });
    let config = config.unwrap();
    assert_eq!(config.observe.listen, None);
    assert_eq!(config.target.slot, "walpost", "an empty variable is not set");
    assert_eq!(config.database.to_string(), "me on db:5432 as me");
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn mistakes_say_where_and_what_instead() {
    let flags = |flags| Given { flags, ..Given::default() };
    let properties = |properties| Given { properties, ..Given::default() };
    let variables = |variables| Given { variables, ..Given::default() };
    let file = |file| Given { file, ..Given::default() };
    for (given, what, advice) in [
        (flags(&[("--slot", "My-Slot")]), "--slot: `My-Slot` is not the name of a replication slot", "a-z"),
        (variables(&[("WALPOST_SLOT", "A")]), "WALPOST_SLOT: `A` is not", "a-z"),
        (file("slot = ''"), "`slot` in ", "a-z"),
        (flags(&[("--table", "a.b.c")]), "is not the name of a table", "SQL"),
        (flags(&[("--table", "a.b,a.b")]), "--table: table a.b comes twice", "separated by commas"),
        (
            variables(&[("WALPOST_MAP_FOR", "a.b: topic=x")]),
            "WALPOST_MAP_FOR, a.b: topic: a.b is none of",
            "--table",
        ),
        (file("[map_for.'a.b']\nhead = '1'"), "a.b has no entry `head`", "the nearest is `headers`"),
        (file("[map_for]\ntopic = 'x'"), "not a table of entries", "[map_for."),
        (
            file("[map_for.'outbox.messages']\npreset = 'x'"),
            "walpost.toml, outbox.messages: preset: there is no preset `x`",
            "debezium, goharvest",
        ),
        (
            file("[map_for.'outbox.messages']\nkey = '{a'"),
            "outbox.messages: key: a { has no }",
            "walpost run --help",
        ),
        (
            variables(&[
                ("WALPOST_TABLE", "outbox.messages, b"),
                ("WALPOST_MAP_FOR", "b: own_headers=no"),
                ("WALPOST_ON_REFUSAL", "dead-letter"),
            ]),
            "on which outbox.messages and public.b differ",
            "use halt",
        ),
        (flags(&[("--publication", "")]), "--publication: not the name", "63 bytes"),
        (flags(&[("--preset", "debezum")]), "--preset: there is no preset `debezum`", "debezium, goharvest"),
        (flags(&[("--preset", "k1s0-events")]), "table: it is not set", "name the table"),
        (flags(&[("--map-key", "{a")]), "--map-key: a { has no }", "walpost run --help"),
        (flags(&[("--delivery", "exactly-once")]), "--delivery: there is no delivery", "`at-least-once`"),
        (flags(&[("--drain-timeout", "25")]), "--drain-timeout: `25` is not a span of time", "500ms"),
        (flags(&[("--on-refusal", "drop")]), "--on-refusal: there is no policy `drop`", "dead-letter"),
        (flags(&[("--max-retries", "-1")]), "--max-retries: `-1` is not a number", "whole number"),
        (flags(&[("--multiplier", "0.5")]), "--multiplier: `0.5` is not a multiplier", "at least 1"),
        (flags(&[("--base-delay", "1")]), "--base-delay: `1` is not a span of time", "500ms"),
        (flags(&[("--base-delay", "61s")]), "--base-delay: the first wait, 61s, is longer", "--max-delay"),
        (flags(&[("--listen", "8480")]), "--listen: `8480` is not an address", "or off"),
        (flags(&[("--log-format", "xml")]), "--log-format: there is no log format `xml`", "text or json"),
        (flags(&[("--log-level", "verbose")]), "--log-level: ", "walpost=debug"),
        (flags(&[("--brokers", "a:1,,b:2")]), "--brokers: an entry of the list is empty", "host:port"),
        (flags(&[("--database-url", "sslmode=on")]), "`sslmode` is none of", "Connection Strings"),
        (flags(&[("--database-url", "postgres://u:sesame@h/d")]), "--database-url: a password", "PGPASSWORD"),
        (properties(&["sasl.password=sesame"]), "-X sasl.password: a secret", "WALPOST_KAFKA_SASL_PASSWORD"),
        (properties(&["linger.ms"]), "-X: a property is written key=value", "-X "),
        (properties(&["bootstrap.servers=a:1"]), "bootstrap.servers has a setting of its own", "--brokers"),
        (variables(&[("WALPOST_SLOTT", "a")]), "WALPOST_SLOTT is no setting", "the nearest is WALPOST_SLOT"),
        (variables(&[("WALPOST_LOG_LEVEL", "a")]), "WALPOST_LOG_LEVEL is no setting", "WALPOST_LOG"),
        (file("broker = 'a:1'"), "`broker` is no setting", "the nearest is `brokers`"),
        (variables(&[("WALPOST_CONFIG", "/nowhere/w.toml")]), "/nowhere/w.toml cannot be read", "--config"),
    ] {
        let Err(error) = resolve(&given) else { panic!("{what}") };
        assert!(error.is_usage(), "{error:?}");
        assert!(error.to_string().contains(what), "{what}: {error:?}");
        assert!(error.advice().unwrap_or_default().contains(advice), "{advice}: {error:?}");
        assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_open_file_with_a_secret_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walpost.toml");
    for (text, mode, expected) in [
        ("kafka.sasl.password = 'a'", 0o644, true),
        ("kafka.sasl.password = 'a'", 0o640, false),
        ("database_url = 'postgres://u:p@h/d'", 0o604, true),
        ("database_url = 'postgres://u@h/d'", 0o644, false),
    ] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let found = file::read(None, folder.path()).unwrap().unwrap();
        let layer = file::parse(&found.text, &found.path).unwrap();
        assert_eq!(file::warn_of_readers(&found, &layer).is_some(), expected, "{text} {mode:o}");
    }
}
