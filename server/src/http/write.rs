//! What all writes share: a bounded body, a proposal, and `true`.

use std::time::Duration;

use api::Error;
use api::query::{Query, refuse_tenancy_headers};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use catalog::{Command, Response as Answered};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::limits::BODY_BYTES_MAX;
use serde::de::DeserializeOwned;

use super::read::{PathTail, plain_json};
use super::{Refusal, Reply, Shared};

/// Of a body that is too large so much more is read and dropped: who is still sending when the connection ends would not
/// hear why.
const DRAIN_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A write: its parameters, and a body that is not read yet.
pub(crate) struct Write {
    pub(crate) core: Shared,
    pub(crate) query: Query,
    pub(crate) path: PathTail,
    body: Body,
}

impl FromRequest<Shared> for Write {
    type Rejection = Refusal;

    async fn from_request(request: Request, core: &Shared) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        refuse_tenancy_headers(&head.headers)?;
        let query = Query::parse(head.uri.query().unwrap_or_default());
        // The shared options are checked for writes too: `ns`, `wait`…
        api::query::QueryOptions::parse(&query)?;
        Ok(Write { core: core.clone(), query, path: PathTail::new(head.uri.path()), body })
    }
}

impl Write {
    /// The whole body.
    ///
    /// # Errors
    /// 413 with Consul's text if it is longer than `max_bytes`.
    pub(crate) async fn take_body(&mut self, max_bytes: usize) -> Result<Bytes, Refusal> {
        let mut body = std::mem::take(&mut self.body);
        let announced = body.size_hint().exact();
        if let Some(len) = announced.filter(|len| *len > max_bytes as u64) {
            drain(body).await;
            return Err(Error::too_large(len, max_bytes).into());
        }
        match Limited::new(&mut body, max_bytes).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                drain(body).await;
                Err(Error::too_large(max_bytes as u64 + 1, max_bytes).into())
            }
            Err(error) => Err(Error::bad_request(format!("Request decode failed: {error}")).into()),
        }
    }

    /// The body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        let body = self.take_body(BODY_BYTES_MAX).await?;
        Ok(api::json::from_slice(&body).map_err(Error::from)?)
    }

    /// Whether the reply is to be indented.
    pub(crate) fn pretty(&self) -> bool {
        self.query.has("pretty")
    }

    /// Proposes a command. A refusal by the catalog is the caller's fault; Consul answers it with 500 all the same.
    /// (The body is not `Sync`, so the future must not borrow `self`.)
    pub(crate) fn propose<'c>(
        &self,
        command: &'c Command,
    ) -> impl Future<Output = Result<Answered, Refusal>> + Send + use<'c> {
        let core = self.core.clone();
        async move {
            match core.proposer.propose(command).await? {
                Answered::Refused(refusal) => {
                    Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string()).into())
                }
                answered @ (Answered::Done
                | Answered::CasFailed
                | Answered::LockFailed
                | Answered::Txn(_)
                | Answered::Synced { .. }
                | Answered::Outdated { .. }) => Ok(answered),
            }
        }
    }

    /// Proposes a command and answers `true`, or `false` if somebody was faster or holds the lock.
    pub(crate) async fn done(self, command: &Command) -> Reply {
        let answered = self.propose(command).await?;
        Ok(bool_json(!matches!(answered, Answered::CasFailed | Answered::LockFailed), self.pretty()))
    }
}

async fn drain(body: Body) {
    let mut rest = Limited::new(body, DRAIN_BYTES_MAX);
    let read = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Who sends still more, or slowly, is hung up on.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, read).await;
}

/// `true` or `false`.
pub(crate) fn bool_json(value: bool, pretty: bool) -> Response {
    plain_json(&value, pretty)
}
