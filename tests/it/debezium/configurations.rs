//! The configurations under test.

/// Which of Debezium's two forms runs one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Server,
    Connect,
}

pub(crate) struct Configuration {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    lines: &'static str,
}

/// Where it runs.
pub(crate) struct Place<'a> {
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) brokers: &'a str,
}

/// Each with the name that stands above it.
pub(crate) fn all() -> Vec<Configuration> {
    let sections = include_str!("configurations.properties").split("# == ").skip(1);
    let of = |section: &'static str| {
        let (name, lines) = section.split_once('\n').unwrap();
        let form = if name.starts_with("server") { Form::Server } else { Form::Connect };
        Configuration { name, form, lines }
    };
    sections.map(of).collect()
}

impl Configuration {
    /// The file that reads this slot.
    pub(crate) fn text(&self, place: &Place<'_>, slot: &str) -> String {
        let Configuration { name, lines, .. } = self;
        let Place { port, database, brokers } = place;
        let (before, more) = match self.form {
            Form::Connect => ("", format!("name={name}\ntasks.max=1\n")),
            Form::Server => (
                "debezium.source.",
                format!(
                    "debezium.sink.type=kafka\n\
                     debezium.sink.kafka.producer.bootstrap.servers={brokers}\n\
                     debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer\n\
                     debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.{serializer}\n\
                     debezium.source.offset.storage.file.filename=offsets.dat\n\
                     quarkus.http.host=127.0.0.1\nquarkus.http.port=0\nquarkus.log.console.json=false\n",
                    serializer = if self.value("debezium.format.value") == Some("binary") {
                        "ByteArraySerializer"
                    } else {
                        "StringSerializer"
                    },
                ),
            ),
        };
        let source = format!(
            "connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
             database.hostname=127.0.0.1\ndatabase.port={port}\ndatabase.user=postgres\ndatabase.password=none\n\
             database.dbname={database}\ntopic.prefix=dbz-{name}\nplugin.name=pgoutput\nslot.name={slot}\n\
             snapshot.mode=no_data\ntombstones.on.delete=false\n"
        );
        let source: String = source.lines().map(|line| format!("{before}{line}\n")).collect();
        format!("{more}{source}{lines}")
    }

    pub(crate) fn table(&self) -> &'static str {
        self.source("table.include.list").unwrap().trim_start_matches("public.")
    }

    /// The topics that the rows go to, and how many partitions they have.
    pub(crate) fn topics(&self) -> Vec<(String, i32)> {
        let types: &[&str] = match (self.name, self.table()) {
            // Its expression leaves the last one as it is.
            ("connect_routed", _) => &["to.order", "to.customer", "rest"],
            (_, "journal") => &["shop.order", "shop.customer", "connect_routed.rest"],
            _ => &["order", "Customer", "invoice.line", "keyless"],
        };
        types.iter().map(|it| (format!("{}.{it}", self.prefix()), self.partitions(it))).collect()
    }

    fn partitions(&self, kind: &str) -> i32 {
        let key = self.value("key.converter").or(self.value("debezium.format.key"));
        let none = key.is_some_and(|it| it.ends_with("StringConverter") || it == "simplestring");
        // Without a key the producer chooses as it likes; what JSON makes of a NULL is a key.
        if kind == "keyless" && none { 1 } else { 4 }
    }

    /// What their names begin with.
    pub(crate) fn prefix(&self) -> &'static str {
        if self.name == "server_default" { "outbox.event" } else { self.name }
    }

    /// Whether records bear the time of a column.
    pub(crate) fn has_timestamps(&self) -> bool {
        self.value("transforms.outbox.table.field.event.timestamp").is_some()
    }

    fn source(&self, name: &str) -> Option<&'static str> {
        self.value(name).or_else(|| self.value(&format!("debezium.source.{name}")))
    }

    fn value(&self, name: &str) -> Option<&'static str> {
        self.lines
            .lines()
            .find_map(|line| line.split_once('=').filter(|(it, _)| *it == name))
            .map(|(_, value)| value)
    }
}
