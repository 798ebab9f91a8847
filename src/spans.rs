//! Spans of records whose rows belong to a trace: what a collector is told of the way from commit to acknowledgement.
//!
//! The record's own headers go through untouched, so a consumer continues the trace of the service. The span stands beside it:
//! a child of what the row names, from the commit of its transaction to the acknowledgement of the broker.
//!
//! Source: W3C Recommendation "Trace Context", traceparent and tracestate.

use std::time::SystemTime;

use tokio::sync::mpsc;

/// Spans that may wait for the collector. A record never waits for it: what finds no room is dropped, and counted.
pub const MOST_WAITING: usize = 8_192;

/// The header in which a row names its trace.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// A longer state may be cut by whoever hands it on; ours is left out then.
const LONGEST_STATE: usize = 512;

/// What a row says of its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Lower-case hexadecimal digits, 32 of them.
    pub trace_id: String,
    /// The same, 16 of them: the span that wrote the row.
    pub parent_id: String,
    /// Bit 0: somebody records this trace.
    pub flags: u8,
    /// What vendors add, as it came; may be empty.
    pub state: String,
}

impl TraceContext {
    /// Reads the header; `None` if it is none, or the trace is not recorded.
    #[must_use]
    pub fn sampled(traceparent: &[u8], tracestate: Option<&[u8]>) -> Option<TraceContext> {
        let text = std::str::from_utf8(traceparent).ok()?;
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let (trace_id, parent_id) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
        let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
        // Later versions may add parts; this one has none.
        let is_known = version != "ff" && (version != "00" || parts.next().is_none());
        let is_set = |id: &str| id.bytes().any(|digit| digit != b'0');
        if !is_known || !is_set(trace_id) || !is_set(parent_id) || flags & 1 == 0 {
            return None;
        }
        let state = tracestate.filter(|state| state.len() <= LONGEST_STATE);
        let state = state.and_then(|state| std::str::from_utf8(state).ok()).unwrap_or_default();
        Some(TraceContext {
            trace_id: trace_id.to_owned(),
            parent_id: parent_id.to_owned(),
            flags,
            state: state.to_owned(),
        })
    }
}

fn hex(text: &str, digits: usize) -> Option<&str> {
    let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(good)).then_some(text)
}

/// The way of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace that it belongs to.
    pub context: TraceContext,
    /// Where the record went.
    pub topic: String,
    /// Which of its partitions.
    pub partition: i32,
    /// Where it stands there.
    pub offset: i64,
    /// The values of its headers `walpost.lsn` and `walpost.index`, if it has those.
    pub position: Option<(String, String)>,
    /// When the row's transaction was committed, by the server's clock.
    pub start: SystemTime,
    /// When the broker had acknowledged the record, by ours.
    pub end: SystemTime,
}

/// The way to whoever exports spans.
#[derive(Clone, Debug)]
pub struct Spans(mpsc::Sender<Span>);

impl Spans {
    /// A bounded way, and its end.
    #[must_use]
    pub fn channel() -> (Spans, mpsc::Receiver<Span>) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        (Spans(sender), receiver)
    }

    /// Hands a span over; false if there is no room.
    pub fn offer(&self, span: Span) -> bool {
        self.0.try_send(span).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn a_sampled_context_is_read_and_all_else_is_none() {
        let read = |text: &str, state: Option<&str>| {
            TraceContext::sampled(text.as_bytes(), state.map(str::as_bytes))
        };
        let context = read(&format!("00-{TRACE}-{PARENT}-01"), Some("a=1,b=2")).unwrap();
        assert_eq!((context.trace_id.as_str(), context.parent_id.as_str()), (TRACE, PARENT));
        assert_eq!((context.flags, context.state.as_str()), (1, "a=1,b=2"));
        assert_eq!(read(&format!("00-{TRACE}-{PARENT}-03"), None).unwrap().flags, 3);
        assert!(read(&format!("01-{TRACE}-{PARENT}-01-more"), None).is_some(), "a later version");
        assert!(read(&format!("00-{TRACE}-{PARENT}-01"), Some(&"x".repeat(513))).unwrap().state.is_empty());
        for text in [
            String::new(),
            format!("00-{TRACE}-{PARENT}-00"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}é-{PARENT}-01", &TRACE[2..]),
            "00-ab-cd-01".to_owned(),
        ] {
            assert_eq!(read(&text, None), None, "{text}");
        }
        assert_eq!(TraceContext::sampled(b"\xff", None), None);
    }

    #[test]
    fn without_room_a_span_is_refused_and_nobody_waits() {
        let (spans, mut receiver) = Spans::channel();
        let context = TraceContext::sampled(format!("00-{TRACE}-{PARENT}-01").as_bytes(), None).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let span = Span {
            context,
            topic: "t".into(),
            partition: 0,
            offset: 0,
            position: None,
            start: now,
            end: now,
        };
        assert_eq!((0..MOST_WAITING + 1).filter(|_| spans.offer(span.clone())).count(), MOST_WAITING);
        receiver.try_recv().unwrap();
        assert!(spans.offer(span.clone()));
        drop(receiver);
        assert!(!spans.offer(span));
    }
}
