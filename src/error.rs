//! What went wrong, whether trying again helps, and what a person can do about it.
//!
//! Adapters hand over a code and a source; what follows from a code is decided here and nowhere else.
//! Unknown means transient: a relay that retries too much is a line in a log, one that gives up is an
//! outage.

use std::error::Error;
use std::fmt;

use crate::lsn::Position;

type Source = Box<dyn Error + Send + Sync>;

/// Any failure of the outbox, its relay or its set-up.
///
/// `Display` says what happened; [`source`](Error::source) says why, and is not repeated by `Display`.
pub struct OutboxError(Box<Inner>);

struct Inner {
    kind: Kind,
    what: String,
    position: Option<Position>,
    /// The last of those that were sent together with it.
    company: Option<Position>,
    /// The broker's or librdkafka's number for it.
    code: Option<i32>,
    /// The topic, when none of its messages can be sent.
    topic: Option<String>,
    /// No later try of this process can end otherwise.
    for_good: bool,
    /// It stands in the log already.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the command line asks for it"))]
    told: bool,
    advice: Option<String>,
    sqlstate: Option<String>,
    source: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Trying again may help.
    Transient,
    /// Somebody else holds the slot; trying again helps once they let go.
    SlotInUse,
    /// One message was refused; trying again rarely helps.
    Message,
    /// Only a person can help.
    Definite,
    /// What was asked for makes no sense; nothing was tried.
    Usage,
}

impl OutboxError {
    /// A connection that could not be made, or broke.
    pub fn connection(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::new(Kind::Transient, what).with_source(source)
    }

    /// Bytes that the protocol doesn't allow; a fresh connection starts clean.
    pub fn protocol(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::new(Kind::Transient, what).with_source(source)
    }

    /// A state that passes by itself.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Kind::Transient, what)
    }

    /// A state that only a person can change.
    pub fn definite(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Kind::Definite, what).with_advice(advice)
    }

    /// A wrong setting or argument.
    pub fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what).with_advice(advice)
    }

    /// Somebody else reads the slot.
    pub(crate) fn slot_in_use(what: impl Into<String>) -> Self {
        Self::new(Kind::SlotInUse, what)
    }

    /// One message that can't be sent as it is.
    pub fn message(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Kind::Message, what).with_advice(advice)
    }

    /// The same with a source that tells more.
    pub(crate) fn message_because(
        what: impl Into<String>,
        source: impl Into<Source>,
        advice: impl Into<String>,
    ) -> Self {
        Self::message(what, advice).with_source(source)
    }

    /// An error that the Postgres server reported, judged by its SQLSTATE
    /// (PostgreSQL documentation, appendix "PostgreSQL Error Codes").
    pub fn server(during: &str, sqlstate: &str, message: &str) -> Self {
        let (kind, advice) = judge_sqlstate(sqlstate);
        let mut error = Self::new(kind, format!("{during}: {message} (SQLSTATE {sqlstate})"));
        error.0.sqlstate = Some(sqlstate.to_owned());
        match advice {
            Some(advice) => error.with_advice(advice),
            None => error,
        }
    }

    /// An error of librdkafka or the broker, judged by its number: negative ones are librdkafka's own,
    /// the others the broker's (Kafka protocol guide, "Error Codes").
    pub fn broker(during: &str, code: i32, source: impl Into<Source>) -> Self {
        let (kind, advice) = judge_broker_code(code);
        let mut error = Self::new(kind, during).with_source(source);
        error.0.code = Some(code);
        match advice {
            Some(advice) => error.with_advice(advice),
            None => error,
        }
    }

    fn new(kind: Kind, what: impl Into<String>) -> Self {
        OutboxError(Box::new(Inner {
            kind,
            what: what.into(),
            position: None,
            company: None,
            code: None,
            topic: None,
            for_good: false,
            told: false,
            advice: None,
            sqlstate: None,
            source: None,
        }))
    }

    fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    #[must_use]
    /// Adds what a person can do about it.
    pub fn with_advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds what another way ended in, unless it was the same.
    pub(crate) fn and_also(mut self, way: &str, other: &OutboxError) -> Self {
        let other = other.chain();
        if other != self.chain() {
            self.0.what = format!("{} ({way}: {other})", self.0.what);
        }
        self
    }

    /// Names the message that it happened to.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.0.position.get_or_insert(position);
        self
    }

    /// Names the messages that were sent together: any of them may be the one that was refused.
    #[must_use]
    pub fn among(mut self, first: Position, last: Position) -> Self {
        self.0.position.get_or_insert(first.min(last));
        self.0.company = Some(last.max(first));
        self
    }

    /// Names the topic of a record that the broker refused, if it will refuse all others too.
    #[must_use]
    pub fn of_topic(mut self, topic: &str) -> Self {
        // Unknown topic, not authorised, invalid name.
        if matches!(self.0.code, Some(3 | -188 | 29 | 17)) {
            self.0.topic = Some(topic.to_owned());
        }
        self
    }

    /// Says that a setting forbids all messages to this topic, so that trying again is of no use.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only a publisher forbids topics"))]
    #[must_use]
    pub(crate) fn for_good(mut self, topic: &str) -> Self {
        self.0.topic = Some(topic.to_owned());
        self.0.for_good = true;
        self
    }

    /// Says that it stands in the log already, with its advice.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn told(mut self) -> Self {
        self.0.told = true;
        self
    }

    #[cfg(feature = "cli")]
    pub(crate) fn is_told(&self) -> bool {
        self.0.told
    }

    /// Whether trying again is of no use as long as the settings are what they are.
    pub(crate) fn is_for_good(&self) -> bool {
        self.0.for_good
    }

    /// The same of a login whose password is read again for each connection: the next one may have another, so that what
    /// the server says of this one passes.
    #[must_use]
    pub(crate) fn of_renewed_login(mut self) -> Self {
        if matches!(self.sqlstate(), Some("28P01" | "28000")) {
            self.0.kind = Kind::Transient;
            self.0.advice = Some(
                "the password is read again for each try: see that its file or command gives the one that the role has now; \
                 and that the role may log in (LOGIN, REPLICATION, a line in pg_hba.conf for the database by its name)"
                    .to_owned(),
            );
        }
        self
    }

    /// The topic that takes no message at all.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.0.topic.as_deref()
    }

    /// Whether the same thing may go well when it is tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, Kind::Transient | Kind::SlotInUse)
    }

    /// Whether another connection holds the slot.
    #[must_use]
    pub fn is_slot_in_use(&self) -> bool {
        self.0.kind == Kind::SlotInUse
    }

    /// Whether one message was refused while the line as such works.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.0.kind == Kind::Message
    }

    /// Whether it was the size that was refused.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self.0.code, Some(10 | 18))
    }

    /// Whether a setting or argument is wrong.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.0.kind == Kind::Usage
    }

    /// The code that the Postgres server gave, if it is the server's error.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    /// The message that it happened to.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// The last of the messages that may be meant, if it is not known that it happened to the one at
    /// [`position`](Self::position).
    #[must_use]
    pub fn company(&self) -> Option<Position> {
        self.0.company
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// What happened and why, on one line, each cause once.
    #[must_use]
    pub fn chain(&self) -> String {
        self.with_causes(self.to_string())
    }

    /// The same without the message that it happened to, so that it is equal for all of its kind.
    #[must_use]
    pub fn reason(&self) -> String {
        self.with_causes(self.0.what.clone())
    }

    /// What all errors of one cause have in common: neither where it happened nor the details.
    pub(crate) fn cause(&self) -> String {
        match self.0.code {
            Some(code) => format!("{} [{code}]", self.0.what),
            None => self.0.what.clone(),
        }
    }

    fn with_causes(&self, mut text: String) -> String {
        let mut cause = self.source();
        while let Some(error) = cause {
            let link = error.to_string();
            // Some libraries repeat their source in their own text.
            if !text.contains(&link) {
                text.push_str(": ");
                text.push_str(&link);
            }
            cause = error.source();
        }
        text
    }
}

fn judge_sqlstate(sqlstate: &str) -> (Kind, Option<&'static str>) {
    let advice = match sqlstate {
        "55006" => return (Kind::SlotInUse, None),
        "28P01" => "check the password: PGPASSWORD, the password file, or the connection string",
        "28000" => {
            "the login was refused: the role needs LOGIN and REPLICATION, and pg_hba.conf a line for the \
             database by its name (the keyword `replication` does not match a logical connection)"
        }
        "3D000" => "the database does not exist: check its name in the connection settings",
        "42501" => "the role lacks a right: run `walpost check` to see which, and the GRANT that gives it",
        "42704" | "42P01" | "3F000" => "run `walpost setup` to create what is missing",
        "42703" => "a column is missing: run `walpost check` to compare the table with what is expected",
        "55000" => {
            "run `walpost check`: wal_level is below logical, or the slot has lost the log that it needs"
        }
        "22021" | "22P05" => {
            "a row holds text that has no form in UTF-8, and the server stops at it each time: keep bytes that are not \
             text in a column of type bytea; to go on without that row's transaction, move the slot behind it with \
             pg_replication_slot_advance(), and insert again what it skips"
        }
        "0A000" | "42601" | "22023" => {
            "this server does not know the request: PostgreSQL 14 or later is needed"
        }
        _ => return (Kind::Transient, None),
    };
    (Kind::Definite, Some(advice))
}

fn judge_broker_code(code: i32) -> (Kind, Option<&'static str>) {
    let (kind, advice) = match code {
        10 | 18 => (
            Kind::Message,
            "the record, or the batch that it was sent in, is larger than allowed: raise max.message.bytes of the \
             topic and message.max.bytes (`-X message.max.bytes=...`), lower batch.size, or send less",
        ),
        17 => (Kind::Message, "the topic's name is not valid: Kafka allows 1 to 249 of a-z A-Z 0-9 . _ -"),
        29 => (Kind::Message, "the Kafka user may not write to this topic: grant WRITE on it"),
        3 | -188 => (Kind::Message, "the topic does not exist and the broker does not create it: create it"),
        -190 => (Kind::Message, "the topic has no such partition"),
        32 => (
            Kind::Message,
            "the record's timestamp is too far from the present: see message.timestamp.before.max.ms and \
             message.timestamp.after.max.ms of the topic",
        ),
        43 => (Kind::Message, "the topic's message format is too old for headers: raise it to 0.11 or later"),
        44 => (Kind::Message, "a policy of the cluster forbids the record: ask who runs the cluster"),
        87 => (
            Kind::Message,
            "the broker found the record invalid: see the topic's settings and the broker's log",
        ),
        31 => {
            (Kind::Definite, "the Kafka user needs IDEMPOTENT_WRITE on the cluster, or WRITE on the topics")
        }
        35 | -165 => {
            (Kind::Definite, "the broker lacks what an idempotent producer needs: Kafka 0.11 or later")
        }
        76 => (Kind::Definite, "the broker does not know this compression: change `-X compression.type`"),
        // Rotated credentials and certificates come right without a restart, so these are tried again.
        33 | 34 | 58 | -169 => (
            Kind::Transient,
            "the broker refuses the login: check sasl.mechanism, sasl.username and sasl.password",
        ),
        -181 => (Kind::Transient, "check security.protocol, the broker's certificate and ssl.ca.location"),
        // Among them what only says that a producer must be made anew: -150 fatal, -148 gap, -152 and -151
        // purged, -138 sent beside an invalid one, 45, 46, 47, 59 and 90 sequence or identity lost.
        _ => return (Kind::Transient, None),
    };
    (kind, Some(advice))
}

impl fmt::Display for OutboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        match self.0.position {
            Some(position) => write!(f, " (message at {position})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for OutboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxError")
            .field("kind", &self.0.kind)
            .field("chain", &self.chain())
            .field("advice", &self.0.advice)
            .finish()
    }
}

impl Error for OutboxError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    #[test]
    fn sqlstates_are_judged() {
        for (code, transient, in_use) in [
            ("57P01", true, false),
            ("53300", true, false),
            ("XX000", true, false),
            ("55006", true, true),
            ("28P01", false, false),
            ("42704", false, false),
            ("42501", false, false),
            ("55000", false, false),
        ] {
            let error = OutboxError::server("asking", code, "no");
            assert_eq!((error.is_transient(), error.is_slot_in_use()), (transient, in_use), "{code}");
            assert_eq!(error.advice().is_some(), !transient, "{code}");
        }
    }

    #[test]
    fn broker_codes_are_judged() {
        const TRANSIENT: &[i32] = &[
            -195, -192, -187, -185, -184, -169, -181, -152, -151, -150, -148, -138, 2, 5, 6, 7, 14, 15, 16,
            19, 20, 33, 34, 45, 46, 47, 56, 58, 59, 90, 12345,
        ];
        const MESSAGE: &[i32] = &[3, 10, 17, 18, 29, 32, 43, 44, 87, -188, -190];
        const DEFINITE: &[i32] = &[31, 35, 76, -165];
        for (codes, transient, message) in
            [(TRANSIENT, true, false), (MESSAGE, false, true), (DEFINITE, false, false)]
        {
            for code in codes {
                let error = OutboxError::broker("publishing", *code, "why");
                assert_eq!((error.is_transient(), error.is_message()), (transient, message), "{code}");
                assert!(transient || error.advice().is_some(), "{code}");
            }
        }
    }

    #[test]
    fn a_cause_is_printed_once_and_the_position_stays() {
        let at = Position { commit_lsn: Lsn(16), index: 2 };
        let error = OutboxError::connection("cannot connect", "refused").at(at).at(Position::default());
        assert_eq!(error.chain(), "cannot connect (message at 0/10+2): refused");
        assert_eq!(error.position(), Some(at));
    }
}
