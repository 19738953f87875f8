//! `/v1/agent/*`: what this node knows and does itself. Everything else goes to a server.

mod checks;
mod connect;
mod health;
mod node;
mod services;

use crate::agent::Agent;
use api::query::{Query, QueryOptions};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use serde::Serialize;
use std::convert::Infallible;

impl Agent {
    /// The routes that this agent answers itself: `/v1/agent/*`.
    pub fn router_local(&self) -> Router {
        let services = Router::new()
            .route("/v1/agent/services", get(services::list))
            .route("/v1/agent/service/{*id}", get(services::read))
            .route("/v1/agent/service/register", put(services::register))
            .route("/v1/agent/service/deregister/{*id}", put(services::deregister))
            .route("/v1/agent/service/maintenance/{*id}", put(services::maintenance))
            .route("/v1/agent/health/service/id/{*id}", get(health::by_id))
            .route("/v1/agent/health/service/name/{*name}", get(health::by_name));
        let checks = Router::new()
            .route("/v1/agent/checks", get(checks::list))
            .route("/v1/agent/check/register", put(checks::register))
            .route("/v1/agent/check/deregister/{*id}", put(checks::deregister))
            .route("/v1/agent/check/pass/{*id}", put(checks::pass))
            .route("/v1/agent/check/warn/{*id}", put(checks::warn))
            .route("/v1/agent/check/fail/{*id}", put(checks::fail))
            .route("/v1/agent/check/update/{*id}", put(checks::update));
        let node = Router::new()
            .route("/v1/agent/self", get(node::this))
            .route("/v1/agent/members", get(node::members))
            .route("/v1/agent/host", get(node::host))
            .route("/v1/agent/version", get(node::version))
            .route("/v1/agent/metrics", get(node::metrics))
            .route("/v1/agent/maintenance", put(node::maintenance))
            .route("/v1/agent/join/{*address}", put(node::join))
            .route("/v1/agent/leave", put(node::leave))
            .route("/v1/agent/force-leave/{*node}", put(node::force_leave));
        let connect = Router::new()
            .route("/v1/agent/connect/ca/roots", get(connect::roots))
            .route("/v1/agent/connect/ca/leaf/{*service}", get(connect::leaf))
            .route("/v1/agent/connect/authorize", post(connect::authorize));
        let all = services.merge(checks).merge(node).merge(connect);
        all.layer(DefaultBodyLimit::max(model::limits::BODY_BYTES_MAX)).with_state(self.clone())
    }

    /// Hands every other `/v1/*` to a server, streaming. Not for a server node, whose own routes answer.
    pub fn forward_fallback(&self) -> Router {
        let unknown =
            |request: Request| async move { api::Error::unknown_path(request.uri().path()).into_response::<Body>() };
        Router::new().route("/v1/{*path}", any(forward)).fallback(unknown).with_state(self.clone())
    }
}

async fn forward(State(agent): State<Agent>, request: Request) -> Response {
    if request.uri().path().starts_with("/v1/agent/") {
        return api::Error::unknown_path(request.uri().path()).into_response();
    }
    agent.inner.forwarder.forward(request).await
}

/// The query of a request.
struct Params(Query);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Params(Query::parse(parts.uri.query().unwrap_or_default())))
    }
}

impl Params {
    fn options(&self) -> Result<QueryOptions, Failure> {
        Ok(QueryOptions::parse(&self.0)?)
    }

    fn json<T: Serialize + ?Sized>(&self, value: &T) -> Response {
        json(StatusCode::OK, value, self.0.has("pretty"))
    }

    /// `enable` and `reason` of maintenance.
    fn maintenance(&self) -> Result<(bool, &str), Failure> {
        let text = self.0.non_empty("enable").ok_or_else(|| api::Error::bad_request("Missing value for enable"))?;
        let enable = api::query::parse_bool(text);
        let enable = enable.ok_or_else(|| api::Error::bad_request(format!("Invalid value for enable: {text:?}")))?;
        Ok((enable, self.0.get("reason").unwrap_or_default()))
    }
}

/// A refusal as axum's handlers return it.
struct Failure(api::Error);

impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Self {
        Failure(error)
    }
}

impl From<api::json::BadJson> for Failure {
    fn from(error: api::json::BadJson) -> Self {
        Failure(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

/// What a handler returns.
type Answer = Result<Response, Failure>;

fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T, pretty: bool) -> Response {
    bytes_of(status, "application/json", api::json::to_bytes(value, pretty))
}

fn bytes_of(status: StatusCode, kind: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// 200 without a body, as Consul's writes are answered.
fn done() -> Answer {
    Ok(Response::new(Body::empty()))
}

/// A filter over nouns of one sort. A bad expression is 500 with the parser's words, as in Consul 1.16.
fn filter<R: model::filter::Row>(options: &QueryOptions) -> Result<Option<model::Filter<R>>, Failure> {
    let parse = |text: &String| model::Filter::parse(text).map_err(|e| Failure(api::Error::internal(e.to_string())));
    options.filter.as_ref().map(parse).transpose()
}
