//! Which settings there are, and which of their sources wins.

use std::collections::BTreeMap;

use super::conninfo;
use crate::error::OutboxError;

/// What becomes of a setting of libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is used.
    Used,
    /// It says nothing to a connection of ours, and may stay where it is.
    Idle,
    /// Somebody relies on it, and it can't be honoured yet: passing over it in silence would be a lie.
    Refused(&'static str),
}

use Fate::{Idle, Refused, Used};

const SERVICE: &str = "is not supported: write the service's settings into the connection string or PG* \
                       variables";

/// Key, variable, fate.
const OPTIONS: [(&str, &str, Fate); 47] = [
    ("host", "PGHOST", Used),
    ("hostaddr", "PGHOSTADDR", Used),
    ("port", "PGPORT", Used),
    ("dbname", "PGDATABASE", Used),
    ("user", "PGUSER", Used),
    ("password", "PGPASSWORD", Used),
    ("passfile", "PGPASSFILE", Used),
    ("application_name", "PGAPPNAME", Used),
    ("fallback_application_name", "", Used),
    ("options", "PGOPTIONS", Used),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    ("keepalives", "", Used),
    ("keepalives_idle", "", Used),
    ("keepalives_interval", "", Used),
    ("keepalives_count", "", Used),
    ("tcp_user_timeout", "", Used),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    ("channel_binding", "PGCHANNELBINDING", Used),
    ("sslmode", "PGSSLMODE", Used),
    ("sslnegotiation", "PGSSLNEGOTIATION", Used),
    ("sslrootcert", "PGSSLROOTCERT", Used),
    ("sslcertmode", "PGSSLCERTMODE", Used),
    ("gssencmode", "PGGSSENCMODE", Used),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Used),
    ("sslcert", "PGSSLCERT", Used),
    ("sslkey", "PGSSLKEY", Used),
    ("sslcrl", "PGSSLCRL", Used),
    ("sslcrldir", "PGSSLCRLDIR", Used),
    ("sslsni", "PGSSLSNI", Used),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Used),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Used),
    ("client_encoding", "PGCLIENTENCODING", Idle),
    // A key that is encrypted is refused when it is read, and no other needs it.
    ("sslpassword", "", Idle),
    ("sslcompression", "PGSSLCOMPRESSION", Idle),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", Idle),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", Idle),
    ("krbsrvname", "PGKRBSRVNAME", Idle),
    ("gsslib", "PGGSSLIB", Idle),
    ("gssdelegation", "PGGSSDELEGATION", Idle),
    ("sslkeylogfile", "", Refused("would write the keys of the connection to a file: leave it out")),
    ("service", "PGSERVICE", Refused(SERVICE)),
    ("servicefile", "", Refused(SERVICE)),
    ("require_auth", "PGREQUIREAUTH", Refused("is not supported: leave it out")),
    ("requirepeer", "PGREQUIREPEER", Refused("is not supported: leave it out")),
    ("replication", "", Refused("is set by the relay itself: leave it out")),
    ("scram_client_key", "", Refused("is not supported: give the password")),
    ("scram_server_key", "", Refused("is not supported: give the password")),
];

/// Whether libpq has a setting of this name.
pub(super) fn is_known(key: &str) -> bool {
    OPTIONS.iter().any(|(known, ..)| *known == key)
}

#[derive(Debug)]
struct Value {
    text: String,
    /// The variable that it came from.
    variable: Option<&'static str>,
}

/// The settings after the connection string and the environment were laid over each other.
#[derive(Debug)]
pub(super) struct Merged(BTreeMap<&'static str, Value>);

impl Merged {
    pub(super) fn new(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, OutboxError> {
        let pairs = conninfo::parse(text).map_err(|what| {
            OutboxError::usage(
                what,
                "write postgresql://user@host:port/database or key=value pairs, as for psql",
            )
        })?;
        let mut values = BTreeMap::new();
        for (key, name, _) in OPTIONS {
            if let Some(text) = variable(name).filter(|text| !name.is_empty() && !text.is_empty()) {
                values.insert(key, Value { text, variable: Some(name) });
            }
        }
        for (key, text) in pairs {
            let Some((key, ..)) = OPTIONS.iter().find(|(known, ..)| *known == key) else {
                return Err(complain(&key, "is unknown"));
            };
            values.insert(key, Value { text, variable: None });
        }
        // Long deprecated and still obeyed by libpq.
        if !values.contains_key("sslmode") && variable("PGREQUIRESSL").is_some_and(|on| on.starts_with('1')) {
            values.insert("sslmode", Value { text: "require".to_owned(), variable: Some("PGREQUIRESSL") });
        }
        Ok(Merged(values))
    }

    /// The value, unless it is missing or empty. An empty value in the connection string hides that of
    /// the environment.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// Where the value comes from, as a person would look for it.
    pub(super) fn place(&self, key: &str) -> &'static str {
        self.0.get(key).and_then(|value| value.variable).unwrap_or("the connection string")
    }

    /// A whole number; as libpq, one below zero counts as zero.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, OutboxError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text.trim().parse::<i32>() {
            Ok(number) => Ok(Some(u64::try_from(number).unwrap_or_default())),
            Err(_) => Err(self.complain(key, "is not a whole number")),
        }
    }

    /// Refuses what would weaken a connection if it were passed over.
    pub(super) fn refuse_what_is_missing(&self) -> Result<(), OutboxError> {
        for (key, _, fate) in OPTIONS {
            if let (Refused(reason), Some(_)) = (fate, self.get(key)) {
                return Err(self.complain(key, reason));
            }
        }
        match self.get("gssencmode") {
            None | Some("disable" | "prefer") => {}
            Some("require") => {
                let what =
                    "= require asks for encryption by GSSAPI, which is not supported: use TLS (sslmode)";
                return Err(self.complain("gssencmode", what));
            }
            Some(_) => return Err(self.complain("gssencmode", "is none of disable, prefer, require")),
        }
        // The order of hosts is the only one that lets a standby relay predict where its slot is.
        match self.get("load_balance_hosts") {
            None | Some("disable") => Ok(()),
            Some(_) => {
                Err(self.complain("load_balance_hosts", "can only be `disable`: a slot lives on one server"))
            }
        }
    }

    pub(super) fn complain(&self, key: &str, what: &str) -> OutboxError {
        match self.0.get(key).and_then(|value| value.variable) {
            Some(variable) => complain_of(&format!("`{key}` (from {variable})"), what),
            None => complain(key, what),
        }
    }

    /// It asks for TLS, and this library was built without.
    pub(super) fn lacks_tls(&self, key: &str, value: &str) -> OutboxError {
        let what = format!("= {value} asks for an encrypted connection, which this build can't make");
        self.complain(key, &what).with_advice("build Walpost with its feature `tls`")
    }
}

/// An error that names a setting; values are never shown, since a malformed one may be a password.
pub(super) fn complain(key: &str, what: &str) -> OutboxError {
    complain_of(&format!("`{key}`"), what)
}

fn complain_of(name: &str, what: &str) -> OutboxError {
    OutboxError::usage(
        format!("the connection setting {name} {what}"),
        "settings are named and written as for psql: PostgreSQL documentation, \"Connection Strings\"",
    )
}
