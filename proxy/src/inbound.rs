//! The mutual-TLS side of a sidecar: takes connections of the mesh, decides whether they may pass, and passes them to the local application.

use crate::Error;
use crate::http::{Client, serve};
use crate::limits::{ATTEMPTS_MAX, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
use crate::listen::{Listening, break_off};
use crate::live::{Caller, Connection, Live, Verdict};
use crate::metrics::{Event, ListenerSnapshot};
use crate::pipe::pipe;
use crate::policy::Policy;
use crate::seldom::Seldom;
use crate::stream::Stream;
use crate::upstream::{Plan, Speak, Upstream};
use api::transport::net::TcpStream;
use arc_swap::ArcSwap;
use http::HeaderValue;
use identity::Identity;
use model::proxy_config;
use model::{ProxyConfig, SpiffeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A sidecar's inbound listener.
pub(crate) struct Inbound {
    pub(crate) listening: Listening,
    shared: Arc<Shared>,
}

struct Shared {
    rules: ArcSwap<Rules>,
    app: Arc<Upstream>,
    live: Arc<Live>,
    identity: Identity,
    bytes: TlsAcceptor,
    http: TlsAcceptor,
    handshakes: AtomicUsize,
    /// Callers whose connections were refused: some try again at once, for ever.
    refused: Seldom<SpiffeId>,
    drain: CancellationToken,
}

/// What the configuration says, as of now.
struct Rules {
    policy: Policy,
    is_http: bool,
    connections_max: usize,
    /// `By=<us>`: the beginning of what the application is told about its callers.
    by: String,
}

impl Inbound {
    /// Listens.
    pub(crate) fn start(
        config: &ProxyConfig,
        inbound: &proxy_config::Inbound,
        identity: &Identity,
        drain: &CancellationToken,
    ) -> Result<Self, Error> {
        let acceptor =
            |alpn: &[&[u8]]| -> Result<_, Error> { Ok(TlsAcceptor::from(Arc::new(identity.server_config(alpn)?))) };
        let shared = Arc::new(Shared {
            rules: ArcSwap::from_pointee(Rules::new(config, inbound)),
            app: Upstream::new(Plan::local(inbound, &config.service)),
            live: Arc::default(),
            identity: identity.clone(),
            bytes: acceptor(&[])?,
            http: acceptor(&[b"h2", b"http/1.1"])?,
            handshakes: AtomicUsize::new(0),
            refused: Seldom::default(),
            drain: drain.clone(),
        });
        let taker = shared.clone();
        let listening = Listening::start("the mesh", &inbound.listen, drain, move |tcp| taker.take(tcp))?;
        Ok(Inbound { listening, shared })
    }

    /// Goes by another configuration from now on, also for the connections that stand.
    pub(crate) fn update(&self, config: &ProxyConfig, inbound: &proxy_config::Inbound, trust_changed: bool) {
        let shared = &self.shared;
        let rules = Arc::new(Rules::new(config, inbound));
        shared.rules.store(rules.clone());
        shared.app.update(Plan::local(inbound, &config.service), false);
        if faults::has(faults::Bug::DenyForNewOnly) {
            return;
        }
        shared.live.judge(&shared.app.counters, |caller| {
            if trust_changed && !caller.is_trusted(&shared.identity, true) {
                Verdict::Distrust
            } else {
                rules.policy.decide(&caller.id)
            }
        });
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        self.shared.live.clone()
    }

    pub(crate) fn sweep(&self) {
        self.shared.app.sweep();
    }

    pub(crate) fn snapshot(&self) -> ListenerSnapshot {
        self.shared.app.counters.snapshot(self.shared.live.len())
    }
}

impl Drop for Inbound {
    /// Nobody would judge its connections any more.
    fn drop(&mut self) {
        self.listening.stop();
        self.shared.live.close();
    }
}

impl Rules {
    fn new(config: &ProxyConfig, inbound: &proxy_config::Inbound) -> Self {
        let us = SpiffeId::service(&config.trust_domain, &config.datacenter, &config.service);
        Rules {
            policy: Policy::new(config, inbound),
            is_http: inbound.protocol.is_http(),
            connections_max: if inbound.max_connections == 0 {
                CONNECTIONS_MAX
            } else {
                inbound.max_connections as usize
            },
            by: format!("By={us};URI="),
        }
    }
}

impl Shared {
    /// Takes a connection, unless there are too many.
    fn take(self: &Arc<Self>, tcp: TcpStream) {
        // A flood of handshakes leaves no room, whatever the rules say.
        let is_flood = self.handshakes.load(Relaxed) >= HANDSHAKES_MAX;
        let connections_max = if is_flood { 0 } else { self.rules.load().connections_max };
        if self.live.admits(&self.app.counters, connections_max) {
            let shared = self.clone();
            self.live.spawn(|connection| shared.run(tcp, connection));
        }
    }

    /// One connection, from its handshake to its end.
    async fn run(self: Arc<Self>, tcp: TcpStream, connection: Arc<Connection>) {
        let trusted_by = self.identity.bundle();
        let Some((tls, caller)) = Box::pin(self.handshake(tcp)).await else {
            self.app.counters.count(Event::HandshakeFailed);
            return;
        };
        // In this order: a change of the rules either sees the caller, or is seen here.
        connection.identify(caller.clone());
        let rules = self.rules.load_full();
        let is_trusted = Arc::ptr_eq(&trusted_by, &self.identity.bundle()) || caller.is_trusted(&self.identity, true);
        let verdict = if is_trusted { rules.policy.decide(&caller.id) } else { Verdict::Distrust };
        match verdict {
            Verdict::Allow => connection.allow(true),
            Verdict::Deny if rules.is_http => {}
            Verdict::Deny | Verdict::Distrust => {
                self.app.counters.count(Event::Denied);
                if let Some(times) = self.refused.count(&caller.id, Instant::now()) {
                    tracing::info!(caller = %caller.id, ?verdict, times, "refused connections");
                }
                return;
            }
        }
        if rules.is_http {
            self.run_http(tls, connection, &caller, &rules).await;
        } else {
            self.run_bytes(tls).await;
        }
    }

    /// TLS, and who it is.
    async fn handshake(&self, tcp: TcpStream) -> Option<(Box<TlsStream<TcpStream>>, Arc<Caller>)> {
        self.handshakes.fetch_add(1, Relaxed);
        let acceptor = if self.rules.load().is_http { &self.http } else { &self.bytes };
        let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await;
        self.handshakes.fetch_sub(1, Relaxed);
        let tls = match tls {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake has failed");
                return None;
            }
            Err(_) => return None,
        };
        let caller = self.live.caller(tls.get_ref().1.peer_certificates()?)?;
        Some((Box::new(tls), caller))
    }

    async fn run_http(
        &self,
        tls: Box<TlsStream<TcpStream>>,
        connection: Arc<Connection>,
        caller: &Caller,
        rules: &Rules,
    ) {
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        connection.close_when_idle();
        let client = Client {
            upstream: self.app.clone(),
            live: self.live.clone(),
            connection,
            caller: HeaderValue::try_from(format!("{}{}", rules.by, caller.id)).ok(),
        };
        // Boxed, so that connections that only pass bytes do not pay for it.
        Box::pin(serve(tls, is_http2, client, self.drain.clone())).await;
    }

    async fn run_bytes(&self, mut tls: Box<TlsStream<TcpStream>>) {
        let plan = self.app.plan();
        for _ in 0..ATTEMPTS_MAX.min(plan.endpoints.len()) {
            let Some(endpoint) = plan.pick() else { break };
            let exchange = crate::body::Exchange::begin(endpoint);
            if let Ok(mut app) = Box::pin(plan.connect(endpoint, Speak::Bytes, &self.app.counters)).await {
                drop(plan);
                // Whoever breaks off ends it for both. A caller knows it from the TLS that has not come to its end.
                let passed = pipe(&mut tls, &mut app, &self.app.counters.traffic).await;
                if let (Err(_), Stream::Plain(tcp)) = (passed, &app) {
                    break_off(tcp);
                }
                drop(exchange);
                return;
            }
        }
        self.app.counters.count(Event::ConnectionRefused);
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
