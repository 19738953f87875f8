//! `/v1/*` as Consul answers it, but for `/v1/agent/*`, which each node answers itself.
//!
//! One file per family. A handler parses its parameters, says which query to run, and which reply to make of it; `read` knows
//! of consistency, blocking and headers, `write` of bodies and proposals, `forward` of other datacenters.

mod catalog;
mod config;
mod connect;
mod coordinate;
mod filter;
mod forward;
mod health;
mod intentions;
mod kv;
mod near;
mod operator;
pub(crate) mod read;
mod serve;
mod session;
mod status;
mod txn;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};
use tower::layer::layer_fn;

pub(crate) use config::parse_entry;
use forward::ToDatacenter;
pub use serve::{HttpLimits, serve_http, serve_https};

use crate::core::Core;

/// What handlers get.
pub(crate) type Shared = Arc<Core>;

/// A refusal on its way to the client.
pub(crate) struct Refusal(pub(crate) api::Error);

impl From<api::Error> for Refusal {
    fn from(error: api::Error) -> Self {
        Refusal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

/// What handlers answer.
pub(crate) type Reply = Result<Response, Refusal>;

/// All paths of this crate.
pub(crate) fn router(core: Shared) -> Router {
    let routes = Router::new()
        .merge(catalog_and_health())
        .merge(without_name())
        .merge(kv_and_config())
        .merge(sessions(&core))
        .merge(connect_routes())
        .merge(operations(&core))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_path);
    let outside = core.clone();
    routes.layer(layer_fn(move |inner| ToDatacenter::new(outside.clone(), inner))).with_state(core)
}

fn catalog_and_health() -> Router<Shared> {
    Router::new()
        .route("/v1/catalog/register", put(catalog::register))
        .route("/v1/catalog/deregister", put(catalog::deregister))
        .route("/v1/catalog/datacenters", get(catalog::datacenters))
        .route("/v1/catalog/nodes", get(catalog::nodes))
        .route("/v1/catalog/services", get(catalog::services))
        .route("/v1/catalog/service/{*name}", get(catalog::service))
        .route("/v1/catalog/connect/{*name}", get(catalog::connect))
        .route("/v1/catalog/node/{*name}", get(catalog::node))
        .route("/v1/catalog/node-services/{*name}", get(catalog::node_services))
        .route("/v1/catalog/gateway-services/{*name}", get(catalog::gateway_services))
        .route("/v1/health/node/{*name}", get(health::node))
        .route("/v1/health/checks/{*name}", get(health::checks))
        .route("/v1/health/state/{*state}", get(health::state))
        .route("/v1/health/service/{*name}", get(health::service))
        .route("/v1/health/connect/{*name}", get(health::connect))
        .route("/v1/health/ingress/{*name}", get(health::ingress))
}

/// Paths whose last part is missing. (Consul answers each with 400.)
fn without_name() -> Router<Shared> {
    let missing = |what: &'static str| get(async move || Refusal(api::Error::bad_request(format!("Missing {what}"))));
    let paths = [
        ("/v1/catalog/service/", "service name"),
        ("/v1/catalog/connect/", "service name"),
        ("/v1/catalog/node/", "node name"),
        ("/v1/catalog/node-services/", "node name"),
        ("/v1/catalog/gateway-services/", "gateway name"),
        ("/v1/health/node/", "node name"),
        ("/v1/health/checks/", "service name"),
        ("/v1/health/state/", "check state"),
        ("/v1/health/service/", "service name"),
        ("/v1/health/connect/", "service name"),
        ("/v1/health/ingress/", "service name"),
        ("/v1/session/info/", "session"),
        ("/v1/session/node/", "node name"),
    ];
    paths.into_iter().fold(Router::new(), |router, (path, what)| router.route(path, missing(what)))
}

fn kv_and_config() -> Router<Shared> {
    Router::new()
        .route("/v1/kv", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/v1/kv/", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/v1/kv/{*key}", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/v1/txn", put(txn::run))
        .route("/v1/config", put(config::apply))
        .route("/v1/config/{kind}", get(config::all))
        .route("/v1/config/{kind}/{name}", get(config::one).delete(config::delete))
}

fn sessions(core: &Shared) -> Router<Shared> {
    let leaders = Router::new()
        .route("/v1/session/renew/", put(session::renew))
        .route("/v1/session/renew/{*id}", put(session::renew))
        .route_layer(middleware::from_fn_with_state(core.clone(), forward::to_leader));
    leaders
        .route("/v1/session/create", put(session::create))
        .route("/v1/session/destroy/", put(session::destroy))
        .route("/v1/session/destroy/{*id}", put(session::destroy))
        .route("/v1/session/info/{*id}", get(session::info))
        .route("/v1/session/node/{*name}", get(session::of_node))
        .route("/v1/session/list", get(session::all))
}

fn connect_routes() -> Router<Shared> {
    Router::new()
        .route("/v1/connect/ca/roots", get(connect::roots))
        .route("/v1/connect/ca/configuration", get(connect::configuration).put(connect::configure))
        .route("/v1/connect/intentions", get(intentions::all).post(intentions::create))
        .route(
            "/v1/connect/intentions/exact",
            get(intentions::exact).put(intentions::put_exact).delete(intentions::delete_exact),
        )
        .route("/v1/connect/intentions/check", get(intentions::check))
        .route("/v1/connect/intentions/match", get(intentions::matching))
        .route(
            "/v1/connect/intentions/{id}",
            get(intentions::by_id).put(intentions::put_by_id).delete(intentions::delete_by_id),
        )
}

fn operations(core: &Shared) -> Router<Shared> {
    let leaders = Router::new()
        .route("/v1/operator/raft/transfer-leader", post(operator::transfer_leader))
        .route("/v1/operator/raft/peer", delete(operator::remove_peer))
        .route_layer(middleware::from_fn_with_state(core.clone(), forward::to_leader));
    leaders
        .route("/v1/status/leader", get(status::leader))
        .route("/v1/status/peers", get(status::peers))
        .route("/v1/operator/raft/configuration", get(operator::configuration))
        .route("/v1/operator/state-hash", get(operator::state_hash))
        .route("/v1/operator/autopilot/health", get(operator::autopilot_health))
        .route("/v1/coordinate/datacenters", get(coordinate::datacenters))
        .route("/v1/coordinate/nodes", get(coordinate::nodes))
        .route("/v1/coordinate/node/{name}", get(coordinate::node))
        .route("/v1/acl/{*rest}", any(acl_is_off))
}

/// 405 as Consul words it; axum adds `Allow`. `OPTIONS` is answered with `Allow` alone.
async fn method_not_allowed(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::OK.into_response();
    }
    Refusal(api::Error::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))).into_response()
}

async fn unknown_path(request: Request) -> Refusal {
    Refusal(api::Error::unknown_path(request.uri().path()))
}

/// (Consul: `acl.ErrDisabled`.)
async fn acl_is_off() -> Refusal {
    Refusal(api::Error::new(StatusCode::UNAUTHORIZED, "ACL support disabled"))
}
