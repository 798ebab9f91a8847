//! Tags of messages that were not asked for. Also run by the simulation, to see that it notices a decoder that lets
//! them pass.

use bytes::Bytes;
use walpost::postgres::DecodeError;
use walpost::postgres::pgoutput::LogicalMessage;

/// What a message of this tag and nothing else must be refused with; `None` for the tags of the protocol, which lack
/// their fields.
fn refusal(tag: u8) -> Option<DecodeError> {
    match tag {
        b'B' | b'C' | b'O' | b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => None,
        b'S' | b'E' | b'c' | b'A' => {
            Some(DecodeError::NotRequested { tag, feature: "streaming of transactions in progress" })
        }
        b'b' | b'P' | b'K' | b'r' | b'p' => {
            Some(DecodeError::NotRequested { tag, feature: "two-phase commit" })
        }
        _ => Some(DecodeError::UnknownTag { message: "pgoutput", tag }),
    }
}

/// The tags that the decoder treats otherwise.
pub(crate) fn misjudged() -> Vec<u8> {
    let is_wrong = |tag: &u8| match (LogicalMessage::decode(Bytes::from(vec![*tag])), refusal(*tag)) {
        (Err(DecodeError::Short { message, .. }), None) => message == "pgoutput",
        (Err(error), Some(expected)) => error != expected,
        _ => true,
    };
    (0..=u8::MAX).filter(is_wrong).collect()
}

#[test]
fn tags_that_were_not_asked_for_are_named() {
    assert!(misjudged().is_empty());
    let error = LogicalMessage::decode(Bytes::new());
    assert_eq!(error, Err(DecodeError::Short { message: "pgoutput", field: "tag" }));
    let error = LogicalMessage::decode(Bytes::from_static(b"S")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "message tag `S` belongs to streaming of transactions in progress, which was not requested"
    );
}
