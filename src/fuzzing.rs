//! The fuzz targets: each takes any bytes at all. `fuzz/` runs them under libFuzzer, `tests/hostile/` over the kept
//! inputs and mutations of them. The benchmarks of single parts come in here, too.

use std::path::Path;

use crate::config::{self, Config, Environment, Layer, Layers};
use crate::kafka::KafkaSettings;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::postgres::TableName;
use crate::postgres::fuzzing::{connection_settings, password_file};
use crate::postgres::settings::Os;
use crate::router::Router;

pub use crate::postgres::fuzzing::{Stream, Table, authentication, frames, pgoutput, replicate};

/// What takes any bytes at all.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 4] = [
    ("frames", frames),
    ("pgoutput", pgoutput),
    ("authentication", authentication),
    ("configuration", configuration),
];

/// First byte: what the text is of all that a person or a service writes.
pub fn configuration(data: &[u8]) {
    let [mode, bytes @ ..] = data else { return };
    if mode & 7 == 0 {
        return row_headers(bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match mode & 7 {
        1 => configuration_file(text),
        2 | 3 => connection_settings(*mode, text),
        4 => password_file(text),
        5 => property(text),
        6 => variables(text),
        _ => values(text),
    }
}

/// The column `headers` of a row: whoever may insert writes it.
fn row_headers(json: &[u8]) {
    let mut message = OutboxMessage::new("t", "1");
    message.headers = json.to_vec().into();
    let mut router = Router::default();
    if let Ok(record) = router.route(&message, Position::default()) {
        assert!(record.headers.iter().count() >= 3);
        let total: usize =
            record.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
        assert!(total <= json.len() + 100, "{total} bytes of headers in {} bytes", json.len());
    }
}

fn configuration_file(text: &str) {
    if let Ok(layers) = Layers::of_file(text, Path::new("walpost.toml")) {
        let os = Os { user: None, socket_dir: "/tmp".to_owned() };
        let _ = Config::resolve(&layers, &Environment::default(), &os);
    }
}

/// `-X key=value`. What librdkafka itself does with a property is not ours to try, so its part is left out for names
/// that make it open files.
fn property(text: &str) {
    let mut layer = Layer::default();
    if layer.put_property(text).is_err() {
        return;
    }
    let Some((name, value)) = text.split_once('=') else { return };
    if ["plugin", "ssl", "location", "keytab", "pem"].iter().any(|word| name.contains(word)) {
        return;
    }
    let settings = KafkaSettings::new("localhost:9092").with_property(name.trim(), value);
    let _ = format!("{settings:?}");
    let _ = settings.validate();
}

fn variables(text: &str) {
    let pairs =
        text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value));
    let Ok(environment) = Environment::new(pairs) else { return };
    if environment.get("WALPOST_CONFIG").is_some() {
        return;
    }
    if let Ok(layers) = Layers::gather(Layer::default(), None, &environment, Path::new("/nonexistent")) {
        let _ = config::target(&layers);
        let _ = config::Observe::resolve(&layers);
    }
}

fn values(text: &str) {
    let _ = config::duration(text);
    if let Ok(table) = text.parse::<TableName>() {
        // What is quoted for SQL reads as the same name again.
        assert_eq!(table.to_string().parse::<TableName>().ok(), Some(table));
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
}
