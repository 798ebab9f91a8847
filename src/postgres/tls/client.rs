//! What a connection begins with: whom we trust, what we show, and how the server is called.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{SignatureScheme, SupportedProtocolVersion};
use tokio_postgres::config::Host;

use super::super::settings::{Endpoint, Mode, OwnCertificate, Roots, Tls};
use super::super::wire::Verified;
use super::certificate::Certificate;
use super::files;
use super::verifier::{Trust, Verifier};
use crate::error::OutboxError;

/// How the Postgres protocol is called inside of TLS (PostgreSQL documentation, "SSL Session Encryption").
pub(super) const PROTOCOL: &[u8] = b"postgresql";

/// All that one handshake needs.
pub(super) struct Client {
    pub(super) config: ClientConfig,
    pub(super) name: ServerName<'static>,
    /// What is known of a server with which the handshake goes well.
    pub(super) verified: Verified,
    pub(super) own: Arc<Own>,
}

impl Client {
    /// Reads the files.
    pub(super) fn prepare(endpoint: &Endpoint) -> Result<Client, OutboxError> {
        let tls = &endpoint.tls;
        let provider = Arc::new(ring::default_provider());
        let host = match endpoint.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            _ => String::new(),
        };
        let trust = trust(tls, &host)?;
        let verified = match &trust {
            None => Verified::Nothing,
            Some(trust) if trust.host.is_some() => Verified::Name,
            Some(_) => Verified::Authority,
        };
        let own = Arc::new(Own { key: own_key(tls, &provider)?, ..Own::default() });
        let verifier = Verifier { algorithms: provider.signature_verification_algorithms, trust };
        let versions: &[&SupportedProtocolVersion] = match (tls.only_new, tls.only_old) {
            (true, _) => &[&TLS13],
            (_, true) => &[&TLS12],
            _ => &[&TLS13, &TLS12],
        };
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let mut config = builder
            .map_err(|error| OutboxError::connection("TLS can't be set up", error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Each connection reads its files anew, and trusts no earlier one.
        config.resumption = Resumption::disabled();
        // A name that can't stand in a greeting stays out of it: it is compared by us, and not by rustls.
        let address = endpoint.config.get_hostaddrs().first().copied();
        let name = match (ServerName::try_from(host), address) {
            (Ok(name), _) => name,
            (Err(_), Some(address)) => address.into(),
            (Err(_), None) => std::net::IpAddr::from([127, 0, 0, 1]).into(),
        };
        config.enable_sni = tls.tells_name;
        Ok(Client { config, name, verified, own })
    }
}

/// Whom we trust. As libpq: if there is a file of authorities, it is used whatever the mode is.
fn trust(tls: &Tls, host: &str) -> Result<Option<Trust>, OutboxError> {
    let (source, certificates) = match &tls.roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let what = "the operating system names no authority that it trusts (sslrootcert=system)";
                return Err(OutboxError::transient(what).with_advice(
                    "install the package ca-certificates, or name a file with sslrootcert or SSL_CERT_FILE",
                ));
            }
            ("the operating system".to_owned(), found.certs)
        }
        Roots::File(place) => match files::certificates("sslrootcert", place)? {
            Some(certificates) => (place.path.display().to_string(), certificates),
            None if tls.mode >= Mode::VerifyCa => return Err(no_roots(Some(&place.path))),
            None => return Ok(None),
        },
        Roots::Nowhere if tls.mode >= Mode::VerifyCa => return Err(no_roots(None)),
        Roots::Nowhere => return Ok(None),
    };
    let mut revoked = match &tls.revoked {
        Some(place) => files::revoked(place)?,
        None => Vec::new(),
    };
    if let Some(folder) = &tls.revoked_folder {
        revoked.extend(files::revoked_in(folder)?);
    }
    let host = (tls.mode == Mode::VerifyFull).then(|| host.to_owned());
    Trust::new(source, certificates, revoked, host, tls.roots == Roots::System).map(Some)
}

fn no_roots(looked_at: Option<&PathBuf>) -> OutboxError {
    let at = looked_at.map(|path| format!(", {}", path.display())).unwrap_or_default();
    OutboxError::transient(format!("there is no file of authorities to verify the server by{at}")).with_advice(
        "name it with sslrootcert=FILE, or sslrootcert=system for those that the operating system trusts; \
         sslmode=require encrypts without verifying",
    )
}

/// Our own certificate and its key, if there are any.
fn own_key(tls: &Tls, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>, OutboxError> {
    let places = tls.certificate.as_ref().zip(tls.key.as_ref());
    let Some((certificate, key)) = places.filter(|_| tls.own_certificate != OwnCertificate::Never) else {
        return Ok(None);
    };
    let Some(chain) = files::certificates("sslcert", certificate)? else { return Ok(None) };
    let failed = |why: String| {
        let what = format!("the key of sslkey, {}, can't be used", key.path.display());
        OutboxError::connection(what, why).with_advice(
            "it must be the key of sslcert's first certificate: RSA, ECDSA (P-256, P-384) or Ed25519",
        )
    };
    let private = provider.key_provider.load_private_key(files::key(key)?);
    let private = private.map_err(|error| failed(error.to_string()))?;
    let of_certificate = chain.first().and_then(|first: &CertificateDer<'_>| Certificate::read(first));
    let is_pair = private.public_key().zip(of_certificate).is_none_or(|(key, of)| key.as_ref() == of.key);
    if !is_pair {
        return Err(failed(format!("it is not the key of {}", certificate.path.display())));
    }
    Ok(Some(Arc::new(CertifiedKey::new(chain, private))))
}

/// Our own certificate, shown to a server that asks.
#[derive(Debug, Default)]
pub(super) struct Own {
    key: Option<Arc<CertifiedKey>>,
    was_asked: AtomicBool,
}

impl Own {
    pub(super) fn was_asked(&self) -> bool {
        self.was_asked.load(Relaxed)
    }

    pub(super) fn was_shown(&self) -> bool {
        self.was_asked() && self.key.is_some()
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // Or it would not hear of the question.
        true
    }
}
