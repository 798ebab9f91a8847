use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

/// Version 3, signed by ECDSA and SHA-384, with two common names and a list of others.
const NAMED: &[u8] = b"-----BEGIN CERTIFICATE-----
MIICETCCAbagAwIBAgIUGx1q3rqhJZraDVPS8jaaKbT0jHEwCgYIKoZIzj0EAwMw
OjENMAsGA1UECgwEVGVzdDETMBEGA1UEAwwKZmlyc3QudGVzdDEUMBIGA1UEAwwL
c2Vjb25kLnRlc3QwIBcNMjYxMTI5MTQwMjE0WhgPMjEyNjExMDUxNDAyMTRaMDox
DTALBgNVBAoMBFRlc3QxEzARBgNVBAMMCmZpcnN0LnRlc3QxFDASBgNVBAMMC3Nl
Y29uZC50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8pc9FzvRQlbCplpr
ejgUjIRfhgzgHiizhebvfDPWTTLPu7bc3cvj0GdG6Np9/Yt7YI/FSXNyf0BlcLII
uLn87KOBlzCBlDAdBgNVHQ4EFgQUWYDlTx1Dp5pH7Icn2mEyekXo4qswHwYDVR0j
BBgwFoAUWYDlTx1Dp5pH7Icn2mEyekXo4qswDwYDVR0TAQH/BAUwAwEB/zBBBgNV
HREEOjA4ggdkYi50ZXN0ggsqLnNob3AudGVzdIcECgAAAYcQAAAAAAAAAAAAAAAA
AAAAAYEIYUBiLnRlc3QwCgYIKoZIzj0EAwMDSQAwRgIhALGtsHe5JgE/DBf/ojQm
jFja//vy2g79uVsAh0GYfX72AiEAyyaLDWlL+zTq75j3txezcDqjIYqlDOXrC+52
3fvN4rw=
-----END CERTIFICATE-----";
/// Version 1.
const OLD: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIBSTCB8AIUW2pzb/Zp+KkLG1n6hO2GwbZ5fgswCgYIKoZIzj0EAwIwOjENMAsG
A1UECgwEVGVzdDETMBEGA1UEAwwKZmlyc3QudGVzdDEUMBIGA1UEAwwLc2Vjb25k
LnRlc3QwIBcNMjYxMTI5MTQwMjE0WhgPMjEyNjExMDUxNDAyMTRaMBMxETAPBgNV
BAMMCG9sZC50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEbBFEm4Z2m9+n
1cHFYU46VUcdbZfIIAXtrVP3yy9+3Kck07e0uWijwNcNrwnSVWoKMdSh0TJNrncL
SjkdNyAgQDAKBggqhkjOPQQDAgNIADBFAiAB7+5mtzUDcxJkT+y5NxjQz+/tfVGF
p+hYnTy9a9EYpQIhAOjMGr6YrOZ2rqbm3+RDQd/esR5P3HnIKpjGrwVq/7TK
-----END CERTIFICATE-----";
/// RSASSA-PSS and SHA-512.
const PSS: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIDaTCCAhygAwIBAgIUEywOUi3YE9w2FXNezjaYY8vw5R8wQgYJKoZIhvcNAQEK
MDWgDzANBglghkgBZQMEAgMFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgMF
AKIEAgIAvjAOMQwwCgYDVQQDDANwc3MwIBcNMjYxMTI5MTQwMjE0WhgPMjA1NDA0
MTYxNDAyMTRaMA4xDDAKBgNVBAMMA3BzczCCASIwDQYJKoZIhvcNAQEBBQADggEP
ADCCAQoCggEBANX+kc3oFF5wrOlnLjSnFz028s16JG6fQw1bpcKgW/vUYw1mNRYs
nZ/T/AXBzEmokMOjNq0HyOSduag8QRWlRUokgJJZ045/nCmMVymt5Xt6SSJ25Rxy
oq+7ZCxc9JtWyCF3jhE5GfbrCovVwlia7DaGJzGF41UDSuIU3YVse/IF9T5NHKuq
iF6roMvDDnpXIYO3N+KBfY+AIHgBtCaCBfnoSbrwb6C7ix+7u/rcBIOb5NlGW56I
V10fLlrRQgfoqUYxiQ8TJJc/PaCunZfWTeQYnP5nIzz+loEYKl7plzDjd5GR6Hyx
T1fFk2xRy2HZAeFNqLN5F2ihT/8QtrGPT68CAwEAAaNTMFEwHQYDVR0OBBYEFBaS
oONnANn+iyMOD/j0YfzEV6UmMB8GA1UdIwQYMBaAFBaSoONnANn+iyMOD/j0YfzE
V6UmMA8GA1UdEwEB/wQFMAMBAf8wQgYJKoZIhvcNAQEKMDWgDzANBglghkgBZQME
AgMFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgMFAKIEAgIAvgOCAQEADCaU
+mrUu4JKcBQG3zADFG0tjouMr5NI4GS4NJJNMG/46WEClomD3ad7CevqiJns1Qcr
Bj999fvcf3CFP31a6XbMV62QLL0PT8WPBpsfjQzTWiuZotPnZHDHxFEUOtLoLMZx
20PEJOByWc2sZIoRm6g5DiJ7Ob8GkPCE/fVWmN3P8DIRftz0AkPNESstQ5oN0COa
V2LoGM2Gixw8jkSdNAiO3OVts1PmD3Gmr0QqmWoggRXj3Otd7IxHpQWMiy7NR+Xd
vJxwTicKUhhKYVfFi2Xrpr7qzDJ4zJ4qWc1u0Evn/D/LBG7t6BG9qFuvlbDgrrBR
+CLqCdkLrGIdYGHQeg==
-----END CERTIFICATE-----";
const ED25519: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIBMDCB46ADAgECAhQwHLuQ5CRHPTINSRC8RE5nwGnswzAFBgMrZXAwDTELMAkG
A1UEAwwCZWQwIBcNMjYxMTI5MTQwMjE0WhgPMjEyNjExMDUxNDAyMTRaMA0xCzAJ
BgNVBAMMAmVkMCowBQYDK2VwAyEAAxU735645RTsWE2MZph5YgfPsOWOrelqYpjk
5yxN3zKjUzBRMB0GA1UdDgQWBBRzOHJIIFoct0LTShjFpu6ytt5PGDAfBgNVHSME
GDAWgBRzOHJIIFoct0LTShjFpu6ytt5PGDAPBgNVHRMBAf8EBTADAQH/MAUGAytl
cANBANppZw/h78hwxzUl/hopyd0xVxIUWZgg95jOpyPN7XoVJ+fvE7z6spx7XWPP
RzLKPBUVDCIPz5wRl0k8+QjqbgU=
-----END CERTIFICATE-----";

fn der(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

#[test]
fn a_certificate_is_taken_apart() {
    let bytes = der(NAMED);
    let certificate = Certificate::read(&bytes).unwrap();
    assert!(!certificate.is_first_version);
    assert_eq!(certificate.common_name.as_deref(), Some("first.test"));
    let dns = |name: &str| Name::Dns(name.to_owned());
    let address = |text: &str| Name::Address(text.parse().unwrap());
    assert_eq!(certificate.names, [dns("db.test"), dns("*.shop.test"), address("10.0.0.1"), address("::1")]);
    assert_eq!(certificate.validity, ("20261129140214".to_owned(), "21261105140214".to_owned()));
    assert!(certificate.extension(NAME_CONSTRAINTS).is_none());

    let bytes = der(OLD);
    let old = Certificate::read(&bytes).unwrap();
    assert!(old.is_first_version && old.names.is_empty());
    assert_eq!(old.common_name.as_deref(), Some("old.test"));
}

#[test]
fn what_is_cut_or_longer_is_no_certificate() {
    for pem in [NAMED, OLD, PSS, ED25519] {
        let bytes = der(pem);
        for length in 0..bytes.len() {
            assert!(Certificate::read(&bytes[..length]).is_none(), "{length}");
        }
        assert!(Certificate::read(&[&bytes[..], &[0]].concat()).is_none());
        // Whatever a byte is, it is no reason to panic.
        for at in 0..bytes.len() {
            let mut other = bytes.to_vec();
            other[at] ^= 0xff;
            let _ = (Certificate::read(&other), end_point(&other));
        }
    }
}

#[test]
fn a_login_is_bound_to_the_hash_that_signs() {
    // As `openssl x509 -fingerprint` says.
    for (pem, expected) in [
        (
            NAMED,
            Some(
                "c6e3a88b18a60b4bf9c8c55fe851e70521ffddc3216ac7e1693aaf04edab8be3\
                 0db1dd0233a865feeaa04a792821fd3d",
            ),
        ),
        (OLD, Some("f0a63d892b3c8c5e10cef1aa32ceb68f7c087eb2b558d6cdc1d59bd65395c86a")),
        (
            PSS,
            Some(
                "4a6567182ecdbf9608174c95ca7d0cc5b4aaf721a69981500b0a7442fbde8a1c\
                 b7948e9b77ca7b5ed0bff084e7f5a63a6c4782426379b60cd45ebdbe7b402193",
            ),
        ),
        (ED25519, None),
    ] {
        let hash = end_point(&der(pem));
        let hash = hash.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        assert_eq!(hash.as_deref(), expected);
    }
}

#[test]
fn the_common_name_counts_where_no_other_does() {
    use super::super::names::is_of;
    let (named, old) = (der(NAMED), der(OLD));
    let (named, old) = (Certificate::read(&named).unwrap(), Certificate::read(&old).unwrap());
    for (host, of_named, of_old) in [
        ("db.test", true, false),
        ("a.shop.test", true, false),
        ("10.0.0.1", true, false),
        ("::1", true, false),
        ("first.test", false, false),
        ("old.test", false, true),
        ("", false, false),
    ] {
        assert_eq!((is_of(&named, host, false), is_of(&old, host, false)), (of_named, of_old), "{host}");
    }
    assert!(!is_of(&old, "old.test", true), "who may sign for some names only may not do so here");
}

/// A name that can't be read is a name all the same: the common name does not count in its place.
#[test]
fn an_odd_name_keeps_the_common_name_from_counting() {
    use super::super::names::is_of;
    let bytes = der(NAMED);
    let at = bytes.windows(9).position(|part| part == b"\x82\x07db.test").unwrap();
    let mut odd = bytes.to_vec();
    odd[at + 2] = 0xff;
    let certificate = Certificate::read(&odd).unwrap();
    assert!(matches!(&certificate.names[0], Name::Dns(name) if name.ends_with("b.test")));
    assert!(!is_of(&certificate, "first.test", false) && !is_of(&certificate, "db.test", false));
    // Nor is a certificate believed that has an address of seven bytes.
    odd[at] = 0x87;
    assert!(Certificate::read(&odd).is_none());
}

#[test]
fn a_certificate_has_its_time() {
    let bytes = der(NAMED);
    let certificate = Certificate::read(&bytes).unwrap();
    for (now, expected) in [
        ("20261129140213", false),
        ("20261129140214", true),
        ("20300101000000", true),
        ("21261105140214", true),
        ("21261105140215", false),
    ] {
        assert_eq!(certificate.is_valid_at(now), expected, "{now}");
    }
}
