//! The servers to try, one after the other.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::super::auth::no_password;
use super::Os;
use super::merge::Merged;
use super::passfile::{Login, PassFile};
use super::tls::Tls;
use crate::error::OutboxError;
use crate::secret::SecretSource;

const DEFAULT_PORT: u16 = 5432;

/// One server that may be the right one.
#[derive(Clone)]
pub struct Candidate {
    pub(super) config: Config,
    tls: Arc<Tls>,
    host: Host,
    port: u16,
    /// Where the password was set once and for all.
    given_by: Option<&'static str>,
    passfile: Option<Arc<PassFile>>,
    /// Instead of either.
    source: Option<Arc<SecretSource>>,
    /// The host's name in the password file.
    passfile_host: String,
}

impl Candidate {
    /// The settings for one connection to this server: exactly one host and port, at most one address,
    /// and the password as the password file has it *now*, so that a changed one is found by connecting
    /// again.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = self.config.clone();
        if let Some(file) = &self.passfile {
            let login = Login {
                host: &self.passfile_host,
                port: self.port,
                database: config.get_dbname().unwrap_or_default(),
                user: config.get_user().unwrap_or_default(),
            };
            if let Some(password) = file.password(login) {
                config.password(password);
            }
        }
        config
    }

    /// The same, with how a connection is to be encrypted.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let (tls, source, passfile) = (Arc::clone(&self.tls), self.source.clone(), self.passfile.clone());
        Endpoint { config: self.config(), tls, source, passfile, given_by: self.given_by }
    }

    pub(super) fn take_password_from(&mut self, source: &Arc<SecretSource>) {
        (self.given_by, self.passfile) = (None, None);
        self.source = Some(Arc::clone(source));
    }
}

/// One server as a connection is made to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Exactly one host and port, at most one address, and the login.
    pub(crate) config: Config,
    pub(crate) tls: Arc<Tls>,
    /// Where the password comes from, if it is read for each connection.
    source: Option<Arc<SecretSource>>,
    /// Where it comes from otherwise, if it was not given once and for all.
    passfile: Option<Arc<PassFile>>,
    /// Where it was.
    given_by: Option<&'static str>,
}

/// Where a password is to be had.
#[derive(Debug)]
pub(super) enum Password {
    /// It was set there.
    Given(&'static str),
    /// In this file, if there is one.
    OfFile(Option<PathBuf>),
}

impl Endpoint {
    /// The same with the password as its source has it now.
    ///
    /// # Errors
    /// The source gives none.
    pub(crate) async fn with_password(&self) -> Result<Endpoint, OutboxError> {
        let mut endpoint = self.clone();
        if let Some(source) = &self.source {
            endpoint.config.password(source.fetch("password for the database").await?);
        }
        Ok(endpoint)
    }

    /// What a failed login means: a password that is read for each connection may be another one the next time.
    /// So may one of the password file, which is read again as well; the file may just be replaced.
    pub(crate) fn judge(&self, error: OutboxError) -> OutboxError {
        let of_file = self.passfile.as_ref().is_some_and(|file| file.has_given());
        let user = self.config.get_user().unwrap_or_default();
        if of_file && error.to_string() == no_password(user).to_string() {
            return OutboxError::transient(error.to_string()).with_advice(
                "the password file has no line for this login any more: it is read again for each try",
            );
        }
        let is_renewed = self.source.is_some() || of_file;
        let error = if is_renewed { error.of_renewed_login() } else { error };
        match self.password_place() {
            Some(place) if error.sqlstate() == Some("28P01") => {
                let what = if is_renewed { "is read again for each try," } else { "came" };
                error.with_advice(format!(
                    "the password {what} from {place}: put the one there that role {user} has now"
                ))
            }
            _ => error,
        }
    }

    /// What has given the password, if it is known.
    fn password_place(&self) -> Option<String> {
        if let Some(source) = &self.source {
            return Some(match &**source {
                SecretSource::File(path) => format!("the file {} (--password-file)", path.display()),
                SecretSource::Command(_) => "the command of --password-command".to_owned(),
            });
        }
        let file = self.passfile.as_ref().filter(|file| file.has_given());
        let file = file.map(|file| format!("the password file {}", file.path().display()));
        file.or_else(|| self.given_by.map(str::to_owned))
    }
}

impl From<Config> for Endpoint {
    /// Without encryption.
    fn from(config: Config) -> Self {
        Endpoint { config, tls: Arc::default(), source: None, passfile: None, given_by: None }
    }
}

/// A host as it was written, before it became part of a candidate.
#[derive(Debug)]
pub(super) struct Server {
    host: String,
    address: Option<IpAddr>,
    port: u16,
}

impl Server {
    pub(super) fn into_candidate(
        self,
        common: &Config,
        tls: &Arc<Tls>,
        password: &Password,
        os: &Os,
    ) -> Candidate {
        let mut config = common.clone();
        config.host(&self.host).port(self.port);
        if let Some(address) = self.address {
            config.hostaddr(address);
        }
        let host = if self.host.starts_with('/') {
            Host::Unix(PathBuf::from(&self.host))
        } else {
            Host::Tcp(self.host.clone())
        };
        let passfile_host = if self.host == os.socket_dir { "localhost".to_owned() } else { self.host };
        let (given_by, file) = match password {
            Password::Given(place) => (Some(*place), None),
            Password::OfFile(file) => (None, file.as_deref()),
        };
        let (tls, passfile) = (Arc::clone(tls), file.map(|path| Arc::new(PassFile::new(path))));
        Candidate { config, tls, host, port: self.port, given_by, passfile, source: None, passfile_host }
    }
}

/// Host, address and port belong together by their place in three lists.
pub(super) fn servers(merged: &Merged, socket_dir: &str) -> Result<Vec<Server>, OutboxError> {
    let list = |key| merged.get(key).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = addresses.as_ref().or(hosts.as_ref()).map_or(1, Vec::len);
    if hosts.as_ref().is_some_and(|hosts| hosts.len() != count) {
        return Err(merged.complain("hostaddr", "has not as many entries as `host`"));
    }
    if ports.as_ref().is_some_and(|ports| ports.len() != 1 && ports.len() != count) {
        return Err(merged.complain("port", "has neither one entry nor as many as there are hosts"));
    }
    let entry = |list: &Option<Vec<&str>>, at: usize| {
        list.as_ref()
            .and_then(|list| list.get(at).copied())
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let server = |at: usize| {
        let address = match entry(&addresses, at) {
            Some(text) => {
                Some(text.parse().map_err(|_| merged.complain("hostaddr", "is not a numeric IP address"))?)
            }
            None => None,
        };
        let unnamed = || address.map_or_else(|| socket_dir.to_owned(), |address: IpAddr| address.to_string());
        let host = entry(&hosts, at).unwrap_or_else(unnamed);
        if host.starts_with('@') {
            return Err(merged.complain("host", "names an abstract socket, which is not supported"));
        }
        // One port serves all hosts; an empty entry means the default.
        let of_all = ports.as_ref().is_some_and(|ports| ports.len() == 1);
        let port = match entry(&ports, if of_all { 0 } else { at }) {
            Some(text) => text.parse().ok().filter(|port| *port > 0),
            None => Some(DEFAULT_PORT),
        };
        let port = port.ok_or_else(|| merged.complain("port", "is not a number from 1 to 65535"))?;
        Ok(Server { host, address, port })
    };
    (0..count).map(server).collect()
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Tcp(host) => write!(f, "{host}:{}", self.port),
            Host::Unix(folder) => write!(f, "{}:{}", folder.display(), self.port),
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password is masked by tokio-postgres; `options` may hold anything and is left out.
        f.debug_struct("Candidate")
            .field("server", &self.to_string())
            .field("user", &self.config.get_user())
            .field("dbname", &self.config.get_dbname())
            .field("password", &self.config.get_password().map(|_| "_"))
            .field("passfile", &self.passfile)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
