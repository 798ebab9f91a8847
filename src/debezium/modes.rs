//! How the connector writes numbers, times and bytes.

use super::datum::{Datum, base64};

/// `decimal.handling.mode`, `time.precision.mode`, `binary.handling.mode` and `event.converting.failure.handling.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) decimals: Decimals,
    pub(super) precision: Precision,
    pub(super) binary: Binary,
    pub(super) failures: Failures,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Decimals {
    #[default]
    Precise,
    Double,
    Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Precision {
    #[default]
    Adaptive,
    AdaptiveTimeMicroseconds,
    Connect,
    IsoString,
    Microseconds,
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Binary {
    #[default]
    Bytes,
    Base64,
    Base64UrlSafe,
    Hex,
}

/// What becomes of a value for which the connector has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Failures {
    /// The event goes without it.
    #[default]
    PassedOver,
    Stop,
}

impl Binary {
    pub(super) fn datum(self, bytes: Vec<u8>) -> Datum {
        match self {
            Binary::Bytes => Datum::Bytes(bytes),
            Binary::Base64 => Datum::Text(base64(&bytes)),
            Binary::Base64UrlSafe => Datum::Text(base64(&bytes).replace('+', "-").replace('/', "_")),
            Binary::Hex => Datum::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}
