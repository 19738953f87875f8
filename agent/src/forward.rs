//! What this agent cannot answer itself goes on to a server: as HTTP, streamed, and to a second server only if that is safe.

use crate::config::REPLAY_BYTES_MAX;
use crate::metrics::Metrics;
use crate::servers::Servers;
use api::transport::{ForwardError, forward};
use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http::header::CONTENT_LENGTH;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Most time until an answer begins: the longest blocking query with its jitter, and a little.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(660);
/// Most servers that are asked.
const ATTEMPTS_MAX: usize = 3;

/// Hands requests to servers. Clones are the same.
#[derive(Clone)]
pub(crate) struct Forwarder {
    /// This node's name.
    pub(crate) node: String,
    pub(crate) servers: Servers,
    pub(crate) metrics: Arc<Metrics>,
}

impl Forwarder {
    /// A server's answer, or Consul's words for there being none.
    pub(crate) async fn forward(&self, mut request: Request<Body>) -> Response {
        self.metrics.forwarded.add_one();
        api::near::name_agent(request.uri_mut(), &self.node);
        let answer =
            if fits_in_memory(&request) { self.replayable(request).await } else { self.streamed(request).await };
        answer.unwrap_or_else(|error| {
            self.metrics.forward_failures.add_one();
            error.into_response()
        })
    }

    /// A large body is sent once, as it comes.
    async fn streamed(&self, request: Request<Body>) -> Result<Response, api::Error> {
        let (_, channel) = self.servers.first().map_err(|_| api::Error::no_servers())?;
        match timeout(ANSWER_TIMEOUT, forward(&channel, request)).await {
            Ok(Ok(answer)) => Ok(answer.map(Body::new)),
            Ok(Err(error)) => Err(unanswered(&error.to_string())),
            Err(_) => Err(unanswered("no answer in time")),
        }
    }

    /// A small one is kept, so that it can be sent again: if nothing of it was sent, or if it only reads.
    async fn replayable(&self, request: Request<Body>) -> Result<Response, api::Error> {
        let (head, body) = request.into_parts();
        let reads = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let body = Limited::new(body, REPLAY_BYTES_MAX).collect().await;
        let body: Bytes =
            body.map_err(|e| api::Error::bad_request(format!("cannot read the request: {e}")))?.to_bytes();
        let mut last = api::Error::no_servers();
        for address in self.servers.candidates().into_iter().take(ATTEMPTS_MAX) {
            let Ok(channel) = self.servers.channel(&address) else { continue };
            let request = Request::from_parts(head.clone(), Full::new(body.clone()));
            match timeout(ANSWER_TIMEOUT, forward(&channel, request)).await {
                Ok(Ok(answer)) => return Ok(answer.map(Body::new)),
                Ok(Err(error)) => {
                    tracing::debug!(server = address, %error, "a request was not answered");
                    last = unanswered(&error.to_string());
                    if matches!(error, ForwardError::Broken(_)) && !reads {
                        break;
                    }
                }
                Err(_) => return Err(unanswered("no answer in time")),
            }
        }
        Err(last)
    }
}

fn fits_in_memory(request: &Request<Body>) -> bool {
    let length =
        request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    match length {
        Some(length) => length <= REPLAY_BYTES_MAX,
        None => request.body().is_end_stream(),
    }
}

fn unanswered(reason: &str) -> api::Error {
    api::Error::internal(format!("rpc error making call: {reason}"))
}
