//! The application's side of a sidecar: one listener for each upstream, plain TCP on the loopback.

use crate::Error;
use crate::body::Exchange;
use crate::http::{Client, serve};
use crate::limits::{ATTEMPTS_MAX, CONNECTIONS_MAX};
use crate::listen::{Listening, break_off};
use crate::live::{Connection, Live, Verdict};
use crate::metrics::{Event, ListenerSnapshot};
use crate::pipe::pipe;
use crate::stream::Stream;
use crate::upstream::{Plan, Speak, Upstream};
use api::transport::net::{self, TcpStream};
use identity::Identity;
use model::proxy_config::UpstreamConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A listener for one upstream.
pub(crate) struct Outbound {
    pub(crate) listening: Listening,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Arc<Upstream>,
    live: Arc<Live>,
    identity: Identity,
    drain: CancellationToken,
}

impl Outbound {
    /// Listens.
    pub(crate) fn start(
        name: &str,
        config: &UpstreamConfig,
        identity: &Identity,
        drain: &CancellationToken,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            upstream: Upstream::new(Plan::mesh(name, config, identity)?),
            live: Arc::default(),
            identity: identity.clone(),
            drain: drain.clone(),
        });
        let taker = shared.clone();
        let what = format!("upstream {name:?}");
        let listening = Listening::start(&what, &config.listen, drain, move |tcp| taker.take(tcp))?;
        Ok(Outbound { listening, shared })
    }

    /// Goes by another configuration from now on. When trust has changed, connections to those who lost it are cut.
    pub(crate) fn update(&self, name: &str, config: &UpstreamConfig, trust_changed: bool) -> Result<(), Error> {
        let shared = &self.shared;
        let plan = Plan::mesh(name, config, &shared.identity)?;
        // An HTTP client's connection is not tied to one peer: when one of them is distrusted, all clients begin anew.
        if trust_changed && plan.protocol.is_http() && shared.upstream.has_distrusted(&shared.identity) {
            shared.live.cut();
        }
        shared.upstream.update(plan, trust_changed);
        if trust_changed {
            shared.live.judge(&shared.upstream.counters, |peer| {
                if peer.is_trusted(&shared.identity, false) { Verdict::Allow } else { Verdict::Distrust }
            });
        }
        Ok(())
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        self.shared.live.clone()
    }

    pub(crate) fn sweep(&self) {
        self.shared.upstream.sweep();
    }

    pub(crate) fn snapshot(&self) -> ListenerSnapshot {
        self.shared.upstream.counters.snapshot(self.shared.live.len())
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.listening.stop();
        self.shared.live.close();
    }
}

impl Shared {
    /// Takes a connection, unless there are too many.
    fn take(self: &Arc<Self>, tcp: TcpStream) {
        if self.live.admits(&self.upstream.counters, CONNECTIONS_MAX) {
            let shared = self.clone();
            self.live.spawn(|connection| shared.run(tcp, connection));
        }
    }

    /// One connection of the application, to its end.
    async fn run(self: Arc<Self>, mut tcp: TcpStream, connection: Arc<Connection>) {
        connection.allow(true);
        if !self.upstream.plan().protocol.is_http() {
            return self.run_bytes(tcp, connection).await;
        }
        connection.close_when_idle();
        let Ok(is_http2) = Box::pin(is_http2(&mut tcp)).await else {
            return;
        };
        let client = Client { upstream: self.upstream.clone(), live: self.live.clone(), connection, caller: None };
        // Boxed, so that connections that only pass bytes do not pay for it.
        Box::pin(serve(tcp, is_http2, client, self.drain.clone())).await;
    }

    async fn run_bytes(&self, mut app: TcpStream, connection: Arc<Connection>) {
        let trusted_by = self.identity.bundle();
        let Some((mut peer, exchange)) = Box::pin(self.connect()).await else {
            self.upstream.counters.count(Event::ConnectionRefused);
            break_off(&app);
            return;
        };
        if let Stream::Tls(tls) = &peer
            && let Some(caller) = tls.get_ref().1.peer_certificates().and_then(|chain| self.live.caller(chain))
        {
            // In this order: a change of trust either sees the peer, or is seen here.
            connection.identify(caller.clone());
            if !Arc::ptr_eq(&trusted_by, &self.identity.bundle()) && !caller.is_trusted(&self.identity, false) {
                return;
            }
        }
        // Whoever breaks off ends it for both.
        if pipe(&mut app, &mut peer, &self.upstream.counters.traffic).await.is_err() {
            break_off(&app);
        }
        drop(exchange);
    }

    /// A connection to an endpoint; nothing has been sent yet, so that another can be tried.
    async fn connect(&self) -> Option<(Stream, Exchange)> {
        let plan = self.upstream.plan();
        self.upstream.budget.earn();
        for attempt in 0..ATTEMPTS_MAX.min(plan.endpoints.len()) {
            if attempt > 0 {
                if !self.upstream.budget.spend() {
                    break;
                }
                self.upstream.counters.count(Event::Retry);
            }
            let endpoint = plan.pick()?;
            let exchange = Exchange::begin(endpoint);
            match plan.connect(endpoint, Speak::Bytes, &self.upstream.counters).await {
                Ok(stream) => return Some((stream, exchange)),
                Err(error) => {
                    tracing::debug!(upstream = %plan.name, %error, "an endpoint cannot be reached");
                }
            }
        }
        None
    }
}

/// Whether the client begins as HTTP/2 clients do (RFC 9113 §3.4). Looks at the first bytes and leaves them where they are.
async fn is_http2(tcp: &mut TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Rare: somebody sends the preface in pieces. The kernel wakes us only once for bytes that we do not take.
    const NEXT_LOOK: Duration = Duration::from_millis(2);
    let mut first = [0; PREFACE.len()];
    loop {
        let count = net::peek(tcp, &mut first).await?;
        if count == PREFACE.len() || count == 0 || !PREFACE.starts_with(&first[..count]) {
            return Ok(first[..count] == *PREFACE);
        }
        tokio::time::sleep(NEXT_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of three arguments returns.
    fn size_of_result<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    /// What is allocated for each connection, buffers and TLS apart.
    #[test]
    fn a_connection_is_small() {
        let bytes = size_of_result(Shared::run);
        assert!(bytes <= 1_024, "{bytes} bytes");
    }
}
