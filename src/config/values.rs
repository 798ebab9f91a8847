//! Single values: how each is written and what it must be.

use std::time::Duration;

/// The longest identifier of Postgres, in bytes; the server would cut a longer one off in silence.
const NAME_MAX: usize = 63;

/// Whether the server takes this as the name of a slot (PostgreSQL documentation, "Replication Slots").
pub(super) fn is_slot(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Whether the server takes this, quoted, as the name of a publication.
pub(super) fn is_publication(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// A span of time: a whole number and its unit, `ms`, `s`, `m` or `h`.
///
/// # Errors
/// It is written in another way; the text says how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let milliseconds = match &text[split..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = text[..split].parse::<u64>().ok();
    number
        .zip(milliseconds)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a whole number and its unit, such as 500ms, 25s or 2m".to_owned())
}

/// A factor by which something grows: a decimal number that is at least 1.
pub(super) fn multiplier(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse::<f64>().ok().filter(|number| plain && number.is_finite() && *number >= 1.0)
}

/// Whether this can be an address to listen on: host, colon, port.
pub(super) fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_publications_are_what_the_server_takes() {
        let long = "a".repeat(63);
        for (text, slot, publication) in [
            ("walpost", true, true),
            ("walpost_2", true, true),
            ("1", true, true),
            (long.as_str(), true, true),
            ("Walpost", false, true),
            ("wal-post", false, true),
            ("wal post", false, true),
            ("a\0b", false, false),
            ("", false, false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false, false),
        ] {
            assert_eq!((is_slot(text), is_publication(text)), (slot, publication), "{text:?}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("25s", 25_000), ("2m", 120_000), ("1h", 3_600_000), (" 3s ", 3_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "5", "s", "-5s", "1.5s", "5 s", "5d", "5S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn multipliers_are_at_least_one() {
        for (text, expected) in [("1", Some(1.0)), ("2", Some(2.0)), ("1.5", Some(1.5)), ("1.0", Some(1.0))] {
            assert_eq!(multiplier(text), expected, "{text}");
        }
        for text in ["", "0.99", "-2", "inf", "NaN", "1e400", "2x", "1,5", " 2", "."] {
            assert_eq!(multiplier(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:8480", true),
            ("localhost:0", true),
            ("[::1]:8480", true),
            ("8480", false),
            (":8480", false),
            ("::1:8480", false),
            ("localhost:http", false),
            ("localhost:65536", false),
            ("", false),
        ] {
            assert_eq!(is_address(text), expected, "{text}");
        }
    }
}
