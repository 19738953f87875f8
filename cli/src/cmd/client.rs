//! How verbs talk to an agent: its HTTP API, through the client library, in JSON as it comes.

use super::Failure;
use api::client::{Address, Client, RawReply, segment};
use bytes::Bytes;
use clap::Args;
use hyper::{Method, StatusCode};
use model::Index;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use api::client::ClientError;

/// Longest wait for an answer that does not block.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a blocking query may wait at the agent; the rest is its jitter and the network.
const WAIT: Duration = Duration::from_secs(300);

/// Which agent to ask, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The agent to ask")]
pub(crate) struct ClientArgs {
    /// Address of the agent's HTTP API [CONSUL_HTTP_ADDR, or 127.0.0.1:8500].
    #[arg(long)]
    http_addr: Option<String>,
    /// Another datacenter.
    #[arg(long)]
    datacenter: Option<String>,
    /// Any server may answer, even one that is behind.
    #[arg(long)]
    stale: bool,
    /// Token for access control.
    #[arg(long, env = "CONSUL_HTTP_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// An agent's HTTP API.
#[derive(Clone)]
pub(crate) struct Agent {
    client: Client,
    /// What every request says: the datacenter, the consistency.
    suffix: String,
}

/// An answer of a blocking query.
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) index: Index,
}

impl Agent {
    /// The agent that the arguments name.
    pub(crate) fn connect(args: &ClientArgs) -> Result<Agent, Failure> {
        let address = match &args.http_addr {
            Some(text) => text.parse(),
            None => Address::from_env(),
        };
        let mut client = Client::new(address.map_err(|e| Failure::Other(e.to_string()))?, None);
        if let Some(token) = &args.token {
            client = client.with_token(token)?;
        }
        let datacenter = args.datacenter.as_ref().map(|name| format!("&dc={}", segment(name)));
        let stale = args.stale.then(|| "&stale".to_string());
        Ok(Agent { client, suffix: datacenter.into_iter().chain(stale).collect() })
    }

    /// The agent at an address.
    pub(crate) fn at(address: SocketAddr) -> Agent {
        Agent { client: Client::new(Address::Http(address.to_string()), None), suffix: String::new() }
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        json(path, &self.send(Method::GET, path, Vec::new(), TIMEOUT).await?.successful()?)
    }

    /// Reads; nothing there is `None`.
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>, ClientError> {
        let reply = self.send(Method::GET, path, Vec::new(), TIMEOUT).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        json(path, &reply.successful()?).map(Some)
    }

    /// Writes; answers what came back, `null` if nothing did.
    pub(crate) async fn put(&self, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        json(path, &self.send(Method::PUT, path, body, TIMEOUT).await?.successful()?)
    }

    /// As [`Agent::put`].
    pub(super) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        json(path, &self.send(Method::POST, path, body, TIMEOUT).await?.successful()?)
    }

    /// Removes.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        json(path, &self.send(Method::DELETE, path, Vec::new(), TIMEOUT).await?.successful()?)
    }

    /// Waits until an answer is newer than `index` (0: at once). Nothing there is `null`.
    pub(super) async fn wait(&self, path: &str, index: Index) -> Result<Answer, ClientError> {
        let path = format!("{path}{}index={index}&wait={}s", joint(path), WAIT.as_secs());
        let path = if index == 0 { path.replace("index=0&", "") } else { path };
        let reply = self.send(Method::GET, &path, Vec::new(), WAIT + TIMEOUT).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(Answer { body: Bytes::from_static(b"null"), index: reply.index });
        }
        let reply = reply.successful()?;
        Ok(Answer { body: reply.body, index: reply.index })
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>, limit: Duration) -> Result<RawReply, ClientError> {
        let path = match self.suffix.strip_prefix('&') {
            Some(suffix) => format!("{path}{}{suffix}", joint(path)),
            None => path.to_string(),
        };
        self.client.send(method, &path, Bytes::from(body), limit).await
    }
}

fn joint(path: &str) -> char {
    if path.contains('?') { '&' } else { '?' }
}

fn json(path: &str, reply: &RawReply) -> Result<Value, ClientError> {
    if reply.body.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    reply.json(path).map(|reply| reply.value)
}

/// A name as one segment of a path, or a value in a query.
pub(super) fn escape(text: &str) -> String {
    segment(text)
}

/// A key, whose slashes stay.
pub(super) fn escape_path(key: &str) -> String {
    key.split('/').map(segment).collect::<Vec<_>>().join("/")
}
