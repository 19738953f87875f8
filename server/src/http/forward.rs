//! `?dc=`: a request for another datacenter goes to a server there as it came, and the answer comes back as it is.

use std::convert::Infallible;
use std::task::{Context, Poll};

use api::transport::{ForwardError, forward};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http_body_util::{BodyExt, Limited};
use model::limits::BODY_BYTES_MAX;
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

/// What only the leader can do goes to the leader.
pub(super) async fn to_leader(State(core): State<Shared>, request: Request, next: Next) -> Response {
    let leader = core.raft.leader().filter(|leader| leader.id != core.raft.id());
    let Some(leader) = leader.filter(|_| !request.headers().contains_key(FORWARDED)) else {
        return next.run(request).await;
    };
    let sent = match core.peers.local(&leader.address) {
        Ok(channel) => forward(&channel, mark(request)).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match sent {
        Ok(response) => response.map(Body::new),
        Err(reason) => Refusal(api::Error::internal(format!("rpc error making call: {reason}"))).into_response(),
    }
}

fn mark(mut request: Request) -> Request {
    request.headers_mut().insert(FORWARDED, http::HeaderValue::from_static("1"));
    request
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
