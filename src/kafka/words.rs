//! What librdkafka says, without what would mislead.

use std::borrow::Cow;

/// Guesses of librdkafka at a broker from before 2016, whatever was the matter. Those could not take idempotent records; and
/// one that is frozen or overloaded is silent in the same way.
///
/// Source: librdkafka 2.12, `rd_kafka_broker_handle_ApiVersion` and `rd_kafka_broker_set_error` in `rdkafka_broker.c`
const GUESSES: [&str; 3] = [
    ": probably due to broker version < 0.10 (see api.version.request configuration)",
    ": might be caused by broker version < 0.10 (see api.version.request)",
    " or broker version is < 0.10 (see api.version.request)",
];

/// The text without guesses at the age of the broker.
pub(super) fn without_guesses(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for guess in GUESSES {
        if text.contains(guess) {
            text = Cow::Owned(text.replace(guess, ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_broker_is_not_guessed() {
        for (said, expected) in [
            ("Connect to ipv4#127.0.0.1:1 failed: refused", "Connect to ipv4#127.0.0.1:1 failed: refused"),
            (
                "a:1: ApiVersionRequest failed: Local: Timed out: probably due to broker version < 0.10 (see \
                 api.version.request configuration) (after 10002ms in state APIVERSION_QUERY)",
                "a:1: ApiVersionRequest failed: Local: Timed out (after 10002ms in state APIVERSION_QUERY)",
            ),
            (
                "Disconnected: requesting ApiVersion: might be caused by broker version < 0.10 (see api.version.request)",
                "Disconnected: requesting ApiVersion",
            ),
            (
                "Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol configuration \
                 (connecting to a SSL listener?) or broker version is < 0.10 (see api.version.request)",
                "Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol configuration \
                 (connecting to a SSL listener?)",
            ),
        ] {
            assert_eq!(without_guesses(said), expected);
        }
    }
}
