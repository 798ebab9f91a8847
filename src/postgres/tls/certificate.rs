//! What we read of a certificate ourselves, in DER (RFC 5280, section 4.1; X.690): the name that libpq falls back to, and
//! what webpki does not take, which is version 1, as `openssl x509 -req` has made them for decades.

use std::net::IpAddr;

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
pub(super) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];

/// A certificate, taken apart and not yet believed.
pub(super) struct Certificate<'a> {
    /// What is signed, and its signature.
    pub(super) signed: &'a [u8],
    pub(super) signature: &'a [u8],
    /// How, the inside of an `AlgorithmIdentifier`.
    pub(super) algorithm: &'a [u8],
    pub(super) is_first_version: bool,
    /// The inside of the issuer's name.
    pub(super) issuer: &'a [u8],
    /// From when until when it is valid, as digits from the year to the second.
    pub(super) validity: (String, String),
    /// The `SubjectPublicKeyInfo`, whole.
    pub(super) key: &'a [u8],
    pub(super) common_name: Option<String>,
    pub(super) names: Vec<Name>,
    extensions: Vec<&'a [u8]>,
}

/// A name in the list of a certificate's alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Dns(String),
    Address(IpAddr),
}

/// An address of a length that no address has.
struct Odd;

/// One element: its tag, its inside, and all of it.
type Element<'a> = (u8, &'a [u8], &'a [u8]);

/// Cuts the next element off.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Element<'a>> {
    let all = *rest;
    let (&tag, after) = all.split_first()?;
    let (&first, mut after) = after.split_first()?;
    let mut length = usize::from(first & 0x7f);
    if first & 0x80 != 0 {
        let (digits, behind) = after.split_at_checked(length).filter(|_| (1..=3).contains(&length))?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        after = behind;
    }
    let (inside, behind) = after.split_at_checked(length)?;
    *rest = behind;
    Some((tag, inside, &all[..all.len() - behind.len()]))
}

/// Cuts the next element off, which must have this tag.
fn expect<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    next(rest).filter(|(tag, ..)| *tag == wanted).map(|(_, inside, _)| inside)
}

/// All elements in a row; none if there is something else among them.
fn elements(mut rest: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        found.push(next(&mut rest)?);
    }
    Some(found)
}

impl<'a> Certificate<'a> {
    /// Takes a certificate apart; none if it is not made as it should be.
    pub(super) fn read(mut der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outside = expect(&mut der, SEQUENCE).filter(|_| der.is_empty())?;
        let (_, mut inside, signed) = next(&mut outside).filter(|(tag, ..)| *tag == SEQUENCE)?;
        let algorithm = expect(&mut outside, SEQUENCE)?;
        let signature = expect(&mut outside, BIT_STRING)?.strip_prefix(&[0])?;
        let is_first_version = inside.first() != Some(&VERSION);
        if !is_first_version {
            next(&mut inside)?;
        }
        let _serial = next(&mut inside)?;
        // Both say how it is signed, and only this one is signed.
        expect(&mut inside, SEQUENCE).filter(|inner| *inner == algorithm)?;
        let issuer = expect(&mut inside, SEQUENCE)?;
        let mut validity = expect(&mut inside, SEQUENCE)?;
        let validity = (time(next(&mut validity)?)?, time(next(&mut validity)?)?);
        let subject = expect(&mut inside, SEQUENCE)?;
        let (_, _, key) = next(&mut inside).filter(|(tag, ..)| *tag == SEQUENCE)?;
        let mut extensions = Vec::new();
        for (tag, inside, _) in elements(inside)? {
            if tag == EXTENSIONS {
                let list = expect(&mut { inside }, SEQUENCE)?;
                extensions = elements(list)?.into_iter().map(|(_, extension, _)| extension).collect();
            }
        }
        let mut certificate = Certificate {
            signed,
            signature,
            algorithm,
            is_first_version,
            issuer,
            validity,
            key,
            common_name: common_name(subject),
            names: Vec::new(),
            extensions,
        };
        certificate.names = certificate.alternative_names()?;
        Some(certificate)
    }

    /// Whether it is valid at a moment, given as digits.
    pub(super) fn is_valid_at(&self, now: &str) -> bool {
        let (from, until) = &self.validity;
        (from.as_str()..=until.as_str()).contains(&now)
    }

    /// The value of an extension, if it has it.
    pub(super) fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        self.extensions.iter().find_map(|&extension| {
            let mut extension = extension;
            expect(&mut extension, OBJECT).filter(|found| *found == id)?;
            // Between them may stand whether it is critical.
            elements(extension)?.last().map(|(_, value, _)| *value)
        })
    }

    fn alternative_names(&self) -> Option<Vec<Name>> {
        let Some(mut value) = self.extension(ALTERNATIVE_NAMES) else { return Some(Vec::new()) };
        let names = elements(expect(&mut value, SEQUENCE)?)?;
        names
            .into_iter()
            .filter_map(|(tag, name, _)| Name::read(tag, name).transpose())
            .collect::<Result<_, _>>()
            .ok()
    }
}

impl Name {
    /// None of another kind. One that can't be read still is of its kind: it matches no host, and keeps the common name
    /// from counting instead.
    fn read(tag: u8, name: &[u8]) -> Result<Option<Name>, Odd> {
        let address = |address: IpAddr| Ok(Some(Name::Address(address)));
        match (tag, name.len()) {
            (0x82, _) => Ok(Some(Name::Dns(String::from_utf8_lossy(name).into_owned()))),
            (0x87, 4) => <[u8; 4]>::try_from(name).map_err(|_| Odd).and_then(|four| address(four.into())),
            (0x87, 16) => {
                <[u8; 16]>::try_from(name).map_err(|_| Odd).and_then(|sixteen| address(sixteen.into()))
            }
            // As libpq: nothing is believed of such a certificate.
            (0x87, _) => Err(Odd),
            _ => Ok(None),
        }
    }
}

/// The first common name of a subject.
fn common_name(subject: &[u8]) -> Option<String> {
    let parts = elements(subject)?.into_iter().filter(|(tag, ..)| *tag == SET);
    let mut attributes = parts.filter_map(|(_, set, _)| elements(set)).flatten();
    attributes.find_map(|(_, mut attribute, _)| {
        expect(&mut attribute, OBJECT).filter(|id| *id == COMMON_NAME)?;
        let (_, text, _) = next(&mut attribute)?;
        String::from_utf8(text.to_vec()).ok()
    })
}

/// A time as digits from the year to the second. Two digits of a year are one from 1950 on (RFC 5280, section 4.1.2.5.1).
fn time((tag, text, _): Element<'_>) -> Option<String> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let century = match tag {
        UTC_TIME if digits < "50" => "20",
        UTC_TIME => "19",
        GENERALIZED_TIME => "",
        _ => return None,
    };
    let whole = format!("{century}{digits}");
    (whole.len() == 14 && whole.bytes().all(|byte| byte.is_ascii_digit())).then_some(whole)
}

/// The hash of a certificate to which a login is bound: by the hash that it is signed with, and SHA-256 for those that are
/// weaker (RFC 5929, section 4.1). None where the signature has no hash of its own.
pub(super) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let mut algorithm = Certificate::read(der)?.algorithm;
    let id = expect(&mut algorithm, OBJECT)?;
    let bits = match (id.strip_prefix(RSA), id.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => 256,
        (Some([12]), _) | (_, Some([3, 3])) => 384,
        (Some([13]), _) | (_, Some([3, 4])) => 512,
        // RSASSA-PSS names its hash among its parameters, and means SHA-1 if it doesn't.
        (Some([10]), _) => {
            let mut parameters = expect(&mut algorithm, SEQUENCE)?;
            match expect(&mut parameters, 0xa0) {
                None => 256,
                Some(mut hash) => {
                    match expect(&mut expect(&mut hash, SEQUENCE)?, OBJECT)?.strip_prefix(SHA_2)? {
                        [1] => 256,
                        [2] => 384,
                        [3] => 512,
                        _ => return None,
                    }
                }
            }
        }
        _ => return None,
    };
    Some(match bits {
        256 => Sha256::digest(der).to_vec(),
        384 => Sha384::digest(der).to_vec(),
        _ => Sha512::digest(der).to_vec(),
    })
}

#[cfg(test)]
mod tests;
