//! `?dc=`: a request for another datacenter goes to a server there as it came, and the answer comes back as it is.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use api::transport::{ForwardError, forward};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http_body_util::{BodyExt, Limited};
use model::limits::BODY_BYTES_MAX;
use tokio::time::Instant;
use tower::Service;

use super::{Refusal, Shared};

/// Marks a request that another datacenter sent here: it must not travel on.
const FORWARDED: &str = "x-tribune-forwarded-from";

/// What `?dc=` asks of another datacenter goes there, the rest to what is inside. A service of its own and no `from_fn`, for a
/// poll that waits here should carry no more than it must.
#[derive(Clone)]
pub(super) struct ToDatacenter<S> {
    core: Shared,
    inner: S,
}

impl<S> ToDatacenter<S> {
    pub(super) fn new(core: Shared, inner: S) -> Self {
        ToDatacenter { core, inner }
    }
}

impl<S> Service<Request> for ToDatacenter<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match datacenter_of(request.uri()).filter(|name| *name != self.core.config.datacenter) {
            None => Either::Left(self.inner.call(request)),
            Some(datacenter) => {
                let core = self.core.clone();
                let sent = async move { send(&core, &datacenter, request).await };
                Either::Right(sent.map(|reply| Ok(reply.into_response())).boxed())
            }
        }
    }
}

/// Marks a request from a server that took this one for the leader: it must not go to a third.
const TO_LEADER: &str = "x-tribune-to-leader";

/// How long the leader may take to answer one of these requests.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What only the leader can do goes to the leader; an election is waited out. None of these requests has a body, and what is
/// put or deleted may be so twice.
pub(super) async fn to_leader(State(core): State<Shared>, request: Request, next: Next) -> Response {
    let (mut head, _) = request.into_parts();
    if head.headers.contains_key(TO_LEADER) {
        return next.run(Request::from_parts(head, Body::empty())).await;
    }
    let is_repeatable = matches!(head.method, Method::PUT | Method::DELETE);
    let deadline = Instant::now() + core.config.hold_timeout;
    loop {
        let failure = match core.raft.leader() {
            Some(leader) if leader.id == core.raft.id() => {
                return next.run(Request::from_parts(head, Body::empty())).await;
            }
            Some(leader) => {
                head.headers.insert(TO_LEADER, http::HeaderValue::from_static("1"));
                match send_to(&core, &leader.address, head.clone()).await {
                    Ok(response) => return response,
                    Err(ForwardError::Broken(reason)) if !is_repeatable => return unanswered(&reason),
                    Err(ForwardError::Broken(reason) | ForwardError::Unsent(reason)) => unanswered(&reason),
                }
            }
            None => Refusal(api::Error::no_leader()).into_response(),
        };
        if Instant::now() >= deadline {
            return failure;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn send_to(core: &Shared, address: &str, head: Parts) -> Result<Response, ForwardError> {
    let channel = core.peers.local(address).map_err(|error| ForwardError::Unsent(error.to_string()))?;
    let sent = forward(&channel, Request::from_parts(head, Body::empty()));
    match tokio::time::timeout(LEADER_TIMEOUT, sent).await {
        // Servers of a datacenter may call everything: the connection is still that of a joiner, and about to end (`rpc::dial`).
        Ok(Ok(response)) if response.status() == StatusCode::FORBIDDEN => {
            Err(ForwardError::Unsent("the leader does not take this server for a member yet".into()))
        }
        Ok(answer) => answer.map(|response| response.map(Body::new)),
        Err(_) => Err(ForwardError::Broken("the leader did not answer in time".into())),
    }
}

fn unanswered(reason: &str) -> Response {
    Refusal(api::Error::internal(format!("rpc error making call: {reason}"))).into_response()
}

/// The datacenter that is asked for, if one is. Most requests name none and must not pay for it.
fn datacenter_of(uri: &Uri) -> Option<String> {
    let query = uri.query().filter(|query| query.contains("dc=") || query.contains("datacenter="))?;
    api::query::Query::parse(query).datacenter().map(str::to_string)
}

async fn send(core: &Shared, datacenter: &str, request: Request) -> Result<Response, Refusal> {
    let servers = core.servers_of(datacenter);
    if servers.is_empty() || request.headers().contains_key(FORWARDED) {
        return Err(api::Error::no_path().into());
    }
    let (mut head, body) = request.into_parts();
    head.headers.insert(FORWARDED, http::HeaderValue::from_static("1"));
    api::near::name_agent(&mut head.uri, &core.config.node_name);
    // The body is kept, so that another server can be asked if the first one is gone.
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body: Bytes =
        body.map_err(|error| api::Error::bad_request(format!("Request decode failed: {error}")))?.to_bytes();
    let mut last = String::new();
    for address in servers {
        let Ok(channel) = core.peers.remote(datacenter, &address) else { continue };
        let request = http::Request::from_parts(head.clone(), Body::from(body.clone()));
        match forward(&channel, request).await {
            Ok(response) => return Ok(response.map(Body::new)),
            Err(ForwardError::Unsent(reason)) => last = reason,
            Err(error @ ForwardError::Broken(_)) => {
                return Err(api::Error::internal(format!("rpc error making call: {error}")).into());
            }
        }
    }
    tracing::debug!(datacenter, reason = last, "no server of the datacenter can be reached");
    Err(api::Error::internal(format!("rpc error making call: No path to datacenter: {last}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datacenter_is_found_among_the_parameters() {
        let of = |uri: &str| datacenter_of(&uri.parse().expect("URI"));
        assert_eq!(of("/v1/catalog/nodes?dc=dc2&pretty"), Some("dc2".into()));
        assert_eq!(of("/v1/catalog/nodes?dc=dc2&datacenter=dc3"), Some("dc3".into()));
        assert_eq!(of("/v1/catalog/nodes?dc="), None);
        assert_eq!(of("/v1/catalog/nodes?abcdc=x"), None);
        assert_eq!(of("/v1/catalog/nodes"), None);
    }
}
