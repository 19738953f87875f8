//! Which servers there are, and which one this agent speaks to.

use crate::config::Home;
use crate::error::ServerError;
use api::proto::ServerInfo;
use api::transport::{Channel, Pool};
use arc_swap::ArcSwap;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use rand::seq::SliceRandom;
use serde::de::DeserializeOwned;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Most time for an answer to a question of the agent's own.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Most addresses of the operator's.
const GIVEN_MAX: usize = 64;

/// The servers that this agent knows. Clones are the same. All traffic goes to the one that has the session, while it answers.
#[derive(Clone)]
pub struct Servers {
    inner: Arc<Inner>,
}

/// Follows which server has the session.
pub(crate) type Moves = watch::Receiver<Option<Arc<String>>>;

struct Inner {
    pool: Pool,
    /// The operator's addresses: the last resort.
    given: RwLock<Vec<String>>,
    /// This node is a server: it speaks to itself alone.
    is_own: bool,
    known: ArcSwap<Vec<ServerInfo>>,
    current: watch::Sender<Option<Arc<String>>>,
}

impl Servers {
    /// Servers reached through `pool`; `home` is what the operator says, `known` what was kept.
    pub fn new(pool: Pool, home: &Home, known: Vec<ServerInfo>) -> Self {
        let known = ArcSwap::from_pointee(known);
        let (given, is_own) = match home {
            Home::Own(address) => (vec![address.clone()], true),
            Home::Join(addresses) => (addresses.clone(), false),
        };
        Servers {
            inner: Arc::new(Inner {
                pool,
                given: RwLock::new(given),
                is_own,
                known,
                current: watch::Sender::new(None),
            }),
        }
    }

    /// All that are known, those of other datacenters too.
    pub fn known(&self) -> Arc<Vec<ServerInfo>> {
        self.inner.known.load_full()
    }

    /// A server's word on which servers there are. An empty list is no news.
    pub fn learn(&self, servers: Vec<ServerInfo>) {
        if servers.is_empty() {
            return;
        }
        let given = self.given();
        let keep =
            |address: &str| servers.iter().any(|s| s.rpc_address == address) || given.iter().any(|g| g == address);
        self.inner.pool.retain(keep);
        self.inner.known.store(Arc::new(servers));
    }

    /// The one that has the session.
    pub fn current(&self) -> Option<Arc<String>> {
        self.inner.current.borrow().clone()
    }

    /// Follows which one has the session.
    pub(crate) fn moves(&self) -> Moves {
        self.inner.current.subscribe()
    }

    /// From now on this one is asked first.
    pub fn prefer(&self, address: &str) {
        self.inner.current.send_replace(Some(Arc::new(address.to_string())));
    }

    /// This one did not answer: it is no longer asked first.
    pub fn avoid(&self, address: &str) {
        if self.current().is_some_and(|current| *current == address) {
            self.inner.current.send_replace(None);
        }
    }

    /// One more of the operator's addresses.
    pub fn add(&self, address: &str) {
        let mut given = self.inner.given.write().unwrap_or_else(PoisonError::into_inner);
        if given.len() < GIVEN_MAX && !given.iter().any(|g| g == address) {
            given.push(address.to_string());
        }
    }

    fn given(&self) -> Vec<String> {
        self.inner.given.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whom to ask, in this order: the one with the session, the others of this datacenter in random order, the operator's.
    pub fn candidates(&self) -> Vec<String> {
        if self.inner.is_own {
            return self.given();
        }
        let current = self.current();
        let mut others: Vec<String> = self.known().iter().filter(|s| !s.wan).map(|s| s.rpc_address.clone()).collect();
        others.shuffle(&mut rand::rng());
        let mut given = self.given();
        given.shuffle(&mut rand::rng());
        let mut all: Vec<String> = Vec::with_capacity(others.len() + given.len() + 1);
        for address in current.iter().map(|c| c.to_string()).chain(others).chain(given) {
            if !address.is_empty() && !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// The channel to a server.
    pub fn channel(&self, address: &str) -> Result<Channel, ServerError> {
        self.inner.pool.channel(address).map_err(|e| ServerError::NoServer(e.to_string()))
    }

    /// The first to ask, with its channel.
    pub fn first(&self) -> Result<(String, Channel), ServerError> {
        let address = match self.current() {
            Some(current) => current.to_string(),
            None => self
                .candidates()
                .into_iter()
                .next()
                .ok_or_else(|| ServerError::NoServer("none is known".to_string()))?,
        };
        let channel = self.channel(&address)?;
        Ok((address, channel))
    }

    /// Asks a server for JSON by HTTP: the agent's own questions. A refusal comes back as it was worded.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T, api::Error> {
        let body: bytes::Bytes = body.into();
        let request = || Request::builder().method(method.clone()).uri(path).body(Full::new(body.clone()));
        let unanswered = |reason: String| api::Error::internal(format!("rpc error making call: {reason}"));
        let mut last = api::Error::no_servers();
        for address in self.candidates().into_iter().take(3) {
            let channel = self.channel(&address).map_err(|e| unanswered(e.to_string()))?;
            let request = request().map_err(|e| unanswered(e.to_string()))?;
            match tokio::time::timeout(ASK_TIMEOUT, api::transport::forward(&channel, request)).await {
                Ok(Ok(answer)) => return read(answer).await,
                Ok(Err(error @ api::transport::ForwardError::Unsent(_))) => last = unanswered(error.to_string()),
                Ok(Err(error)) => return Err(unanswered(error.to_string())),
                Err(_) => return Err(unanswered(format!("{address} did not answer within {ASK_TIMEOUT:?}"))),
            }
        }
        Err(last)
    }
}

async fn read<T: DeserializeOwned>(answer: http::Response<api::transport::Body>) -> Result<T, api::Error> {
    let (head, body) = answer.into_parts();
    let unreadable = |reason: String| api::Error::internal(format!("rpc error making call: {reason}"));
    let body = tokio::time::timeout(ASK_TIMEOUT, Limited::new(body, api::transport::MESSAGE_BYTES_MAX).collect()).await;
    let body = body.map_err(|_| unreadable("the answer stopped".to_string()))?;
    let body = body.map_err(|e| unreadable(e.to_string()))?.to_bytes();
    if !head.status.is_success() {
        return Err(api::Error::new(head.status, String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body).map_err(|e| unreadable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pki;

    fn server(address: &str, wan: bool) -> ServerInfo {
        ServerInfo { rpc_address: address.into(), wan, ..ServerInfo::default() }
    }

    fn servers(given: &[&str]) -> Servers {
        let pki = Pki::new();
        let pool = Pool::new(pki.agent_client(), "server.dc1.consul");
        Servers::new(pool, &Home::Join(given.iter().map(|g| (*g).to_string()).collect()), Vec::new())
    }

    #[tokio::test]
    async fn the_one_with_the_session_comes_first_and_the_operators_last() {
        let servers = servers(&["a:1", "b:1"]);
        servers.learn(vec![server("c:1", false), server("b:1", false), server("w:1", true)]);
        servers.prefer("b:1");
        for _ in 0..20 {
            assert_eq!(servers.candidates(), ["b:1", "c:1", "a:1"]);
        }
        servers.avoid("c:1");
        assert_eq!(servers.first().expect("one").0, "b:1");
        servers.avoid("b:1");
        assert!(servers.current().is_none());
        assert_eq!(servers.candidates().len(), 3);
    }

    #[test]
    fn an_empty_list_is_no_news() {
        let servers = servers(&[]);
        assert!(servers.first().is_err());
        servers.learn(vec![server("c:1", false)]);
        servers.learn(Vec::new());
        assert_eq!(servers.candidates(), ["c:1"]);
    }
}
