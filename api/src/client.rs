//! The client library: an agent's HTTP API for the CLI's verbs, tests and others.
//!
//! [`Client`] has one method for each thing that the CLI does; [`Client::get`], [`Client::put`] and [`Client::delete`] do the
//! rest. [`Watch`] follows an answer with blocking queries.

mod address;
mod kv;
mod rows;
#[cfg(test)]
mod tests;
mod verbs;
mod watch;

pub use address::{Address, InvalidClientAddress};
pub use kv::{KvPut, KvValue};
pub use rows::CatalogServiceRow;
pub use watch::Watch;

use crate::transport::ConnectError;
use address::Connector;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::Index;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most time for an answer that does not block.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What a path segment or a query value may carry as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What goes wrong with a request to an agent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent there. Nothing was sent.
    #[error("cannot reach the agent: {0}; is it running, and is -http-addr (CONSUL_HTTP_ADDR) right?")]
    Unreachable(String),
    /// The connection broke, or took too long. The request may have been carried out.
    #[error("no answer from the agent at {address}: {reason}")]
    Broken {
        /// Which agent.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The agent refused.
    #[error("{text} (status {})", status.as_u16())]
    Refused {
        /// The status.
        status: StatusCode,
        /// The agent's words.
        text: String,
    },
    /// The answer is not what it should be.
    #[error("the agent's answer to {path} cannot be read: {reason}; is it a Tribune or Consul agent?")]
    Malformed {
        /// The request.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The request cannot be written: a name or token with characters that HTTP does not carry. Nothing was sent.
    #[error("the request cannot be sent: {0}")]
    Invalid(String),
}

/// An answer and the index that it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<T> {
    /// The answer.
    pub value: T,
    /// `X-Consul-Index`; 0 if the agent sent none.
    pub index: Index,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct RawReply {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// `X-Consul-Index`; 0 if the agent sent none.
    pub index: Index,
}

/// A client of one agent. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    address: Arc<Address>,
    token: Option<HeaderValue>,
}

impl Client {
    /// A client of the agent at an address. An `https` address needs `tls`.
    pub fn new(address: Address, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let address = Arc::new(address);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(8)
            .build(Connector { address: address.clone(), tls });
        Client { http, address, token: None }
    }

    /// Sends this ACL token with each request. (`X-Consul-Token`; the CLI's `-token`.)
    pub fn with_token(mut self, token: &str) -> Result<Self, ClientError> {
        self.token = Some(HeaderValue::from_str(token).map_err(|e| ClientError::Invalid(format!("the token: {e}")))?);
        Ok(self)
    }

    /// Where the agent is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Reads JSON. `path` has the query and is encoded (see [`segment`]).
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, ClientError> {
        let raw = self.send(Method::GET, path, Bytes::new(), TIMEOUT).await?.successful()?;
        raw.json(path)
    }

    /// As [`Client::get`], but `None` where the answer is 404.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<Reply<T>>, ClientError> {
        let raw = self.send(Method::GET, path, Bytes::new(), TIMEOUT).await?;
        if raw.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        raw.successful()?.json(path).map(Some)
    }

    /// Sends JSON; what comes back is ignored but for a refusal.
    pub async fn put<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<RawReply, ClientError> {
        self.send(Method::PUT, path, crate::json::to_bytes(body, false), TIMEOUT).await?.successful()
    }

    /// Sends nothing: the path says it all.
    pub async fn put_empty(&self, path: &str) -> Result<RawReply, ClientError> {
        self.send(Method::PUT, path, Bytes::new(), TIMEOUT).await?.successful()
    }

    /// Removes something.
    pub async fn delete(&self, path: &str) -> Result<RawReply, ClientError> {
        self.send(Method::DELETE, path, Bytes::new(), TIMEOUT).await?.successful()
    }

    /// Any request; any status.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<RawReply, ClientError> {
        let request = self.request(method, path, body)?;
        match tokio::time::timeout(timeout, self.exchange(request, path)).await {
            Ok(done) => done,
            Err(_) => Err(self.broken(format!("nothing within {timeout:?}"))),
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let invalid = |e: &dyn std::fmt::Display| ClientError::Invalid(format!("{path:?}: {e}"));
        let uri: Uri = format!("http://{}{path}", self.address.authority()).parse().map_err(|e| invalid(&e))?;
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(HeaderName::from_static("x-consul-token"), token);
        }
        request.body(Full::new(body)).map_err(|e| invalid(&e))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, path: &str) -> Result<RawReply, ClientError> {
        let answer = self.http.request(request).await.map_err(|e| self.failed(&e))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| self.broken(format!("{path}: {e}")))?.to_bytes();
        let index = head.headers.get("x-consul-index").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        Ok(RawReply { status: head.status, body, index: index.unwrap_or(0) })
    }

    fn failed(&self, error: &legacy::Error) -> ClientError {
        let mut cause = std::error::Error::source(error);
        let mut reason = error.to_string();
        while let Some(inner) = cause {
            reason = inner.to_string();
            if inner.is::<ConnectError>() {
                return ClientError::Unreachable(reason);
            }
            cause = inner.source();
        }
        self.broken(reason)
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken { address: self.address.to_string(), reason }
    }
}

impl RawReply {
    /// Itself, or the agent's refusal.
    pub fn successful(self) -> Result<Self, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body).trim().to_string();
        let text = if text.is_empty() { self.status.canonical_reason().unwrap_or("refused").to_string() } else { text };
        Err(ClientError::Refused { status: self.status, text })
    }

    /// The body as JSON. `path` is for the error.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, ClientError> {
        let malformed = |e: serde_json::Error| ClientError::Malformed { path: path.to_string(), reason: e.to_string() };
        Ok(Reply { value: serde_json::from_slice(&self.body).map_err(malformed)?, index: self.index })
    }
}

/// A name as a segment of a path, or as a value in a query.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, PLAIN).to_string()
}
