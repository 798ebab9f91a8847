//! Whether a server's certificate is to be believed.
//!
//! Chains are webpki's work. It does not take two kinds of certificate that libpq takes: one of version 1, and one that is
//! an authority's and a server's at once, as `openssl req -x509` makes it. Such a one is believed only if an authority
//! that we trust has signed it itself, and in the second case only if it is that authority.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RawPublicKeyEntity,
    RevocationOptionsBuilder,
};

use super::certificate::{Certificate, NAME_CONSTRAINTS};
use super::fault::Distrust;
use super::names;
use crate::error::OutboxError;

/// Looks at the certificate, and in any case at whether the server has its key: a login that is bound to a certificate
/// rests on it.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Nobody, where it is not asked for.
    pub(super) trust: Option<Trust>,
}

/// Whom we trust.
pub(super) struct Trust {
    /// Where they are named.
    source: String,
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    /// Which server it has to be.
    pub(super) host: Option<String>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("source", &self.source)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Those of a list whose time it is: as OpenSSL, and other than webpki, no authority outlives its own certificate. Of a
    /// system's some may be too odd to be read, and `may_be_odd`.
    pub(super) fn new(
        source: String,
        certificates: Vec<CertificateDer<'static>>,
        revoked: Vec<CertRevocationList<'static>>,
        host: Option<String>,
        may_be_odd: bool,
    ) -> Result<Trust, OutboxError> {
        let mut anchors = Vec::with_capacity(certificates.len());
        let (now, mut source) = (digits(UnixTime::now()).unwrap_or_default(), source);
        let is_over = |certificate: &&CertificateDer<'_>| {
            Certificate::read(certificate).is_some_and(|read| !read.is_valid_at(&now))
        };
        if !may_be_odd && certificates.iter().any(|certificate| is_over(&certificate)) {
            source.push_str(" (without those whose time is over)");
        }
        for certificate in certificates.iter().filter(|certificate| !is_over(certificate)) {
            match webpki::anchor_from_trusted_cert(certificate) {
                Ok(anchor) => anchors.push(anchor.to_owned()),
                Err(_) if may_be_odd => {}
                Err(error) => {
                    let what = format!("a certificate in {source} (sslrootcert) can't be read");
                    return Err(OutboxError::connection(what, error).with_advice("look at the file"));
                }
            }
        }
        Ok(Trust { source, certificates, anchors, revoked, host })
    }

    fn verify(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        der: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let certificate = Certificate::read(der).ok_or(Distrust::Unreadable)?;
        let is_constrained = match self.verify_chain(algorithms, der, between, now) {
            Ok(is_constrained) => is_constrained,
            Err(webpki::Error::UnsupportedCertVersion) if certificate.is_first_version => {
                self.verify_one(algorithms, &certificate, now)?;
                false
            }
            Err(webpki::Error::CaUsedAsEndEntity) if self.certificates.iter().any(|known| known == der) => {
                self.verify_one(algorithms, &certificate, now)?;
                false
            }
            Err(error) => return Err(Distrust::of(error, &self.source)),
        };
        match &self.host {
            Some(host) if !names::is_of(&certificate, host, is_constrained) => {
                Err(Distrust::Name { wanted: host.clone(), names: names::listed(&certificate) })
            }
            _ => Ok(()),
        }
    }

    /// The whole chain; tells whether somebody in it may sign for some names only.
    fn verify_chain(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        der: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<bool, webpki::Error> {
        let certificate = EndEntityCert::try_from(der)?;
        let revoked: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // As OpenSSL: once there is a list, there has to be one for each link, and none that is past its time.
        let revocation = RevocationOptionsBuilder::new(&revoked).ok();
        let revocation =
            revocation.map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let usage = KeyUsage::server_auth();
        let path = certificate.verify_for_usage(
            algorithms.all,
            &self.anchors,
            between,
            now,
            usage,
            revocation,
            None,
        )?;
        let is_constrained =
            |der: &[u8]| Certificate::read(der).is_none_or(|link| link.extension(NAME_CONSTRAINTS).is_some());
        Ok(path.anchor().name_constraints.is_some()
            || path.intermediate_certificates().any(|link| is_constrained(&link.der())))
    }

    /// A certificate that an authority has signed itself.
    fn verify_one(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        certificate: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        if !self.revoked.is_empty() {
            return Err(Distrust::NotForLists);
        }
        let now = digits(now).ok_or(Distrust::Unreadable)?;
        if !certificate.is_valid_at(&now) {
            let (from, until) = &certificate.validity;
            return Err(Distrust::OutOfTime { from: from.clone(), until: until.clone() });
        }
        // What limits an authority to some names is webpki's to check, and here it does not.
        let issuers = self.anchors.iter().filter(|anchor| {
            anchor.subject.as_ref() == certificate.issuer && anchor.name_constraints.is_none()
        });
        let is_signed = issuers.map(webpki::spki_for_anchor).any(|key| {
            let ways = algorithms.all.iter();
            ways.filter(|way| way.signature_alg_id().as_ref() == certificate.algorithm).any(|way| {
                RawPublicKeyEntity::try_from(&key).is_ok_and(|key| {
                    key.verify_signature(*way, certificate.signed, certificate.signature).is_ok()
                })
            })
        });
        if is_signed { Ok(()) } else { Err(Distrust::UnknownIssuer(self.source.clone())) }
    }
}

/// A moment as the digits of a certificate's times.
pub(super) fn digits(moment: UnixTime) -> Option<String> {
    let seconds = i64::try_from(moment.as_secs()).ok()?;
    let text = jiff::Timestamp::from_second(seconds).ok()?.to_string();
    Some(text.chars().filter(char::is_ascii_digit).collect())
}

/// The public key of a certificate, of whatever version it is.
fn key(der: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let certificate = Certificate::read(der).ok_or(CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(certificate.key.to_vec()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trust) = &self.trust {
            let result = trust.verify(&self.algorithms, end_entity, intermediates, now);
            result.map_err(|why| CertificateError::Other(OtherError(Arc::new(why))))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = key(cert)?;
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let ways = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
        let (_, ways) = ways.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        // In TLS 1.2 a scheme leaves open on which curve it is.
        if ways.iter().any(|way| key.verify_signature(*way, message, dss.signature()).is_ok()) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &key(cert)?, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
