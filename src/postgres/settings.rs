//! Connection settings with libpq's rules: a URL or `key=value` list, `PG*` variables, the password file,
//! several hosts (PostgreSQL documentation, chapters "Database Connection Control Functions",
//! "Environment Variables", "The Password File").
//!
//! What comes out is one [`Candidate`] for each host, in order. The names and values of the environment
//! are handed in; nothing here reads it.

mod candidate;
mod conninfo;
mod merge;
mod passfile;
mod tls;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};

use crate::error::OutboxError;
use crate::secret::SecretSource;
use candidate::Password;
use merge::{Merged, complain, is_known};

pub use candidate::{Candidate, Endpoint};
pub(crate) use tls::Mode;
#[cfg(feature = "tls")]
pub(crate) use tls::{OwnCertificate, Place, Roots, Tls};

const DEFAULT_SOCKET_DIR: &str = "/var/run/postgresql";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What libpq asks of the operating system when a setting is missing.
#[derive(Clone, Debug)]
pub struct Os {
    /// The user name of the process, if it has one.
    pub user: Option<String>,
    /// The folder of the server's Unix socket.
    pub socket_dir: String,
}

impl Os {
    /// Asks this machine. The socket folder is that of Debian's and Fedora's packages where it exists,
    /// else that of a server built from source.
    #[must_use]
    pub fn detect() -> Os {
        let socket_dir =
            if Path::new(DEFAULT_SOCKET_DIR).is_dir() { DEFAULT_SOCKET_DIR } else { "/tmp" }.to_owned();
        Os { user: whoami::username().ok(), socket_dir }
    }
}

/// Where the database is and how to log in.
///
/// ```
/// use walpost::postgres::settings::{Os, Settings};
///
/// let os = Os { user: Some("relay".into()), socket_dir: "/tmp".into() };
/// let variable = |name: &str| (name == "PGPORT").then(|| "5433".to_owned());
/// let settings = Settings::resolve(Some("host=a,b dbname=shop"), variable, &os)?;
/// assert_eq!(settings.to_string(), "shop on a:5433, b:5433 as relay");
/// # Ok::<(), walpost::OutboxError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Settings {
    candidates: Vec<Candidate>,
    target_session_attrs: TargetSessionAttrs,
}

impl Settings {
    /// Works out the settings from a URL or `key=value` list, `PG*` variables and libpq's defaults, in
    /// this order. A variable that is empty counts as not set.
    ///
    /// # Errors
    /// A setting is unknown, malformed or can't be honoured; the error names it, and never shows a
    /// password.
    pub fn resolve(
        text: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
        os: &Os,
    ) -> Result<Settings, OutboxError> {
        let merged = Merged::new(text.unwrap_or_default(), &variable)?;
        merged.refuse_what_is_missing()?;
        let user = merged.get("user").map(str::to_owned).or_else(|| os.user.clone());
        let user = user.ok_or_else(|| complain("user", "is missing, and this process has no user name"))?;
        let database = merged.get("dbname").unwrap_or(&user);
        let target_session_attrs = target_session_attrs(&merged)?;

        let mut common = Config::new();
        common.user(&user).dbname(database).target_session_attrs(target_session_attrs);
        // TLS is ours, before tokio-postgres gets to see the connection.
        common.ssl_mode(SslMode::Disable);
        set_session(&mut common, &merged)?;
        set_transport(&mut common, &merged)?;

        let home = variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let tls = Arc::new(tls::Tls::of(&merged, home.as_deref())?);

        // A password that is given is never replaced by that of the file.
        let password = match merged.get("password") {
            Some(password) => {
                common.password(password);
                Password::Given(merged.place("password"))
            }
            None => {
                let file = merged.get("passfile").map(PathBuf::from);
                Password::OfFile(file.or_else(|| Some(home.as_ref()?.join(".pgpass"))))
            }
        };
        let servers = candidate::servers(&merged, &os.socket_dir)?.into_iter();
        let candidates = servers.map(|server| server.into_candidate(&common, &tls, &password, os)).collect();
        Ok(Settings { candidates, target_session_attrs })
    }

    /// Takes the password from there, anew for each connection, instead of what was set or stands in the password file.
    #[must_use]
    pub fn with_password_from(mut self, source: SecretSource) -> Settings {
        let source = Arc::new(source);
        for candidate in &mut self.candidates {
            candidate.take_password_from(&source);
        }
        self
    }

    /// The servers to try, in order; at least one.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Which server of several is the right one.
    #[must_use]
    pub fn target_session_attrs(&self) -> TargetSessionAttrs {
        self.target_session_attrs
    }
}

/// Whether a connection string spells out a password, which then shows in the list of processes.
/// A string that can't be taken apart holds none that could be used.
#[must_use]
pub fn has_password(text: &str) -> bool {
    let secret = |key: &str| matches!(key, "password" | "sslpassword");
    conninfo::parse(text).is_ok_and(|pairs| pairs.iter().any(|(key, value)| secret(key) && !value.is_empty()))
}

fn target_session_attrs(merged: &Merged) -> Result<TargetSessionAttrs, OutboxError> {
    match merged.get("target_session_attrs") {
        None | Some("any" | "prefer-standby") => Ok(TargetSessionAttrs::Any),
        Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
        Some("read-only" | "standby") => Ok(TargetSessionAttrs::ReadOnly),
        Some(_) => Err(merged.complain(
            "target_session_attrs",
            "is none of any, read-write, read-only, primary, standby, prefer-standby",
        )),
    }
}

fn set_session(config: &mut Config, merged: &Merged) -> Result<(), OutboxError> {
    let name = merged.get("application_name").or_else(|| merged.get("fallback_application_name"));
    config.application_name(name.unwrap_or("walpost"));
    if let Some(options) = merged.get("options") {
        config.options(options);
    }
    config.channel_binding(match merged.get("channel_binding") {
        None | Some("prefer") => ChannelBinding::Prefer,
        Some("disable") => ChannelBinding::Disable,
        Some("require") if cfg!(feature = "tls") => ChannelBinding::Require,
        Some("require") => return Err(merged.lacks_tls("channel_binding", "require")),
        Some(_) => return Err(merged.complain("channel_binding", "is none of disable, prefer, require")),
    });
    Ok(())
}

fn set_transport(config: &mut Config, merged: &Merged) -> Result<(), OutboxError> {
    match merged.number("connect_timeout")? {
        None => {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        // As libpq: zero waits for ever, and one second is too short to mean it.
        Some(0) => {}
        Some(seconds) => {
            config.connect_timeout(Duration::from_secs(seconds.max(2)));
        }
    }
    if let Some(keepalives) = merged.number("keepalives")? {
        config.keepalives(keepalives != 0);
    }
    // Zero leaves each of these to the system.
    let positive = |key| merged.number(key).map(|number| number.filter(|number| *number > 0));
    if let Some(seconds) = positive("keepalives_idle")? {
        config.keepalives_idle(Duration::from_secs(seconds));
    }
    if let Some(seconds) = positive("keepalives_interval")? {
        config.keepalives_interval(Duration::from_secs(seconds));
    }
    if let Some(count) = positive("keepalives_count")? {
        config.keepalives_retries(u32::try_from(count).unwrap_or(u32::MAX));
    }
    if let Some(milliseconds) = positive("tcp_user_timeout")? {
        config.tcp_user_timeout(Duration::from_millis(milliseconds));
    }
    Ok(())
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.candidates.first().map(|first| &first.config);
        f.write_str(config.and_then(Config::get_dbname).unwrap_or_default())?;
        for (at, candidate) in self.candidates.iter().enumerate() {
            write!(f, "{}{candidate}", if at == 0 { " on " } else { ", " })?;
        }
        write!(f, " as {}", config.and_then(Config::get_user).unwrap_or_default())
    }
}

/// Looks a login up in the text of a password file.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz_password_file(text: &str) {
    passfile::fuzz(text);
}

#[cfg(test)]
mod tests;
