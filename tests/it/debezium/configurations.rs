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

/// How its owner has written it down, and hands it to Walpost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Written {
    /// As properties.
    Lines,
    /// As it is POSTed to Connect: name and map.
    Posted,
    /// As the map alone.
    Flat,
    /// As properties behind the worker's, which say what the converters are.
    BesideWorker,
}

/// Where it runs.
pub(crate) struct Place<'a> {
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) brokers: &'a str,
}

impl Place<'_> {
    /// The connector that reads there: how to get in, and what it begins with.
    pub(crate) fn source(&self, prefix: &str, slot: &str) -> String {
        let Place { port, database, .. } = self;
        format!(
            "connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
             database.hostname=127.0.0.1\ndatabase.port={port}\ndatabase.user=postgres\ndatabase.password=none\n\
             database.dbname={database}\ntopic.prefix={prefix}\nplugin.name=pgoutput\nslot.name={slot}\n\
             snapshot.mode=no_data\ntombstones.on.delete=false\n"
        )
    }

    /// What Debezium Server needs besides, with keys and values that are text, or bytes as they are.
    pub(crate) fn sink(&self, serializer: &str) -> String {
        let producer = "debezium.sink.kafka.producer";
        let class = "org.apache.kafka.common.serialization";
        format!(
            "debezium.sink.type=kafka\n{producer}.bootstrap.servers={}\n\
             {producer}.key.serializer={class}.StringSerializer\n{producer}.value.serializer={class}.{serializer}\n\
             quarkus.http.host=127.0.0.1\nquarkus.http.port=0\nquarkus.log.console.json=false\n",
            self.brokers
        )
    }
}

/// The lines with something in front of each.
pub(crate) fn each(before: &str, lines: &str) -> String {
    lines.lines().map(|line| format!("{before}{line}\n")).collect()
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
        let source = place.source(&format!("dbz-{name}"), slot);
        match self.form {
            Form::Connect => format!("name={name}\ntasks.max=1\n{source}{lines}"),
            Form::Server => {
                let binary = self.value("debezium.format.value") == Some("binary");
                let sink = place.sink(if binary { "ByteArraySerializer" } else { "StringSerializer" });
                let offsets = "debezium.source.offset.storage.file.filename=offsets.dat";
                format!("{sink}{offsets}\n{}{lines}", each("debezium.source.", &source))
            }
        }
    }

    /// How it is written for Walpost.
    pub(crate) fn written(&self) -> Written {
        if self.form == Form::Server {
            return Written::Lines;
        }
        if self.value("value.converter").is_none() {
            return Written::BesideWorker;
        }
        [Written::Lines, Written::Posted, Written::Flat][self.name.len() % 3]
    }

    pub(crate) fn tables(&self) -> Vec<&'static str> {
        let list = self.source("table.include.list").unwrap();
        list.split(',').map(|table| table.trim_start_matches("public.")).collect()
    }

    /// The topics that the rows go to, and how many partitions they have.
    pub(crate) fn topics(&self) -> Vec<(String, i32)> {
        let types: &[&str] = match (self.name, self.tables()[0]) {
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
