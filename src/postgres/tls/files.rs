//! The files of certificates and keys.
//!
//! A file that is missing or half written may be about to be replaced, so each error here passes by itself, and names the
//! file.

use std::fs;
use std::io;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::super::settings::Place;
use crate::error::OutboxError;

/// The bytes of a file; none if it is only looked for where libpq looks, and not there.
fn read(setting: &str, place: &Place) -> Result<Option<Vec<u8>>, OutboxError> {
    match fs::read(&place.path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if !place.is_named && is_missing(&error) => Ok(None),
        Err(error) => Err(unusable(setting, &place.path, error)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unusable(
    setting: &str,
    path: &Path,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OutboxError {
    OutboxError::connection(format!("the file of {setting}, {}, can't be used", path.display()), why)
        .with_advice(format!("look at the file, or name another one with {setting}"))
}

/// The certificates in a file; none if it is not there and need not be.
pub(super) fn certificates(
    setting: &str,
    place: &Place,
) -> Result<Option<Vec<CertificateDer<'static>>>, OutboxError> {
    let Some(bytes) = read(setting, place)? else { return Ok(None) };
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| unusable(setting, &place.path, error))?;
    if certificates.is_empty() {
        return Err(unusable(
            setting,
            &place.path,
            "it holds no certificate (in PEM: -----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(Some(certificates))
}

/// The lists of revoked certificates in a file; none if it is not there and need not be.
pub(super) fn revoked(place: &Place) -> Result<Vec<CertRevocationList<'static>>, OutboxError> {
    let Some(bytes) = read("sslcrl", place)? else { return Ok(Vec::new()) };
    let lists = lists("sslcrl", &place.path, &bytes)?;
    if lists.is_empty() {
        return Err(unusable("sslcrl", &place.path, "it holds no list (in PEM: -----BEGIN X509 CRL-----)"));
    }
    Ok(lists)
}

/// The same of every file in a folder.
pub(super) fn revoked_in(folder: &Path) -> Result<Vec<CertRevocationList<'static>>, OutboxError> {
    let failed = |error: io::Error| unusable("sslcrldir", folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|error| unusable("sslcrldir", &path, error))?;
            found.extend(lists("sslcrldir", &path, &bytes)?);
        }
    }
    if found.is_empty() {
        return Err(unusable("sslcrldir", folder, "no file in it holds a list (in PEM)"));
    }
    Ok(found)
}

fn lists(setting: &str, path: &Path, bytes: &[u8]) -> Result<Vec<CertRevocationList<'static>>, OutboxError> {
    let list = |list: Result<CertificateRevocationListDer<'_>, rustls::pki_types::pem::Error>| {
        let list = list.map_err(|error| unusable(setting, path, error))?;
        match OwnedCertRevocationList::from_der(&list) {
            Ok(list) => Ok(list.into()),
            Err(webpki::Error::UnsupportedCrlVersion) => {
                let why = "the list is of version 1, and must be of version 2 (in openssl.cnf: crl_extensions, crlnumber)";
                Err(unusable(setting, path, why))
            }
            Err(error) => Err(unusable(setting, path, error)),
        }
    };
    CertificateRevocationListDer::pem_slice_iter(bytes).map(list).collect()
}

/// The key that belongs to our certificate.
pub(super) fn key(place: &Place) -> Result<PrivateKeyDer<'static>, OutboxError> {
    const SETTING: &str = "sslkey";
    let path = &place.path;
    let failed = |error: io::Error| unusable(SETTING, path, error);
    let metadata = match fs::metadata(path) {
        Err(error) if is_missing(&error) => {
            return Err(unusable(SETTING, path, "there is a certificate (sslcert), and no key to it"));
        }
        metadata => metadata.map_err(failed)?,
    };
    if !metadata.is_file() {
        return Err(unusable(SETTING, path, "it is not a plain file"));
    }
    refuse_readers(path, &metadata)?;
    let bytes = fs::read(path).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    if !text.contains("-----BEGIN") {
        return PrivateKeyDer::try_from(bytes).map_err(|why| unusable(SETTING, path, why));
    }
    if text.contains("ENCRYPTED") {
        return Err(unusable(SETTING, path, "the key is encrypted, which is not supported").with_advice(format!(
            "write it down unencrypted, in a file that only this user can read: openssl pkey -in {} -out client.key",
            path.display()
        )));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => unusable(
            SETTING,
            path,
            "it holds no private key of a form that is known (PKCS#8, PKCS#1 or SEC1)",
        ),
        error => unusable(SETTING, path, error),
    })
}

/// A key that others could read is not used: libpq's rule.
fn refuse_readers(path: &Path, metadata: &fs::Metadata) -> Result<(), OutboxError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let open_to = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if metadata.mode() & open_to != 0 {
            let why = "group or others have access to the key";
            return Err(unusable("sslkey", path, why).with_advice(format!(
                "chmod 0600 {}; a key that belongs to root may be 0640",
                path.display()
            )));
        }
    }
    Ok(())
}
