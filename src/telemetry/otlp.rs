//! Spans on their way to a collector: batch by batch, beside everything else, and never in its way.
//!
//! ```text
//!   records acknowledged ──► a bounded channel ──► a batch a second ──► POST, OTLP as JSON
//!          full: dropped and counted     refused or unreachable: some more tries, then dropped and counted
//! ```
//! Over https with TLS of its own, see `tls`.
//!
//! Source: OpenTelemetry Protocol specification 1.x, "OTLP/HTTP", JSON encoding; semantic conventions for messaging and
//! Kafka, whose state is "development".

mod tls;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::Collector;
use crate::error::OutboxError;
use crate::spans::Span;
use crate::vitals::{News, Vitals, millis};
use tls::Tls;

/// How often spans leave.
const PERIOD: Duration = Duration::from_secs(1);
/// As many leave at once.
const MOST: usize = 512;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As often is a batch tried.
const TRIES: u32 = 5;
/// How long the last batches may take when the relay ends.
const LAST: Duration = Duration::from_secs(3);
/// The collector's name among the faults that were told.
const REFUSES: &str = "the collector does not take spans";
const ADVICE: &str = "see --otlp-endpoint; records are not affected";
const ADVICE_OF_TLS: &str = "the collector's certificate must be signed by an authority of the operating system, or of the \
                             file that OTEL_EXPORTER_OTLP_CERTIFICATE names, and be for the host in --otlp-endpoint; \
                             records are not affected";
/// As much of an answer is read.
const ANSWER: usize = 64 << 10;

/// `SPAN_KIND_PRODUCER` of the protocol.
const PRODUCER: u8 = 4;

/// Sends spans until it is told to finish.
#[derive(Debug)]
pub struct Exporter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts to send what comes.
    #[must_use]
    pub fn start(collector: Collector, spans: mpsc::Receiver<Span>, vitals: Arc<Vitals>) -> Exporter {
        let (stop, stopped) = oneshot::channel();
        let worker = Worker { collector, spans, vitals, batch: Vec::new(), tries: 0, tls: None };
        Exporter { stop, task: tokio::spawn(worker.run(stopped)) }
    }

    /// Sends what is left, if that goes quickly.
    pub async fn finish(mut self) {
        // It may have ended in a panic.
        let _ = self.stop.send(());
        if timeout(LAST, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

struct Worker {
    collector: Collector,
    spans: mpsc::Receiver<Span>,
    vitals: Arc<Vitals>,
    /// Not taken by the collector yet.
    batch: Vec<Span>,
    /// How often it was offered.
    tries: u32,
    /// With what the last handshake went well.
    tls: Option<Tls>,
}

/// Why a batch was not taken.
struct Refusal {
    why: String,
    /// It may be taken later.
    passes: bool,
    advice: &'static str,
}

impl Refusal {
    fn passing(what: &str, error: impl std::fmt::Display) -> Refusal {
        Refusal { why: format!("{what}: {error}"), passes: true, advice: ADVICE }
    }

    fn of_tls(why: impl std::fmt::Display) -> Refusal {
        Refusal { advice: ADVICE_OF_TLS, ..Refusal::passing("cannot connect", why) }
    }
}

impl Worker {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                _ = ticks.tick() => self.send_all().await,
            }
        }
        self.send_all().await;
    }

    /// Sends until nothing is left or the collector takes no more.
    async fn send_all(&mut self) {
        while self.fill() && self.send().await {}
    }

    fn fill(&mut self) -> bool {
        while self.batch.len() < MOST
            && self.tries == 0
            && let Ok(span) = self.spans.try_recv()
        {
            self.batch.push(span);
        }
        !self.batch.is_empty()
    }

    async fn send(&mut self) -> bool {
        let body = body(&self.batch, &self.collector).to_string();
        let late = |_| Refusal { why: "no answer in time".to_owned(), passes: true, advice: ADVICE };
        let result = timeout(PATIENCE, self.post(body)).await.map_err(late).flatten();
        let (count, tally) = (self.batch.len() as u64, self.vitals.tally());
        match result {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                tally.spans_exported.add(count - rejected);
                tally.spans_dropped.add(rejected);
                if let Some(lasted) = self.vitals.told().over(REFUSES) {
                    let (collector, lasted_ms) = (&self.collector.authority, millis(lasted));
                    tracing::info!(collector, lasted_ms, "the collector takes spans again");
                }
            }
            Err(refusal) => {
                self.tries += 1;
                let lost = !refusal.passes || self.tries >= TRIES;
                if lost {
                    tally.spans_dropped.add(count);
                }
                self.tell(&refusal);
                if !lost {
                    return false;
                }
            }
        }
        self.batch.clear();
        self.tries = 0;
        true
    }

    fn tell(&self, refusal: &Refusal) {
        if let Some(News { lasted, .. }) = self.vitals.told().meet(REFUSES) {
            let (collector, lost) = (&self.collector.authority, self.vitals.tally().spans_dropped.get());
            let lasted_ms = (!lasted.is_zero()).then_some(millis(lasted));
            let text = format!("{REFUSES}: {}", refusal.why);
            tracing::warn!(collector, lost, lasted_ms, advice = refusal.advice, "{text}");
        }
    }

    /// Sends one request; how many of its spans were rejected.
    async fn post(&mut self, body: String) -> Result<u64, Refusal> {
        let stream = TcpStream::connect(&self.collector.authority).await;
        let stream = stream.map_err(|error| Refusal::passing("cannot connect", error))?;
        let Some(files) = &self.collector.tls else { return exchange(stream, &self.collector, body).await };
        // Kept only if all goes well: else its files may have to be read anew.
        let tls = match self.tls.take() {
            Some(tls) => tls,
            None => Tls::prepare(&self.collector, files).map_err(Refusal::of_tls)?,
        };
        let stream = tls.handshake(stream).await.map_err(Refusal::of_tls)?;
        let answer = exchange(stream, &self.collector, body).await?;
        self.tls = Some(tls);
        Ok(answer)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    collector: &Collector,
    body: String,
) -> Result<u64, Refusal> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| Refusal::passing("cannot connect", error))?;
    // Ended with this request, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = request(collector, body).map_err(|error| Refusal {
        why: format!("the request can't be made: {}", error.chain()),
        passes: false,
        advice: ADVICE,
    })?;
    let answer = sender.send_request(request).await.map_err(|error| {
        // A server that wants a certificate of ours says so only now.
        let alert = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Refusal::passing("no answer", format!("{error}{}{alert}", if alert.is_empty() { "" } else { ": " }))
    })?;
    let status = answer.status();
    let text = Limited::new(answer.into_body(), ANSWER).collect().await.map(|text| text.to_bytes());
    if !status.is_success() {
        // As the protocol says; all else would be refused again.
        let passes = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        return Err(Refusal { why: format!("it answered {status}"), passes, advice: ADVICE });
    }
    Ok(text.map_or(0, |text| rejected(&text)))
}

fn request(collector: &Collector, body: String) -> Result<Request<Full<Bytes>>, OutboxError> {
    let mut request = Request::post(&collector.path)
        .header(HOST, &collector.authority)
        .header(CONTENT_TYPE, "application/json")
        .header("user-agent", concat!("walpost/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &collector.headers {
        request = request.header(name, value);
    }
    // The error names the header's place and not its value.
    request.body(Full::new(Bytes::from(body))).map_err(|error| {
        OutboxError::usage(format!("a header of OTEL_EXPORTER_OTLP_HEADERS: {error}"), "mend it")
    })
}

/// A collector may take a request and reject some of its spans; the number may come as text.
fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let number = &answer["partialSuccess"]["rejectedSpans"];
    number.as_u64().or_else(|| number.as_str()?.parse().ok()).unwrap_or(0)
}

/// The body of a request.
fn body(spans: &[Span], collector: &Collector) -> Value {
    let resource: Vec<_> = collector.resource.iter().map(|(key, value)| text(key, value)).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{
            "scope": {"name": "walpost", "version": env!("CARGO_PKG_VERSION")},
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(span: &Span) -> Value {
    let mut attributes = vec![
        text("messaging.system", "kafka"),
        text("messaging.operation.name", "send"),
        text("messaging.operation.type", "send"),
        text("messaging.destination.name", &span.topic),
        text("messaging.destination.partition.id", &span.partition.to_string()),
        number("messaging.kafka.offset", span.offset),
    ];
    if let Some((lsn, index)) = &span.position {
        attributes.push(text("walpost.lsn", lsn));
        attributes.extend(index.parse().ok().map(|index| number("walpost.index", index)));
    }
    json!({
        "traceId": span.context.trace_id,
        // Zero would be no id.
        "spanId": format!("{:016x}", fastrand::u64(1..)),
        "parentSpanId": span.context.parent_id,
        "traceState": span.context.state,
        "flags": span.context.flags,
        "name": format!("send {}", span.topic),
        "kind": PRODUCER,
        "startTimeUnixNano": nanos(span.start),
        "endTimeUnixNano": nanos(span.end),
        "attributes": attributes,
        "status": {},
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Numbers of 64 bits are text in JSON (Protocol Buffers, "JSON mapping").
fn number(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn nanos(at: SystemTime) -> String {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::routing::post as route;
    use tokio::net::TcpListener;

    use super::*;
    use crate::spans::{Spans, TraceContext};

    type Seen = mpsc::UnboundedSender<(HeaderMap, Value)>;

    /// A collector that answers with these codes in turn, and then with 200.
    async fn collector(codes: &[u16]) -> (Collector, mpsc::UnboundedReceiver<(HeaderMap, Value)>) {
        let (seen, requests) = mpsc::unbounded_channel();
        let codes = Arc::new(std::sync::Mutex::new(codes.to_vec()));
        let answer = async move |State(seen): State<Seen>, headers: HeaderMap, body: String| {
            seen.send((headers, serde_json::from_str(&body).unwrap())).unwrap();
            let mut codes = codes.lock().unwrap();
            let code = if codes.is_empty() { 200 } else { codes.remove(0) };
            (StatusCode::from_u16(code).unwrap(), r#"{"partialSuccess":{"rejectedSpans":"1"}}"#)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/v1/traces", route(answer)).with_state(seen);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let resource = vec![("service.name".to_owned(), "shop".to_owned())];
        let headers = vec![("authorization".to_owned(), "Bearer sesame".to_owned())];
        (Collector { authority, path: "/v1/traces".to_owned(), tls: None, headers, resource }, requests)
    }

    fn sent() -> Span {
        let context = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Span {
            context: TraceContext::sampled(context, Some(b"a=1")).unwrap(),
            topic: "orders".to_owned(),
            partition: 3,
            offset: 41,
            position: Some(("0/1A".to_owned(), "2".to_owned())),
            start,
            end: start + Duration::from_millis(5),
        }
    }

    #[tokio::test]
    async fn a_span_is_told_whole_and_what_was_rejected_is_counted() {
        let (collector, mut requests) = collector(&[503]).await;
        let (spans, receiver) = Spans::channel();
        let vitals = Arc::new(Vitals::default());
        assert!(spans.offer(sent()) && spans.offer(sent()));
        let exporter = Exporter::start(collector, receiver, Arc::clone(&vitals));
        let first = requests.recv().await.unwrap();
        let (headers, body) = requests.recv().await.unwrap();
        assert_eq!(
            first.1["resourceSpans"][0]["resource"], body["resourceSpans"][0]["resource"],
            "the same again"
        );
        exporter.finish().await;
        assert_eq!(headers["authorization"], "Bearer sesame");
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        let all = &body["resourceSpans"][0];
        assert_eq!(all["resource"]["attributes"][0], text("service.name", "shop"));
        let span = &all["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((&span["parentSpanId"], &span["traceState"]), (&json!("00f067aa0ba902b7"), &json!("a=1")));
        assert_eq!((&span["name"], &span["kind"]), (&json!("send orders"), &json!(4)));
        assert_eq!(span["startTimeUnixNano"], "1700000000000000000");
        assert_eq!(span["endTimeUnixNano"], "1700000000005000000");
        for attribute in [
            text("messaging.system", "kafka"),
            text("messaging.destination.name", "orders"),
            text("messaging.destination.partition.id", "3"),
            number("messaging.kafka.offset", 41),
            text("walpost.lsn", "0/1A"),
            number("walpost.index", 2),
        ] {
            assert!(span["attributes"].as_array().unwrap().contains(&attribute), "{attribute}: {span}");
        }
        assert_eq!((vitals.tally().spans_exported.get(), vitals.tally().spans_dropped.get()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_collector_refuses_is_dropped_and_counted() {
        let (spans, receiver) = Spans::channel();
        let vitals = Arc::new(Vitals::default());
        spans.offer(sent());
        let nobody = Collector {
            authority: "127.0.0.1:1".to_owned(),
            path: "/".to_owned(),
            tls: None,
            headers: Vec::new(),
            resource: Vec::new(),
        };
        let exporter = Exporter::start(nobody, receiver, Arc::clone(&vitals));
        tokio::time::advance(Duration::ZERO).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while vitals.tally().spans_dropped.get() == 0 {
            assert!(tokio::time::Instant::now() < deadline, "it was never given up");
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
        exporter.finish().await;
        assert_eq!((vitals.tally().spans_exported.get(), vitals.tally().spans_dropped.get()), (0, 1));
    }
}
