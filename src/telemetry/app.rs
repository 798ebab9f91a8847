//! What the listener answers with: one state behind all routes, and the routes in two groups.
//!
//! ```text
//!   open      /healthz  /readyz  /metrics  for whoever runs the process: figures and reasons
//!   guarded   /api/state                   for people: behind the token, if there is one
//! ```
//!
//! A new route goes into one of the two groups, and finds all it needs in [`App`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::{exposition, health, metrics};
use crate::vitals::Vitals;

/// What all routes share. Cloning is cheap: axum does so for each request.
#[derive(Clone, Debug)]
pub struct App {
    vitals: Arc<Vitals>,
    token: Option<Token>,
}

/// What a request to the guarded routes must bear. Shown nowhere.
#[derive(Clone)]
struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Takes as long for a wrong token as for the right one, so that time tells nothing of it.
    fn is(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        let differing = own.iter().zip(given).fold(0, |differing, (a, b)| differing | (a ^ b));
        own.len() == given.len() && std::hint::black_box(differing) == 0
    }
}

impl App {
    /// Answers from these vitals; every route is open.
    #[must_use]
    pub fn new(vitals: Arc<Vitals>) -> App {
        App { vitals, token: None }
    }

    /// Asks for `Authorization: Bearer <token>` on the guarded routes.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> App {
        self.token = Some(Token(token.into()));
        self
    }

    /// The vitals that are shown.
    #[must_use]
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// All routes.
    pub(super) fn routes(self) -> Router {
        let open = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(figures));
        let guarded = Router::new()
            .route("/api/state", get(state))
            .route_layer(middleware::from_fn_with_state(self.clone(), guard));
        open.merge(guarded).with_state(self)
    }
}

async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    match &app.token {
        Some(token) if !given.is_some_and(|given| token.is(given)) => {
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response()
        }
        _ => next.run(request).await,
    }
}

async fn healthz(State(app): State<App>) -> Response {
    let answer = health::healthy(app.vitals());
    (status(answer.good), Json(answer)).into_response()
}

async fn readyz(State(app): State<App>) -> Response {
    let answer = health::ready(app.vitals());
    (status(answer.good), Json(answer)).into_response()
}

async fn figures(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], metrics::text(app.vitals())).into_response()
}

/// The same as `/readyz`, for a page: an answer, and not a verdict.
async fn state(State(app): State<App>) -> Response {
    Json(health::ready(app.vitals())).into_response()
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole_and_never_shown() {
        let token = Token("sesame".into());
        assert!(token.is("sesame"));
        for other in ["", "sesam", "sesame ", "Sesame", "sesamf"] {
            assert!(!token.is(other), "{other}");
        }
        let app = App::new(Arc::default()).with_token("sesame");
        assert!(!format!("{app:?}").contains("sesame"));
    }
}
