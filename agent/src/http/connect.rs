//! Certificates and decisions for applications that speak the mesh's protocol themselves.

use super::{Answer, Failure, Params};
use crate::agent::Agent;
use api::Error;
use api::agent::AuthorizeRequest;
use api::client::segment;
use api::json::from_slice;
use api::reply::{Allowed, Authorized};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use http::{HeaderValue, Method, Uri};
use model::SpiffeId;
use model::spiffe::Subject;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a waiting request looks whether its leaf has been renewed.
const LEAF_LOOK: Duration = Duration::from_secs(1);

/// The servers' answer, blocking as they do.
pub(super) async fn roots(State(agent): State<Agent>, mut request: Request) -> Answer {
    let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
    *request.uri_mut() =
        format!("/v1/connect/ca/roots{query}").parse::<Uri>().map_err(|e| Error::bad_request(e.to_string()))?;
    Ok(agent.inner.forwarder.forward(request.map(Body::new)).await)
}

/// The leaf of a service of this node. Its index grows when it is renewed.
pub(super) async fn leaf(State(agent): State<Agent>, Path(service): Path<String>, params: Params) -> Answer {
    let options = params.options()?;
    let deadline = Instant::now() + options.wait;
    let mut leaf = agent.inner.leaves.get(&service).await?;
    while leaf.modify_index <= options.index && Instant::now() < deadline {
        sleep(LEAF_LOOK.min(deadline - Instant::now())).await;
        leaf = agent.inner.leaves.get(&service).await?;
    }
    let mut response = params.json(&*leaf);
    response.headers_mut().insert("X-Consul-Index", HeaderValue::from(leaf.modify_index));
    Ok(response)
}

/// Whether the holder of a certificate may call a service.
pub(super) async fn authorize(State(agent): State<Agent>, params: Params, body: Bytes) -> Answer {
    let request: AuthorizeRequest = from_slice(&body)?;
    if request.target.is_empty() {
        return Err(Failure(Error::bad_request("Target service must be specified")));
    }
    let invalid =
        |why: &str| Failure(Error::bad_request(format!("ClientCertURI not a valid Service identifier: {why}")));
    let id: SpiffeId =
        request.client_cert_uri.parse().map_err(|e: model::spiffe::InvalidSpiffeId| invalid(&e.to_string()))?;
    let Subject::Service { service: source, .. } = &id.subject else { return Err(invalid("it is no service's")) };
    if id.trust_domain != agent.inner.identity.bundle().trust_domain() {
        let reason = format!("Identity from an external trust domain: {}", id.trust_domain);
        return Ok(params.json(&Authorized { authorized: false, reason }));
    }
    let path =
        format!("/v1/connect/intentions/check?source={}&destination={}", segment(source), segment(&request.target));
    let Allowed { allowed } = agent.inner.servers.ask(Method::GET, &path, Vec::new()).await?;
    let word = if allowed { "ALLOW" } else { "DENY" };
    let reason = format!("Matched intention: {word} default/{source} => default/{}", request.target);
    Ok(params.json(&Authorized { authorized: allowed, reason }))
}
