//! The converters among a connector's options.

use super::contract::{Converters, Runner};
use super::convert::Converter;
use super::options::{Options, WrongOption};

const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";
const TEXT: &str = "org.apache.kafka.connect.storage.StringConverter";
const SIMPLE: &str = "org.apache.kafka.connect.storage.SimpleHeaderConverter";
const BYTES: &str = "org.apache.kafka.connect.converters.ByteArrayConverter";
const BINARY: &str = "io.debezium.converters.BinaryDataConverter";

impl Converters {
    pub(super) fn take(options: &mut Options) -> Result<Self, WrongOption> {
        Ok(Converters {
            key: converter(options, "key")?,
            value: converter(options, "value")?,
            header: converter(options, "header")?,
        })
    }
}

fn converter(options: &mut Options, part: &str) -> Result<Converter, WrongOption> {
    let prefix = format!("{part}.converter.");
    let (name, class) = match options.runner() {
        Runner::Connect => connect_class(options, part)?,
        Runner::Server => server_class(options, part)?,
    };
    built(options, &class, &prefix, part).and_then(|converter| {
        let why = format!("the converter {class} is not reproduced");
        converter.ok_or_else(|| WrongOption::new(name, why))
    })
}

fn connect_class(options: &mut Options, part: &str) -> Result<(String, String), WrongOption> {
    let option = format!("{part}.converter");
    match options.take(&option)? {
        Some(class) => Ok((option, class)),
        None if part == "header" => Ok((option, SIMPLE.to_owned())),
        None => {
            let why = "it is not set: the worker's properties say it, so name their file as well, before the connector's";
            Err(WrongOption::new(option, why))
        }
    }
}

/// The server's formats are classes by another name.
fn server_class(options: &mut Options, part: &str) -> Result<(String, String), WrongOption> {
    let (format, class) = (format!("format.{part}"), format!("{part}.converter.class"));
    let (written, own) = (options.written(&format), options.written(&class));
    let text = options.text(&format, "json")?;
    let known = match text.as_str() {
        "json" | "jsonbytearray" => Some(JSON),
        "simplestring" if part != "header" => Some(TEXT),
        "binary" if part != "header" => Some(BINARY),
        "clientprovided" => None,
        _ => return Err(WrongOption::new(written, format!("the format `{text}` is not reproduced"))),
    };
    match (options.take(&class)?, known) {
        (Some(class), _) => Ok((own, class)),
        (None, Some(class)) => Ok((written, class.to_owned())),
        (None, None) => Err(WrongOption::new(
            written,
            format!("`clientprovided` needs a class: set `debezium.format.{part}.class`"),
        )),
    }
}

/// The converter of a class, with its options; `None` for one that is not known.
fn built(
    options: &mut Options,
    class: &str,
    prefix: &str,
    part: &str,
) -> Result<Option<Converter>, WrongOption> {
    let is = |known: &str| class == known || Some(class) == known.rsplit('.').next();
    let named = |name: &str| format!("{prefix}{name}");
    let schemas = options.truth(&named("schemas.enable"), true)?;
    let numeric = options.word(&named("decimal.format"), false, &[("base64", false), ("numeric", true)])?;
    // Without influence on what is written: the default has taken the place of null before.
    for name in ["schemas.cache.size", "replace.null.with.default", "schema.content", "converter.type"] {
        options.take(&named(name))?;
    }
    options.word(&named("converter.encoding"), (), &[("UTF-8", ()), ("UTF8", ())])?;
    let delegate = options.take(&named("delegate.converter.type"))?;
    Ok(Some(if is(JSON) {
        Converter::Json { schemas, numeric }
    } else if is(TEXT) {
        Converter::Text
    } else if is(SIMPLE) && part == "header" {
        Converter::Simple
    } else if is(BYTES) && part != "header" {
        Converter::Bytes(None)
    } else if is(BINARY) {
        let Some(class) = delegate else { return Ok(Some(Converter::Bytes(None))) };
        let inner = built(options, &class, &named("delegate.converter.type."), part)?;
        let why = || {
            WrongOption::new(
                named("delegate.converter.type"),
                format!("the converter {class} is not reproduced"),
            )
        };
        Converter::Bytes(Some(Box::new(inner.ok_or_else(why)?)))
    } else {
        return Ok(None);
    }))
}
