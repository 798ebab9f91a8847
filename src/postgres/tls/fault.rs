//! Why TLS did not come about, and what mends it.
//!
//! All of it may pass by itself, since certificates are replaced on either side while the relay runs: so a relay tries
//! again, and says what is wrong.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::{AlertDescription as Alert, CertificateError, Error, OtherError};

use super::super::settings::Endpoint;
use super::super::wire::cannot_connect;
use super::verifier::digits;
use crate::error::OutboxError;

/// Why a server's certificate is not believed.
#[derive(Debug)]
pub(super) enum Distrust {
    Unreadable,
    /// None of those who are named here has signed it.
    UnknownIssuer(String),
    OutOfTime {
        from: String,
        until: String,
    },
    Name {
        wanted: String,
        names: String,
    },
    Revoked,
    /// No list tells of one of the certificates, or it is past its time.
    NoList(String),
    /// It is of a kind that can't be looked up in a list.
    NotForLists,
    Other(webpki::Error),
}

impl Distrust {
    pub(super) fn of(error: webpki::Error, source: &str) -> Distrust {
        use webpki::Error as E;
        let moment = |moment| digits(moment).unwrap_or_default();
        match error {
            E::UnknownIssuer => Distrust::UnknownIssuer(source.to_owned()),
            E::CertExpired { not_after, .. } => {
                Distrust::OutOfTime { from: String::new(), until: moment(not_after) }
            }
            E::CertNotValidYet { not_before, .. } => {
                Distrust::OutOfTime { from: moment(not_before), until: String::new() }
            }
            E::CertRevoked => Distrust::Revoked,
            E::UnknownRevocationStatus => Distrust::NoList("no list (sslcrl) tells of it".to_owned()),
            E::CrlExpired { next_update, .. } => Distrust::NoList(format!(
                "the list (sslcrl) is past its time, {}",
                date(&moment(next_update))
            )),
            E::CaUsedAsEndEntity => Distrust::UnknownIssuer(source.to_owned()),
            other => Distrust::Other(other),
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Distrust::Unreadable | Distrust::Other(_) => {
                "give the server a certificate that its clients can verify"
            }
            Distrust::UnknownIssuer(_) => {
                "sslrootcert must hold the certificate of the authority that has signed the server's (or the server's own, \
                 if it has signed itself); the server must send those in between (ssl_cert_file); sslmode=require \
                 encrypts without verifying, as long as there is no file of authorities"
            }
            Distrust::OutOfTime { .. } => {
                "give the server a valid certificate, and look at the clocks of both machines"
            }
            Distrust::Name { .. } => {
                "connect by a name that is in the certificate (with hostaddr for the address), or give the server a \
                 certificate with this name; sslmode=verify-ca does not look at the name"
            }
            Distrust::Revoked => "give the server a new certificate",
            Distrust::NoList(_) => "fetch the lists of every authority in the chain anew: sslcrl, sslcrldir",
            Distrust::NotForLists => {
                "give the server a certificate of X.509 version 3 that an authority has signed, or set no list of revoked \
                 ones (sslcrl, sslcrldir, ~/.postgresql/root.crl)"
            }
        }
    }
}

/// Digits as a date.
fn date(digits: &str) -> String {
    match (digits.get(..4), digits.get(4..6), digits.get(6..8), digits.get(8..10), digits.get(10..12)) {
        (Some(year), Some(month), Some(day), Some(hour), Some(minute)) => {
            format!("{year}-{month}-{day} {hour}:{minute} UTC")
        }
        _ => "an unknown time".to_owned(),
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's certificate ")?;
        match self {
            Distrust::Unreadable => f.write_str("can't be read"),
            Distrust::UnknownIssuer(source) => write!(f, "is signed by nobody that {source} names"),
            Distrust::OutOfTime { from, until } if until.is_empty() => {
                write!(f, "is valid from {} on only", date(from))
            }
            Distrust::OutOfTime { from, until } if from.is_empty() => write!(f, "expired at {}", date(until)),
            Distrust::OutOfTime { from, until } => {
                write!(f, "is valid from {} to {} only", date(from), date(until))
            }
            Distrust::Name { wanted, names } => write!(f, "is not for {wanted}; its names are: {names}"),
            Distrust::Revoked => f.write_str("was revoked"),
            Distrust::NoList(why) => write!(f, "can't be held against the revoked ones: {why}"),
            Distrust::NotForLists => {
                f.write_str("can't be held against the revoked ones: it is of version 1, or signed by itself")
            }
            Distrust::Other(error) => write!(f, "can't be verified: {error}"),
        }
    }
}

impl StdError for Distrust {}

/// A handshake that failed.
pub(super) fn of(endpoint: &Endpoint, error: io::Error) -> OutboxError {
    let advice = match (rustls_error(&error), error.kind()) {
        (Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))), _) => {
            return match why.downcast_ref::<Distrust>() {
                Some(distrust) => cannot(endpoint, distrust.to_string(), distrust.advice()),
                None => cannot(endpoint, why.to_string(), AGREEMENT),
            };
        }
        (Some(Error::AlertReceived(alert)), _) => advice_of(*alert),
        (Some(Error::InvalidMessage(_)), _) => {
            "what answers there does not speak TLS: look at the host, the port, and \
                                                 what stands between"
        }
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) if endpoint.tls.is_direct => {
            DIRECT
        }
        _ => AGREEMENT,
    };
    cannot(endpoint, error.to_string(), advice)
}

const AGREEMENT: &str = "look at the server's log, its ssl_min_protocol_version and ssl_ciphers, and at \
                         ssl_min_protocol_version and ssl_max_protocol_version here (TLS 1.2 and 1.3 are supported)";
const DIRECT: &str = "sslnegotiation=direct needs PostgreSQL 17 or later: use sslnegotiation=postgres";
const OWN: &str = "the server does not accept our certificate: sslcert and sslkey must be signed by an authority in the \
                   server's ssl_ca_file, be valid, and not be in its ssl_crl_file";

fn cannot(endpoint: &Endpoint, why: String, advice: &str) -> OutboxError {
    OutboxError::connection(cannot_connect(&endpoint.config), why).with_advice(advice)
}

/// TLS began at once with something that is not Postgres.
pub(super) fn no_protocol(endpoint: &Endpoint) -> OutboxError {
    cannot(endpoint, "the server did not agree to speak Postgres inside of TLS".to_owned(), DIRECT)
}

/// Our certificate was to be shown, and was not.
pub(super) fn not_asked(endpoint: &Endpoint, was_asked: bool) -> OutboxError {
    if was_asked {
        let advice = "name it with sslcert, and its key with sslkey";
        return cannot(
            endpoint,
            "sslcertmode=require, and there is no certificate to show".to_owned(),
            advice,
        );
    }
    let advice = "set ssl_ca_file in the server's postgresql.conf, or sslcertmode=allow";
    cannot(endpoint, "sslcertmode=require, and the server does not ask for a certificate".to_owned(), advice)
}

fn advice_of(alert: Alert) -> &'static str {
    match alert {
        Alert::UnknownCA
        | Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::CertificateRequired
        | Alert::UnsupportedCertificate
        | Alert::DecryptError
        | Alert::AccessDenied => OWN,
        Alert::NoApplicationProtocol => DIRECT,
        _ => AGREEMENT,
    }
}

/// What a login that failed has to do with TLS: a server says no to our certificate only after the handshake.
pub(in super::super) fn explain(error: OutboxError) -> OutboxError {
    let mut cause = error.source();
    while let Some(link) = cause {
        let alert = link.downcast_ref::<io::Error>().and_then(rustls_error);
        if let Some(Error::AlertReceived(alert)) = alert {
            let advice = advice_of(*alert);
            return error.with_advice(advice);
        }
        cause = link.source();
    }
    if error.sqlstate() == Some("28000") && error.to_string().contains("certificate") {
        return error.with_advice(
            "the server lets this role in with a client certificate: name it with sslcert, and its key with sslkey",
        );
    }
    error
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
