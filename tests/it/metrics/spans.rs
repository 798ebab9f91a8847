//! Spans, as a collector gets them.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{Figures, until};
use crate::support::PATIENCE;
use crate::world::{World, stop};

pub(super) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(super) const PARENT: &str = "00f067aa0ba902b7";

/// A collector: where it listens, and what it was sent.
async fn collector() -> (String, UnboundedReceiver<(HeaderMap, Value)>) {
    let (seen, requests) = unbounded_channel();
    let take = async move |headers: HeaderMap, Json(body): Json<Value>| {
        seen.send((headers, body)).unwrap();
        Json(json!({}))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", post(take))).await });
    (url, requests)
}

fn attribute<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    let found = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    found["value"].as_object()?.values().next()
}

fn nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// Two rows of a trace that is recorded, one of one that is not, one of none, and one whose header is no context.
#[tokio::test]
async fn a_span_for_each_record_of_a_sampled_trace_and_headers_go_through() {
    let world = World::new("spans", 2).await;
    let (url, mut requests) = collector().await;
    let relay = world
        .command(["run", "--otlp-endpoint", &url])
        .env("OTEL_SERVICE_NAME", "shop-outbox")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b")
        .spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    let begin = nanos();
    let mut client = world.database.client().await;
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        json!({"traceparent": sampled, "tracestate": "vendor=1"}),
        json!({"traceparent": sampled}),
        json!({"traceparent": format!("00-{TRACE}-{PARENT}-00")}),
        json!({}),
        json!({"traceparent": "none", "tracestate": null}),
    ];
    let transaction = client.transaction().await.unwrap();
    let sql = "INSERT INTO outbox.messages (topic, key, payload, headers) VALUES ($1, $2, '\"secret\"', $3::text::jsonb)";
    for (number, headers) in headers.iter().enumerate() {
        transaction
            .execute(sql, &[&world.topic, &format!("key-{number}"), &headers.to_string()])
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
    let records = world.consume(5).await;
    let record = |key: &str| records.iter().find(|it| it.key.as_deref() == Some(key.as_bytes())).unwrap();
    assert_eq!(record("key-0").header("traceparent"), Some(sampled.as_str()));
    assert_eq!(record("key-0").header("tracestate"), Some("vendor=1"));
    assert_eq!(record("key-4").header("traceparent"), Some("none"));

    let mut spans = Vec::new();
    let mut headers = HeaderMap::new();
    while spans.len() < 2 {
        let (with, body) = timeout(PATIENCE, requests.recv()).await.expect("no spans came").unwrap();
        headers = with;
        let all = &body["resourceSpans"][0];
        assert_eq!(attribute(&all["resource"], "service.name"), Some(&json!("shop-outbox")));
        assert_eq!(attribute(&all["resource"], "deployment.environment"), Some(&json!("test")));
        assert!(!body.to_string().contains("secret"), "{body}");
        spans.extend(all["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    let end = nanos();
    assert_eq!(
        (&headers["x-tenant"], &headers["content-type"]),
        (&"a b".parse().unwrap(), &"application/json".parse().unwrap())
    );
    spans.sort_by_key(|span| attribute(span, "walpost.index").unwrap().as_str().unwrap().to_owned());
    for (number, span) in spans.iter().enumerate() {
        let record = record(&format!("key-{number}"));
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)), "{span}");
        let id = span["spanId"].as_str().unwrap();
        assert!(id.len() == 16 && id != PARENT && id.bytes().any(|digit| digit != b'0'), "{span}");
        assert_eq!((&span["kind"], &span["name"]), (&json!(4), &json!(format!("send {}", world.topic))));
        let [started, ended] = ["startTimeUnixNano", "endTimeUnixNano"]
            .map(|time| span[time].as_str().unwrap().parse::<u128>().unwrap());
        assert!(begin <= started && started <= ended && ended <= end, "{begin} {span} {end}");
        for (key, expected) in [
            ("messaging.system", "kafka"),
            ("messaging.destination.name", world.topic.as_str()),
            ("messaging.destination.partition.id", &record.partition.to_string()),
            ("messaging.kafka.offset", &record.offset.to_string()),
            ("walpost.lsn", record.header("walpost.lsn").unwrap()),
            ("walpost.index", record.header("walpost.index").unwrap()),
        ] {
            assert_eq!(attribute(span, key), Some(&json!(expected)), "{key}: {span}");
        }
    }
    assert_ne!(spans[0]["spanId"], spans[1]["spanId"]);
    assert_eq!((&spans[0]["traceState"], &spans[1]["traceState"]), (&json!("vendor=1"), &json!("")));
    let address = relay.listen_address().await;
    until(address, "two spans to be counted", |it| it.at("walpost_spans_exported_total") == 2.0).await;
    stop(relay).await;
    assert!(requests.try_recv().is_err(), "no other record has a span");
}

/// Records flow, and what is lost is counted, when nobody takes spans. The last ones leave with the relay.
#[tokio::test]
async fn a_collector_that_is_away_holds_up_nothing() {
    let world = World::new("nospans", 1).await;
    let standard = world.command(["run"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").spawn();
    standard.wait_for_log("\"streaming\"", PATIENCE).await;
    let client = world.database.client().await;
    let sql = "INSERT INTO outbox.messages (topic, key, payload, headers) \
               SELECT $1, 'k', '1', json_build_object('traceparent', $2::text) FROM generate_series(1, 20000)";
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    client.execute(sql, &[&world.topic, &sampled]).await.unwrap();
    world.caught_up().await;
    let address = standard.listen_address().await;
    standard.wait_for_log("the collector does not take spans", PATIENCE).await;
    let figures = Figures::of(address).await;
    assert_eq!(figures.at("walpost_published_records_total"), 20_000.0);
    until(address, "spans to be dropped", |it| it.at("walpost_spans_dropped_total") > 3_000.0).await;
    assert_eq!(figures.at("walpost_spans_exported_total"), 0.0);
    stop(standard).await;

    let (url, mut requests) = collector().await;
    let relay = world.command(["run", "--otlp-endpoint", &url]).spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    client.execute(&sql.replace("20000", "1"), &[&world.topic, &sampled]).await.unwrap();
    world.caught_up().await;
    stop(relay).await;
    let (_, body) = requests.try_recv().expect("it has left before the relay");
    assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len(), 1);
}
