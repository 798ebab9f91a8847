//! What the listener answers with: one state behind all routes, and the routes in groups.
//!
//! ```text
//!   open      /  /healthz  /readyz  /metrics  for whoever runs the process: figures and reasons, and the empty page
//!   looking   /api/state  /api/dead-letters   for people: see `access`
//!   acting    POST /api/dead-letters/...      for those of them who may
//! ```
//!
//! A new route goes into one of the groups, and finds all it needs in [`App`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::access::{Access, Denied, Facts, Wish};
use super::events::{Events, now_ms};
use super::filling::{Filling, filling};
use super::history::History;
use super::letters::{self, Action, Letters};
use super::state::{self, About, Known, Sources};
use super::token::TokenFile;
use super::{exposition, health, metrics, page};
use crate::error::OutboxError;
use crate::vitals::{State as Phase, Vitals};

/// A thousand positions are less than that.
const LONGEST_REQUEST: usize = 64 << 10;
const TICK: Duration = Duration::from_secs(1);

/// What all routes share. Cloning is cheap: axum does so for each request.
#[derive(Clone, Debug)]
pub struct App {
    vitals: Arc<Vitals>,
    access: Access,
    token: Option<TokenFile>,
    about: Arc<About>,
    events: Events,
    history: Arc<Mutex<History>>,
    letters: Option<Letters>,
    started_ms: u64,
}

impl App {
    /// Answers from these vitals.
    #[must_use]
    pub fn new(vitals: Arc<Vitals>) -> App {
        App {
            vitals,
            access: Access::default(),
            token: None,
            about: Arc::default(),
            events: Events::default(),
            history: Arc::default(),
            letters: None,
            started_ms: now_ms(),
        }
    }

    /// Who may ask for what.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> App {
        self.access = access;
        self
    }

    /// What whoever asks has to bear: what stands in this file when it is asked.
    #[must_use]
    pub fn with_token_file(mut self, file: TokenFile) -> App {
        self.access = self.access.with_token(file.token(self.vitals.told()));
        self.token = Some(file);
        self
    }

    /// Who may ask for what now.
    fn access(&self) -> Access {
        match &self.token {
            Some(file) => self.access.clone().with_token(file.token(self.vitals.told())),
            None => self.access.clone(),
        }
    }

    /// What relay this is, and what its log warns of.
    #[must_use]
    pub fn of(mut self, about: About, events: Events) -> App {
        (self.about, self.events) = (Arc::new(about), events);
        self
    }

    /// Shows dead letters, and lets whoever may do so replay and discard them.
    #[must_use]
    pub fn with_letters(mut self, letters: Letters) -> App {
        self.letters = Some(letters);
        self
    }

    /// Whether only this machine's users can reach the address that it answers on.
    pub(super) fn local(mut self, is_local: bool) -> App {
        self.access = self.access.local(is_local);
        self
    }

    /// The vitals that are shown.
    #[must_use]
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Remembers what each second was like, for ever.
    pub(super) async fn remember(self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.history().tick(&self.vitals, &self.events, now_ms());
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All routes.
    pub(super) fn routes(self) -> Router {
        let open = Router::new()
            .route("/", get(async || page::page()))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(figures));
        let guarded = Router::new()
            .route("/api/state", get(told))
            .route("/api/dead-letters", get(listed))
            .route("/api/dead-letters/replay", post(replay))
            .route("/api/dead-letters/discard", post(discard))
            .route_layer(middleware::from_fn_with_state(self.clone(), guard))
            .layer(DefaultBodyLimit::max(LONGEST_REQUEST));
        open.merge(guarded).with_state(self)
    }
}

async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match verdict(&app.access(), &request) {
        Ok(()) => next.run(request).await,
        Err(denied) => turned_away(denied),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whatever is not only read is an act.
fn verdict(access: &Access, request: &Request) -> Result<(), Denied> {
    let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let facts = Facts {
        host: header(HOST),
        origin: header(ORIGIN),
        site: header(HeaderName::from_static("sec-fetch-site")),
        authorization: header(AUTHORIZATION),
        content_type: header(CONTENT_TYPE),
    };
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    access.decide(if is_read { Wish::Look } else { Wish::Act }, &facts)
}

fn turned_away(denied: Denied) -> Response {
    let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = complaint(status, denied.what(), Some(denied.advice()));
    if denied == Denied::NoToken {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What is wrong, and what helps.
#[derive(Serialize)]
struct Complaint<'a> {
    error: &'a str,
    advice: Option<&'a str>,
}

fn complaint(status: StatusCode, error: &str, advice: Option<&str>) -> Response {
    (status, Json(Complaint { error, advice })).into_response()
}

async fn healthz(State(app): State<App>) -> Response {
    let answer = health::healthy(app.vitals());
    (status(answer.good), Json(answer)).into_response()
}

/// With what tells this relay from others: the answer is asked for under an address only.
#[derive(Serialize)]
struct Readiness<'a> {
    #[serde(flatten)]
    ready: health::Ready,
    /// Told when the slot is nearly lost; the answer's code is not about that.
    filling: Option<Filling>,
    slot: &'a str,
    /// Of the database system that was read last; none before the first stream.
    system: Option<String>,
    /// The server's process behind the stream; none while there is no stream.
    pid: Option<i32>,
}

async fn readyz(State(app): State<App>) -> Response {
    let ready = health::ready(app.vitals());
    let reads = app.vitals.reads();
    let streams = matches!(app.vitals.phase().state, Phase::Streaming | Phase::Draining);
    let forecast = app.history().forecast();
    let answer = Readiness {
        filling: filling(app.vitals(), &ready, forecast),
        slot: &app.about.slot,
        pid: reads.as_ref().map(|reads| reads.pid).filter(|_| streams),
        system: reads.map(|reads| reads.system),
        ready,
    };
    (status(answer.ready.good), Json(answer)).into_response()
}

async fn figures(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], metrics::text(app.vitals())).into_response()
}

async fn told(State(app): State<App>, request: Request) -> Response {
    let history = app.history();
    let sources = Sources {
        vitals: &app.vitals,
        history: &history,
        events: &app.events,
        about: &app.about,
        started_ms: app.started_ms,
        may_act: app.access.may_act(),
        has_letters: app.letters.is_some(),
    };
    Json(state::answer(&sources, Known::of(request.uri().query()))).into_response()
}

async fn listed(State(app): State<App>) -> Response {
    match &app.letters {
        Some(letters) => answered(letters.list().await.as_deref()),
        None => no_letters(),
    }
}

async fn replay(State(app): State<App>, body: Result<Json<letters::Request>, JsonRejection>) -> Response {
    act(&app, Action::Replay, body).await
}

async fn discard(State(app): State<App>, body: Result<Json<letters::Request>, JsonRejection>) -> Response {
    act(&app, Action::Discard, body).await
}

async fn act(app: &App, action: Action, body: Result<Json<letters::Request>, JsonRejection>) -> Response {
    match (&app.letters, body) {
        (Some(letters), Ok(Json(request))) => answered(letters.act(action, &request).await.as_ref()),
        (None, _) => no_letters(),
        (_, Err(rejection)) => {
            let advice = "send {\"positions\": [\"X/Y+index\", ...]}";
            complaint(rejection.status(), "the request makes no sense", Some(advice))
        }
    }
}

fn no_letters() -> Response {
    complaint(StatusCode::NOT_FOUND, "this relay keeps no dead letters", None)
}

fn answered(result: Result<&impl Serialize, &OutboxError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let status = if error.is_usage() {
                StatusCode::BAD_REQUEST
            } else if error.is_transient() {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::CONFLICT
            };
            complaint(status, &error.chain(), error.advice())
        }
    }
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
