//! Spans over https: whom the relay trusts, what it shows, and that none of it holds up records.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::routing::post;
use axum::serve::Listener;
use axum::{Json, Router};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::spans::{PARENT, TRACE};
use super::until;
use crate::support::certificates::{Authority, Pair, Wish};
use crate::support::walpost::Builder;
use crate::support::{PATIENCE, Walpost};
use crate::world::{World, stop};

/// The door of a collector: those with whom no agreement on TLS is found don't come in.
struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Door {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().collect::<Result<_, _>>().unwrap()
}

/// A collector with this certificate, which asks for one of that authority, if any. Where it listens, and what it was sent.
async fn collector(pair: &Pair, clients: Option<&Authority>) -> (u16, UnboundedReceiver<(HeaderMap, Value)>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(&authority.root()));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let config = builder.with_single_cert(certificates(&pair.certificate), key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, requests) = unbounded_channel();
    let take = async move |headers: HeaderMap, Json(body): Json<Value>| {
        seen.send((headers, body)).unwrap();
        Json(json!({}))
    };
    let door = Door { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    tokio::spawn(async move { axum::serve(door, Router::new().route("/v1/traces", post(take))).await });
    (port, requests)
}

/// A row of a trace that is recorded.
async fn insert(world: &World) {
    let sql = "INSERT INTO outbox.messages (topic, key, payload, headers) \
               VALUES ($1, 'k', '1', json_build_object('traceparent', $2::text))";
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    world.database.client().await.execute(sql, &[&world.topic, &sampled]).await.unwrap();
}

fn to(world: &World, port: u16) -> Builder {
    world
        .command(["run", "--otlp-endpoint", &format!("https://localhost:{port}")])
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20marker-of-the-header")
        .env("WALPOST_LOG", "trace")
}

async fn arrives(world: &World, requests: &mut UnboundedReceiver<(HeaderMap, Value)>) {
    insert(world).await;
    let (headers, body) = timeout(PATIENCE, requests.recv()).await.expect("no span came").unwrap();
    assert_eq!(headers["authorization"], "Bearer marker-of-the-header");
    assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"], TRACE, "{body}");
}

/// It says why no span goes out, and records flow.
async fn is_refused(world: &World, relay: Walpost, words: &[&str]) {
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    insert(world).await;
    world.caught_up().await;
    let told = relay.wait_for_log("the collector does not take spans", PATIENCE).await;
    for word in words {
        assert!(told.contains(word), "{word}: {told}");
    }
    let address = relay.listen_address().await;
    let figures =
        until(address, "the span to be given up", |it| it.at("walpost_spans_dropped_total") == 1.0).await;
    assert_eq!((figures.at("walpost_spans_exported_total"), figures.at("walpost_ready")), (0.0, 1.0));
    let log = relay.log();
    assert_eq!(log.matches("the collector does not take spans").count(), 1, "{log}");
    assert!(!log.contains("marker-of-the-header"), "{log}");
    stop(relay).await;
}

#[tokio::test]
async fn spans_go_over_https_to_a_collector_that_is_trusted() {
    let world = World::new("spanstls", 1).await;
    let authority = Authority::new("The Collector's Authority");
    let (port, mut requests) = collector(&authority.sign("collector", &Wish::default()), None).await;
    // By the operating system, and by a file; the one for traces goes first.
    for (name, other) in [
        ("SSL_CERT_FILE", None),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", None),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", Some(())),
    ] {
        let mut command = to(&world, port).env(name, authority.root());
        if other.is_some() {
            command = command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere");
        }
        let relay = command.spawn();
        relay.wait_for_log("\"streaming\"", PATIENCE).await;
        arrives(&world, &mut requests).await;
        world.caught_up().await;
        assert!(!relay.log().contains("marker-of-the-header"));
        stop(relay).await;
    }
}

#[tokio::test]
async fn a_collector_that_is_not_trusted_gets_nothing_and_holds_up_nothing() {
    let world = World::new("spansdistrust", 1).await;
    let authority = Authority::new("The Collector's Authority");
    let (port, mut requests) = collector(&authority.sign("collector", &Wish::default()), None).await;
    let stranger = Authority::new("A Stranger");
    let trusting = |file: &Path| to(&world, port).env("OTEL_EXPORTER_OTLP_CERTIFICATE", file).spawn();
    let advice = "OTEL_EXPORTER_OTLP_CERTIFICATE names";
    is_refused(&world, trusting(&stranger.root()), &["UnknownIssuer", advice]).await;
    is_refused(&world, to(&world, port).spawn(), &["invalid peer certificate", advice]).await;
    is_refused(&world, trusting(Path::new("/nowhere/ca.crt")), &["/nowhere/ca.crt", "No such file"]).await;
    let other = Wish { names: Some("DNS:elsewhere"), ..Wish::default() };
    let (strange, mut at_strange) = collector(&authority.sign("elsewhere", &other), None).await;
    let relay = to(&world, strange).env("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.root()).spawn();
    is_refused(&world, relay, &["not valid for name", advice]).await;
    assert!(requests.try_recv().is_err() && at_strange.try_recv().is_err());

    // Mended while it runs, it is found.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    std::fs::copy(stranger.root(), &file).unwrap();
    let relay = trusting(&file);
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    insert(&world).await;
    relay.wait_for_log("the collector does not take spans", PATIENCE).await;
    std::fs::copy(authority.root(), &file).unwrap();
    relay.wait_for_log("the collector takes spans again", PATIENCE).await;
    assert!(requests.try_recv().is_ok());
    stop(relay).await;
}

#[tokio::test]
async fn a_collector_that_asks_for_a_certificate_is_shown_it() {
    let world = World::new("spansmutual", 1).await;
    let authority = Authority::new("The Collector's Authority");
    let pair = authority.sign("collector", &Wish::default());
    let (port, mut requests) = collector(&pair, Some(&authority)).await;
    let trusting = || to(&world, port).env("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.root());
    is_refused(&world, trusting().spawn(), &["the collector does not take spans"]).await;
    let ours = authority.sign("ours", &Wish { common_name: "relay", ..Wish::default() });
    let relay = trusting()
        .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &ours.certificate)
        .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &ours.key)
        .spawn();
    relay.wait_for_log("\"streaming\"", PATIENCE).await;
    arrives(&world, &mut requests).await;
    stop(relay).await;
}
