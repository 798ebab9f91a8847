//! Spans of the records in flight, if somebody wants them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::delivery::Place;
use crate::publisher::Record;
use crate::router::{INDEX, LSN};
use crate::spans::{Span, TRACEPARENT, TRACESTATE, TraceContext};
use crate::vitals::Vitals;

/// Records whose spans are open at once; those of others are dropped, and counted.
const MOST_OPEN: usize = 8_192;

pub(super) struct Traces {
    vitals: Arc<Vitals>,
    /// By the record's number in the window.
    open: HashMap<usize, Open>,
}

struct Open {
    context: TraceContext,
    topic: String,
    position: Option<(String, String)>,
    start: SystemTime,
}

impl Traces {
    /// `None` if nobody wants spans: then a record costs nothing more.
    pub(super) fn wanted(vitals: &Arc<Vitals>) -> Option<Traces> {
        vitals.spans()?;
        Some(Traces { vitals: Arc::clone(vitals), open: HashMap::new() })
    }

    /// A record was taken. One of whose trace nothing is recorded has no span.
    pub(super) fn begin(&mut self, number: usize, record: &Record<'_>) {
        // The last one of a name is the one that consumers read.
        let header = |wanted: &str| {
            record.headers.iter().filter(|(name, _)| *name == wanted).filter_map(|(_, value)| value).last()
        };
        let Some(traceparent) = header(TRACEPARENT) else { return };
        let Some(context) = TraceContext::sampled(traceparent, header(TRACESTATE)) else { return };
        if self.open.len() >= MOST_OPEN {
            self.vitals.tally().spans_dropped.add(1);
            return;
        }
        let text = |name| header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        let open = Open {
            context,
            topic: record.topic.to_owned(),
            position: text(LSN).zip(text(INDEX)),
            // A record is offered within its transaction, or that of the request which sends it again.
            start: self.vitals.committed_at(),
        };
        self.open.insert(number, open);
    }

    /// The broker has it there, or it will be sent again.
    pub(super) fn end(&mut self, number: usize, place: Option<Place>) {
        let Some(Open { context, topic, position, start }) = self.open.remove(&number) else { return };
        let Some(Place { partition, offset }) = place else { return };
        // A server whose clock is ahead must not make a span end before it began.
        let end = SystemTime::now().max(start);
        let span = Span { context, topic, partition, offset, position, start, end };
        if !self.vitals.spans().is_some_and(|spans| spans.offer(span)) {
            self.vitals.tally().spans_dropped.add(1);
        }
    }
}
