//! What can be wrong with bytes off the wire: always the message, always the field.

/// Bytes that the protocol doesn't allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the field does.
    #[error("{message} message ends inside its {field}")]
    Short {
        /// Kind of the message.
        message: &'static str,
        /// What was to be read.
        field: &'static str,
    },
    /// The message is complete and bytes remain.
    #[error("{message} message has {bytes} bytes after its end")]
    LeftOver {
        /// Kind of the message.
        message: &'static str,
        /// How many remain.
        bytes: usize,
    },
    /// No message begins like this.
    #[error("unknown {message} tag {tag:#04x}")]
    UnknownTag {
        /// The layer that the tag belongs to.
        message: &'static str,
        /// The first byte.
        tag: u8,
    },
    /// The message is part of the protocol, but only sent to those who ask for it.
    #[error("message tag `{}` belongs to {feature}, which was not requested", char::from(*.tag))]
    NotRequested {
        /// The first byte.
        tag: u8,
        /// What has to be requested for it to come.
        feature: &'static str,
    },
    /// A length or count below zero.
    #[error("{message} message has a negative {field}: {value}")]
    Negative {
        /// Kind of the message.
        message: &'static str,
        /// What was read.
        field: &'static str,
        /// What it said.
        value: i32,
    },
    /// A value outside the few that are defined.
    #[error("{message} message has an undefined {field}: {value:#04x}")]
    Invalid {
        /// Kind of the message.
        message: &'static str,
        /// What was read.
        field: &'static str,
        /// What it said.
        value: u8,
    },
    /// Text in another encoding than the one that the connection has set.
    #[error("{message} message has a {field} that is not UTF-8")]
    NotUtf8 {
        /// Kind of the message.
        message: &'static str,
        /// What was read.
        field: &'static str,
    },
    /// More of something than a server can have.
    #[error("{message} message announces {count} as its {field}; {limit} is the most")]
    TooMany {
        /// Kind of the message.
        message: &'static str,
        /// What was counted.
        field: &'static str,
        /// How many the message announces.
        count: usize,
        /// How many there can be.
        limit: usize,
    },
    /// A time that this system can't express.
    #[error("{message} message has a {field} out of range: {micros} microseconds since 2000-01-01")]
    OutOfTime {
        /// Kind of the message.
        message: &'static str,
        /// What was read.
        field: &'static str,
        /// What it said.
        micros: i64,
    },
}
