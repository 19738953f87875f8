//! HTTP proxying: a request goes on as it came, and the answer comes back as a stream.

use super::{Body, Channel, ConnectError};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri, Version};
use std::error::Error as StdError;
use tonic::codegen::{Body as HttpBody, Service, StdError as BoxError};

/// The other node did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No part of the request reached it. Asking another node is safe.
    #[error("{0}")]
    Unsent(String),
    /// It may have been carried out. Only what may be done twice may be retried.
    #[error("the connection broke before the answer came: {0}")]
    Broken(String),
}

/// Sends a request over a channel and returns the answer, whose body (with gRPC's trailers) is streamed.
///
/// The path, the query, the method, the body and the end-to-end headers go on unchanged. There is no deadline.
pub async fn forward<B>(channel: &Channel, request: Request<B>) -> Result<Response<Body>, ForwardError>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut channel = channel.clone();
    let ready = std::future::poll_fn(|cx| channel.poll_ready(cx)).await;
    ready.map_err(|e| ForwardError::Unsent(innermost(&e)))?;
    let answer = channel.call(over_http2(request)).await;
    answer.map_err(|e| {
        if is_unsent(&e) { ForwardError::Unsent(innermost(&e)) } else { ForwardError::Broken(innermost(&e)) }
    })
}

/// Whether an error of a channel says that no part of the request was sent, so that another server may be asked.
/// Takes a `tonic::transport::Error`, a `tonic::Status`, or anything that wraps one.
pub fn is_unsent(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectError>() || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The request as HTTP/2 carries it; the channel puts in scheme and authority.
fn over_http2<B>(request: Request<B>) -> Request<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    head.version = Version::HTTP_2;
    strip_hop_headers(&mut head.headers);
    Request::from_parts(head, Body::new(body))
}

/// Removes what concerns one connection only (RFC 9110 §7.6.1).
fn strip_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

/// The cause at the bottom: the outer ones say only "transport error".
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    let mut text = error.to_string();
    while let Some(cause) = error.source() {
        error = cause;
        if error.is::<ConnectError>() {
            return error.to_string();
        }
        text = error.to_string();
    }
    text
}
