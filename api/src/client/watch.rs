//! Following an answer with blocking queries.

use super::{Client, ClientError, Reply};
use bytes::Bytes;
use http::Method;
use model::Index;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long one query waits at the agent.
const WAIT: Duration = Duration::from_secs(300);
/// How much longer than that an answer may take: the agent's jitter and the network.
const GRACE: Duration = Duration::from_secs(60);

/// An answer that is followed: the first at once, then each that differs in its index.
///
/// It obeys Consul's rules for clients: an index that runs backwards, or is 0, starts again.
pub struct Watch {
    client: Client,
    path: String,
    index: Index,
}

impl Watch {
    /// Follows a path. `path` has the query, without `index` and `wait`, and is encoded.
    pub fn new(client: Client, path: &str) -> Self {
        Watch { client, path: path.to_string(), index: 0 }
    }

    /// The next answer. Waits as long as it takes; after an error the same question can be asked again.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Reply<T>, ClientError> {
        loop {
            let raw = self.client.send(Method::GET, &self.query(), Bytes::new(), WAIT + GRACE).await?.successful()?;
            let changed = self.index == 0 || raw.index != self.index;
            self.index = if raw.index < self.index { 0 } else { raw.index };
            if changed {
                return raw.json(&self.path);
            }
        }
    }

    fn query(&self) -> String {
        if self.index == 0 {
            return self.path.clone();
        }
        let joint = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{joint}index={}&wait={}s", self.path, self.index, WAIT.as_secs())
    }
}
