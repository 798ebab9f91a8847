//! The listener: `/healthz` and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::health;
use crate::error::OutboxError;
use crate::vitals::Vitals;

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

impl Health {
    /// Where it listens: with port 0 asked for, the one that was free.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to answer on `address`, which is `host:port`.
///
/// # Errors
/// The address can't be had.
pub async fn listen(address: &str, vitals: Arc<Vitals>) -> Result<Health, OutboxError> {
    let refused = |error: io::Error| refused(address, &error);
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    tracing::info!("listening on http://{address}");
    let router =
        Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(vitals);
    let task = tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(Health { address, task })
}

/// Definite, although a port may become free: a relay that runs without the health that it was told to
/// give would look dead to whoever watches it.
fn refused(address: &str, error: &io::Error) -> OutboxError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process, perhaps another walpost, has this port: choose one with --listen or \
             WALPOST_LISTEN (port 0 takes a free one), or turn the listener off with --listen off"
        }
        _ => {
            "choose an address of this machine with --listen or WALPOST_LISTEN, or turn it off with --listen off"
        }
    };
    OutboxError::definite(format!("cannot listen on {address} (--listen): {error}"), advice)
}

async fn healthz(State(vitals): State<Arc<Vitals>>) -> Response {
    let answer = health::healthy(&vitals);
    (status(answer.good), Json(answer)).into_response()
}

async fn readyz(State(vitals): State<Arc<Vitals>>) -> Response {
    let answer = health::ready(&vitals);
    (status(answer.good), Json(answer)).into_response()
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(health: &Health, path: &str) -> String {
        let mut stream = TcpStream::connect(health.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn both_questions_are_answered_in_status_and_body() {
        let vitals = Arc::new(Vitals::default());
        let health = listen("127.0.0.1:0", Arc::clone(&vitals)).await.unwrap();
        for (state, path, status, body) in [
            (crate::State::Retrying, "/healthz", "200 OK", r#""state":"retrying""#),
            (crate::State::Retrying, "/readyz", "503 Service Unavailable", r#""reason":"because""#),
            (crate::State::Streaming, "/readyz", "200 OK", r#""confirmed":"0/0""#),
            (crate::State::Streaming, "/elsewhere", "404 Not Found", ""),
        ] {
            vitals.enter(state, "because");
            let answer = ask(&health, path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
            assert!(answer.contains(body), "{path}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_definite_error_that_names_address_and_flag() {
        let vitals = Arc::new(Vitals::default());
        let first = listen("127.0.0.1:0", Arc::clone(&vitals)).await.unwrap();
        let error = listen(&first.address().to_string(), vitals).await.unwrap_err();
        assert!(!error.is_transient() && !error.is_usage());
        assert!(error.to_string().contains(&first.address().to_string()), "{error}");
        assert!(error.advice().unwrap().contains("--listen off"), "{error:?}");
    }
}
