//! A table's column as Debezium's connector sees it: a schema, and how its text becomes a value.
//!
//! The types are those of the connector's `PostgresValueConverter`; types for which it has no value, or one that depends
//! on the machine it runs on, are refused.

use super::datum::Datum;
use super::default::default_of;
use super::modes::{Binary, Decimals, Failures, Modes, Precision};
use super::number::Decimal;
use super::schema::{Schema, Type};
use super::time::{self, Moment};
use crate::postgres::array;

/// What the catalog says of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnFacts {
    /// The type that it is in the end, with domains seen through.
    pub(crate) type_oid: u32,
    pub(crate) type_name: String,
    /// The name of the type that it was declared with.
    pub(crate) declared: String,
    /// `atttypmod`: the precision and scale of a number, the digits of a time.
    pub(crate) modifier: i32,
    pub(crate) nullable: bool,
    /// The expression behind `DEFAULT`.
    pub(crate) default: Option<String>,
    /// The labels of an enumeration, in their order.
    pub(crate) labels: Vec<String>,
}

/// A column in a connector's events.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) schema: Schema,
    form: Form,
    failures: Failures,
}

/// Why a text gives no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connector's converter fails at it.
    Failure,
    /// The converter has nothing for it, which is null where the column may be.
    Nothing,
    /// It is none of the type.
    Misread,
}

/// How a text becomes a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    Bool,
    Int,
    Float,
    Double,
    Text,
    Bytes(Binary),
    /// With this scale.
    Decimal(i32),
    /// With a scale of its own in each row.
    Variable,
    DecimalText,
    DecimalDouble,
    Days,
    IsoDate,
    Time(Scale),
    Timestamp(Scale),
    /// With so many digits of the second.
    Zoned(Option<usize>),
    ZonedTime,
    List(Box<Form>),
}

/// What a time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Millis,
    Micros,
    Nanos,
    Iso,
}

impl Column {
    /// The column; fails with its type if no value of it can be reproduced.
    pub(super) fn of(facts: &ColumnFacts, modes: &Modes) -> Result<Self, String> {
        let (schema, form) = typed(facts, modes).ok_or_else(|| facts.type_name.clone())?;
        let default = facts.default.as_deref().and_then(|text| default_of(facts, text, &form));
        let optional = facts.nullable;
        Ok(Column { schema: Schema { optional, default, ..schema }, form, failures: modes.failures })
    }

    /// The value of a row; `None` for a text that is none of the type, or one at which the connector stops.
    pub(super) fn read(&self, text: Option<&str>) -> Option<Datum> {
        let Some(text) = text else { return Some(self.absent()) };
        match self.form.read(text) {
            Ok(datum) => Some(datum),
            Err(Fault::Nothing) if self.schema.optional => Some(self.absent()),
            Err(Fault::Misread) => None,
            // The event goes on without the value.
            Err(_) => {
                let may_be_absent = self.schema.optional || self.schema.default.is_some();
                (self.failures == Failures::PassedOver && may_be_absent).then(|| self.absent())
            }
        }
    }

    /// What stands in an event for null: the default, if there is one.
    fn absent(&self) -> Datum {
        self.schema.default.clone().unwrap_or(Datum::Null)
    }

    /// The time since 1970 in milliseconds that the column tells, if it is a time that the router takes.
    pub(super) fn millis(&self, datum: &Datum) -> Option<i64> {
        match (&self.form, datum) {
            (Form::Timestamp(Scale::Millis), Datum::Int(number)) => Some(*number),
            (Form::Timestamp(Scale::Micros), Datum::Int(number)) => Some(number / 1_000),
            (Form::Timestamp(Scale::Nanos), Datum::Int(number)) => Some(number / 1_000_000),
            _ => None,
        }
    }

    /// Whether the router can take a record's time from it.
    pub(super) fn is_time(&self) -> bool {
        matches!(self.form, Form::Timestamp(Scale::Millis | Scale::Micros | Scale::Nanos)) && !self.is_date()
    }

    /// Whether Connect has Java's `Date` for it, of which only the JSON converter makes the same everywhere.
    pub(super) fn is_date(&self) -> bool {
        let name = self.schema.name.as_deref().unwrap_or_default();
        ["Date", "Time", "Timestamp"].iter().any(|date| name == format!("{CONNECT}{date}"))
    }

    /// Whether its values are bytes as they are.
    pub(super) fn is_bytes(&self) -> bool {
        self.form == Form::Bytes(Binary::Bytes)
    }
}

const CONNECT: &str = "org.apache.kafka.connect.data.";

fn plain(of: Type, form: Form) -> Option<(Schema, Form)> {
    Some((Schema::of(of), form))
}

fn named(of: Type, name: &str, form: Form) -> Option<(Schema, Form)> {
    Some((Schema::named(of, name), form))
}

/// Schema and form of a type (PostgreSQL source, `pg_type.dat`).
fn typed(facts: &ColumnFacts, modes: &Modes) -> Option<(Schema, Form)> {
    if !facts.labels.is_empty() {
        let schema = Schema::named(Type::Text, "io.debezium.data.Enum");
        return Some((schema.with_parameter("allowed", facts.labels.join(",")), Form::Text));
    }
    if let Some(element) = element(facts.type_oid) {
        let (schema, form) = typed(&ColumnFacts { type_oid: element, ..facts.clone() }, modes)?;
        let items = Box::new(schema.optional());
        return plain(Type::Array(items), Form::List(Box::new(form)));
    }
    match facts.type_oid {
        16 => plain(Type::Bool, Form::Bool),
        21 => plain(Type::Int16, Form::Int),
        23 => plain(Type::Int32, Form::Int),
        20 | 26 => plain(Type::Int64, Form::Int),
        700 => plain(Type::Float, Form::Float),
        701 => plain(Type::Double, Form::Double),
        1700 => Some(numeric(facts.modifier, modes.decimals)),
        2950 => named(Type::Text, "io.debezium.data.Uuid", Form::Text),
        114 | 3802 => named(Type::Text, "io.debezium.data.Json", Form::Text),
        142 => named(Type::Text, "io.debezium.data.Xml", Form::Text),
        17 if modes.binary == Binary::Bytes => plain(Type::Bytes, Form::Bytes(Binary::Bytes)),
        17 => plain(Type::Text, Form::Bytes(modes.binary)),
        1082 => Some(date(modes.precision)),
        1083 => Some(time_of_day(digits(facts.modifier), modes.precision)),
        1114 => Some(timestamp(digits(facts.modifier), modes.precision)),
        1184 => {
            let digits = usize::try_from(digits(facts.modifier)).ok().filter(|digits| *digits > 0);
            named(Type::Text, "io.debezium.time.ZonedTimestamp", Form::Zoned(digits))
        }
        1266 => named(Type::Text, "io.debezium.time.ZonedTime", Form::ZonedTime),
        // Text in any case: characters, addresses, ranges.
        18 | 25 | 1042 | 1043 | 650 | 774 | 829 | 869 | 3904 | 3906 | 3908 | 3910 | 3912 | 3926 => {
            plain(Type::Text, Form::Text)
        }
        _ if facts.type_name == "citext" => plain(Type::Text, Form::Text),
        _ => None,
    }
}

/// The type of an array's elements.
fn element(array: u32) -> Option<u32> {
    Some(match array {
        1000 => 16,
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1028 => 26,
        1021 => 700,
        1022 => 701,
        1231 => 1700,
        2951 => 2950,
        199 => 114,
        3807 => 3802,
        1182 => 1082,
        1115 => 1114,
        1185 => 1184,
        1002 => 18,
        1009 => 25,
        1014 => 1042,
        1015 => 1043,
        651 => 650,
        775 => 774,
        1040 => 829,
        1041 => 869,
        _ => return None,
    })
}

/// The digits of a second; without a modifier all six.
fn digits(modifier: i32) -> i32 {
    if modifier < 0 { 6 } else { modifier }
}

fn numeric(modifier: i32, decimals: Decimals) -> (Schema, Form) {
    let declared = (modifier >= 0).then(|| (((modifier - 4) >> 16) & 0xffff, (modifier - 4) & 0xffff));
    match (decimals, declared) {
        (Decimals::Text, _) => (Schema::of(Type::Text), Form::DecimalText),
        (Decimals::Double, _) => (Schema::of(Type::Double), Form::DecimalDouble),
        (Decimals::Precise, Some((precision, scale))) => {
            let schema = Schema::named(Type::Bytes, &format!("{CONNECT}Decimal"))
                .with_parameter("scale", scale.to_string())
                .with_parameter("connect.decimal.precision", precision.to_string());
            (schema, Form::Decimal(scale))
        }
        (Decimals::Precise, None) => {
            let fields = [("scale", Type::Int32), ("value", Type::Bytes)];
            let fields = fields.map(|(name, of)| (name.to_owned(), Schema::of(of))).into();
            let schema = Schema::named(Type::Struct(fields), "io.debezium.data.VariableScaleDecimal");
            (Schema { doc: Some("Variable scaled decimal"), ..schema }, Form::Variable)
        }
    }
}

fn date(precision: Precision) -> (Schema, Form) {
    match precision {
        Precision::Connect => (Schema::named(Type::Int32, &format!("{CONNECT}Date")), Form::Days),
        Precision::IsoString => (Schema::named(Type::Text, "io.debezium.time.IsoDate"), Form::IsoDate),
        _ => (Schema::named(Type::Int32, "io.debezium.time.Date"), Form::Days),
    }
}

fn time_of_day(digits: i32, precision: Precision) -> (Schema, Form) {
    let (of, name, scale) = match precision {
        Precision::Connect => (Type::Int32, format!("{CONNECT}Time"), Scale::Millis),
        Precision::IsoString => (Type::Text, "io.debezium.time.IsoTime".to_owned(), Scale::Iso),
        Precision::Nanoseconds => (Type::Int64, "io.debezium.time.NanoTime".to_owned(), Scale::Nanos),
        Precision::Adaptive if digits <= 3 => {
            (Type::Int32, "io.debezium.time.Time".to_owned(), Scale::Millis)
        }
        _ => (Type::Int64, "io.debezium.time.MicroTime".to_owned(), Scale::Micros),
    };
    (Schema::named(of, &name), Form::Time(scale))
}

fn timestamp(digits: i32, precision: Precision) -> (Schema, Form) {
    let (of, name, scale) = match precision {
        Precision::Connect => (Type::Int64, format!("{CONNECT}Timestamp"), Scale::Millis),
        Precision::IsoString => (Type::Text, "io.debezium.time.IsoTimestamp".to_owned(), Scale::Iso),
        Precision::Nanoseconds => (Type::Int64, "io.debezium.time.NanoTimestamp".to_owned(), Scale::Nanos),
        Precision::Adaptive | Precision::AdaptiveTimeMicroseconds if digits <= 3 => {
            (Type::Int64, "io.debezium.time.Timestamp".to_owned(), Scale::Millis)
        }
        _ => (Type::Int64, "io.debezium.time.MicroTimestamp".to_owned(), Scale::Micros),
    };
    (Schema::named(of, &name), Form::Timestamp(scale))
}

impl Form {
    /// The value that a text of PostgreSQL stands for.
    pub(super) fn read(&self, text: &str) -> Result<Datum, Fault> {
        match self {
            Form::Decimal(_) | Form::Variable | Form::DecimalText => self.decimal(text),
            Form::Timestamp(scale) => scale.timestamp(Moment::parse(text).ok_or(Fault::Misread)?),
            Form::List(form) => {
                let element = |element: Option<String>| match element.map(|text| form.read(&text)) {
                    None | Some(Err(Fault::Nothing)) => Ok(Datum::Null),
                    Some(read) => read,
                };
                let elements = array::elements(text).ok_or(Fault::Misread)?;
                elements.into_iter().map(element).collect::<Result<_, _>>().map(Datum::List)
            }
            _ => self.plain(text).ok_or(Fault::Misread),
        }
    }

    /// The same where each text of the type is a value.
    fn plain(&self, text: &str) -> Option<Datum> {
        Some(match self {
            Form::Bool => Datum::Bool(text == "t" || text == "true"),
            Form::Int => Datum::Int(text.parse().ok()?),
            Form::Float => Datum::Float(text.parse().ok()?),
            Form::Double | Form::DecimalDouble => Datum::Double(text.parse().ok()?),
            Form::Text => Datum::Text(text.to_owned()),
            Form::Bytes(binary) => binary.datum(unhex(text)?),
            Form::Days => Datum::Int(time::date(text)?),
            Form::IsoDate => Datum::Text(format!("{}Z", time::iso_date(time::date(text)?))),
            Form::Time(scale) => scale.time(time::time_of_day(text)?),
            Form::Zoned(_) if text == "infinity" || text == "-infinity" => Datum::Text(text.to_owned()),
            Form::Zoned(digits) => Datum::Text(Moment::parse_zoned(text)?.iso(*digits)),
            Form::ZonedTime => Datum::Text(format!("{}Z", time::iso_time(time::zoned_time(text)?, None))),
            Form::Decimal(_) | Form::Variable | Form::DecimalText | Form::Timestamp(_) | Form::List(_) => {
                return None;
            }
        })
    }

    fn decimal(&self, text: &str) -> Result<Datum, Fault> {
        let special = match text {
            "NaN" => Some("NAN"),
            "Infinity" => Some("POSITIVE_INFINITY"),
            "-Infinity" => Some("NEGATIVE_INFINITY"),
            _ => None,
        };
        match (self, special) {
            (Form::DecimalText, special) => return Ok(Datum::Text(special.unwrap_or(text).to_owned())),
            // Bytes can't say it.
            (_, Some(_)) => return Err(Fault::Failure),
            (_, None) => {}
        }
        let number = Decimal::parse(text).ok_or(Fault::Misread)?;
        if let Form::Decimal(scale) = self {
            return number.with_scale(*scale).map(Datum::Decimal).ok_or(Fault::Misread);
        }
        let number = number.stripped();
        let members = [("scale", Datum::Int(number.scale.into())), ("value", Datum::Bytes(number.bytes()))];
        Ok(Datum::Struct(members.map(|(name, value)| (name.to_owned(), value)).into()))
    }
}

impl Scale {
    fn time(self, micros: i64) -> Datum {
        match self {
            Scale::Millis => Datum::Int(micros / 1_000),
            Scale::Micros => Datum::Int(micros),
            Scale::Nanos => Datum::Int(micros * 1_000),
            Scale::Iso => Datum::Text(format!("{}Z", time::iso_time(micros, None))),
        }
    }

    fn timestamp(self, moment: Moment) -> Result<Datum, Fault> {
        let micros = || moment.epoch_micros().ok_or(Fault::Misread);
        Ok(match self {
            Scale::Millis => Datum::Int(micros()?.div_euclid(1_000)),
            Scale::Micros => Datum::Int(micros()?),
            Scale::Nanos => Datum::Int(moment.epoch_nanos().ok_or(Fault::Nothing)?),
            Scale::Iso => Datum::Text(moment.iso(None)),
        })
    }
}

/// `\x` and pairs of hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match *pair {
        [high, low] => Some((digit(high)? << 4) | digit(low)?),
        _ => None,
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests;
