//! How a connection is encrypted, and whom it trusts, by libpq's rules (PostgreSQL documentation, "SSL Support" in the
//! chapter on libpq, and "Parameter Key Words").
//!
//! Nothing is read here but the settings: the files are read anew for each connection.

use std::path::{Path, PathBuf};

use super::merge::Merged;
use crate::error::OutboxError;

/// `sslmode`, from the weakest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Never.
    #[default]
    Disable,
    /// Only if the server refuses a plain connection.
    Allow,
    /// If the server can.
    Prefer,
    /// Always.
    Require,
    /// Always, and the certificate must be signed by an authority that we trust.
    VerifyCa,
    /// The same, and it must be this server's.
    VerifyFull,
}

/// A file that was named, or is looked for where libpq looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// It was named, so it has to be there.
    pub(crate) is_named: bool,
}

/// Where the authorities are named that we trust: `sslrootcert`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Roots {
    #[default]
    Nowhere,
    /// Those of the operating system.
    System,
    File(Place),
}

/// `sslcertmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OwnCertificate {
    /// It is not shown.
    Never,
    /// It is shown to a server that asks for it.
    #[default]
    IfAsked,
    /// A server that does not ask for it is the wrong one.
    Always,
}

/// The encryption of the connections to one server.
#[cfg_attr(
    not(feature = "tls"),
    allow(dead_code, reason = "nothing else reads what asks for more than plain text")
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) mode: Mode,
    /// TLS begins without a question before it.
    pub(crate) is_direct: bool,
    pub(crate) roots: Roots,
    pub(crate) revoked: Option<Place>,
    pub(crate) revoked_folder: Option<PathBuf>,
    pub(crate) certificate: Option<Place>,
    pub(crate) key: Option<Place>,
    pub(crate) own_certificate: OwnCertificate,
    /// The server is told by which name it is called.
    pub(crate) tells_name: bool,
    /// TLS 1.2 will not do, or 1.3 will not.
    pub(crate) only_new: bool,
    pub(crate) only_old: bool,
}

impl Tls {
    /// Works out the settings. `home` is where the files are whose names are not given.
    pub(super) fn of(merged: &Merged, home: Option<&Path>) -> Result<Tls, OutboxError> {
        let is_system = merged.get("sslrootcert") == Some("system");
        let mode = mode(merged, is_system)?;
        let is_direct = one_of(merged, "sslnegotiation", &["postgres", "direct"])? == Some("direct");
        if is_direct && mode < Mode::Require {
            let what = "= direct asks for sslmode=require, verify-ca or verify-full beside it";
            return Err(merged.complain("sslnegotiation", what));
        }
        let in_home = |name: &str| home.map(|home| home.join(".postgresql").join(name));
        let place = |key, name| match merged.get(key) {
            Some(path) => Some(Place { path: PathBuf::from(path), is_named: true }),
            None => in_home(name).map(|path| Place { path, is_named: false }),
        };
        if merged.get("sslkey").is_some_and(|key| key.contains(':')) {
            return Err(merged.complain("sslkey", "names a key in an engine, and only files are supported"));
        }
        let (only_new, only_old) = versions(merged)?;
        let revoked_folder = merged.get("sslcrldir").map(PathBuf::from);
        Ok(Tls {
            mode,
            is_direct,
            roots: match place("sslrootcert", "root.crt") {
                _ if is_system => Roots::System,
                Some(place) => Roots::File(place),
                None => Roots::Nowhere,
            },
            revoked: place("sslcrl", "root.crl")
                .filter(|place| place.is_named || (revoked_folder.is_none() && !is_system)),
            revoked_folder,
            certificate: place("sslcert", "postgresql.crt"),
            key: place("sslkey", "postgresql.key"),
            own_certificate: match one_of(merged, "sslcertmode", &["disable", "allow", "require"])? {
                Some("disable") => OwnCertificate::Never,
                Some("require") => OwnCertificate::Always,
                _ => OwnCertificate::IfAsked,
            },
            tells_name: one_of(merged, "sslsni", &["0", "1"])? != Some("0"),
            only_new,
            only_old,
        })
    }
}

fn mode(merged: &Merged, is_system: bool) -> Result<Mode, OutboxError> {
    const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    let text = one_of(merged, "sslmode", &MODES)?;
    let mode = match text {
        Some("disable") => Mode::Disable,
        Some("allow") => Mode::Allow,
        Some("require") => Mode::Require,
        Some("verify-ca") => Mode::VerifyCa,
        Some("verify-full") => Mode::VerifyFull,
        // Whom the whole world trusts is known by its name only.
        None if is_system => Mode::VerifyFull,
        _ => Mode::Prefer,
    };
    if is_system && mode < Mode::VerifyFull {
        return Err(merged.complain("sslmode", "can only be verify-full beside sslrootcert=system"));
    }
    match text {
        _ if cfg!(feature = "tls") => Ok(mode),
        Some(text) if mode >= Mode::Require => Err(merged.lacks_tls("sslmode", text)),
        None if is_system => Err(merged.lacks_tls("sslrootcert", "system")),
        _ => Ok(Mode::Disable),
    }
}

/// Whether TLS 1.2 is too old, and whether 1.3 is too new.
fn versions(merged: &Merged) -> Result<(bool, bool), OutboxError> {
    let number = |key| match merged.get(key).map(str::to_ascii_lowercase).as_deref() {
        None => Ok(None),
        Some("tlsv1") => Ok(Some(0)),
        Some("tlsv1.1") => Ok(Some(1)),
        Some("tlsv1.2") => Ok(Some(2)),
        Some("tlsv1.3") => Ok(Some(3)),
        Some(_) => Err(merged.complain(key, "is none of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3")),
    };
    let (least, most) = (number("ssl_min_protocol_version")?, number("ssl_max_protocol_version")?);
    if most.is_some_and(|most| most < 2) {
        let what = "is below TLSv1.2, the oldest version that is supported";
        return Err(merged.complain("ssl_max_protocol_version", what));
    }
    if least.zip(most).is_some_and(|(least, most)| least > most) {
        return Err(merged.complain("ssl_min_protocol_version", "is above ssl_max_protocol_version"));
    }
    Ok((least == Some(3), most == Some(2)))
}

/// The value, if it is one of those that there are.
fn one_of<'a>(merged: &'a Merged, key: &str, values: &[&str]) -> Result<Option<&'a str>, OutboxError> {
    match merged.get(key) {
        Some(value) if !values.contains(&value) => {
            Err(merged.complain(key, &format!("is none of {}", values.join(", "))))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, variables: &[(&str, &str)]) -> Result<Tls, OutboxError> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Tls::of(&Merged::new(text, variable)?, Some(Path::new("/home/me")))
    }

    fn file(path: &str, is_named: bool) -> Option<Place> {
        Some(Place { path: PathBuf::from(path), is_named })
    }

    #[test]
    fn the_mode_follows_libpq() {
        for (text, variables, expected) in [
            ("", &[][..], Mode::Prefer),
            ("sslmode=disable", &[], Mode::Disable),
            ("sslmode=allow", &[], Mode::Allow),
            ("sslmode=''", &[("PGSSLMODE", "require")], Mode::Prefer),
            ("", &[("PGSSLMODE", "require")], Mode::Require),
            ("", &[("PGREQUIRESSL", "1")], Mode::Require),
            ("sslmode=verify-ca", &[("PGSSLMODE", "require")], Mode::VerifyCa),
            ("sslrootcert=system", &[], Mode::VerifyFull),
            ("", &[("PGSSLROOTCERT", "system")], Mode::VerifyFull),
            ("sslrootcert=/ca", &[], Mode::Prefer),
        ] {
            assert_eq!(of(text, variables).unwrap().mode, expected, "{text} {variables:?}");
        }
    }

    #[test]
    fn files_are_named_or_looked_for_at_home() {
        let default = of("", &[]).unwrap();
        assert_eq!(default.certificate, file("/home/me/.postgresql/postgresql.crt", false));
        assert_eq!(default.key, file("/home/me/.postgresql/postgresql.key", false));
        assert_eq!(default.revoked, file("/home/me/.postgresql/root.crl", false));
        assert_eq!(Some(default.roots), file("/home/me/.postgresql/root.crt", false).map(Roots::File));
        let text = "sslcert=/c sslkey=/k sslrootcert=/ca";
        let named = of(text, &[("PGSSLCRL", "/crl"), ("PGSSLCERT", "/other")]).unwrap();
        assert_eq!((named.certificate, named.key), (file("/c", true), file("/k", true)));
        assert_eq!(
            (Some(named.roots), named.revoked),
            (file("/ca", true).map(Roots::File), file("/crl", true))
        );
        assert_eq!(of("sslcrldir=/crls", &[]).unwrap().revoked, None, "the folder stands for the file");
        assert_eq!(of("sslrootcert=system", &[]).unwrap().revoked, None, "it is another authority's list");
    }

    #[test]
    fn the_rest_follows_libpq() {
        let default = of("", &[]).unwrap();
        assert!(default.tells_name && !default.is_direct && !default.only_new && !default.only_old);
        assert_eq!(default.own_certificate, OwnCertificate::IfAsked);
        let text = "sslmode=require sslnegotiation=direct sslsni=0 sslcertmode=require ssl_min_protocol_version=TLSV1.3";
        let set = of(text, &[]).unwrap();
        assert!(!set.tells_name && set.is_direct && set.only_new && !set.only_old);
        assert_eq!(set.own_certificate, OwnCertificate::Always);
        assert!(of("ssl_max_protocol_version=TLSv1.2", &[]).unwrap().only_old);
        assert!(!of("ssl_min_protocol_version=TLSv1", &[]).unwrap().only_new);
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_name() {
        for (text, expected) in [
            ("sslmode=on", "`sslmode` is none of disable, allow"),
            ("sslmode=require sslrootcert=system", "`sslmode` can only be verify-full"),
            ("sslnegotiation=direct", "`sslnegotiation` = direct asks for sslmode=require"),
            ("sslnegotiation=later", "`sslnegotiation` is none of"),
            ("sslcertmode=on", "`sslcertmode` is none of"),
            ("sslsni=yes", "`sslsni` is none of 0, 1"),
            ("sslkey=engine:key", "`sslkey` names a key in an engine"),
            ("ssl_min_protocol_version=SSLv3", "`ssl_min_protocol_version` is none of"),
            ("ssl_max_protocol_version=TLSv1.1", "`ssl_max_protocol_version` is below TLSv1.2"),
            ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "is above"),
        ] {
            let error = of(text, &[]).expect_err(text);
            assert!(error.is_usage() && error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
