//! A gateway between datacenters. It passes mutual-TLS connections on by the server name in their first message, and never decrypts them.
//!
//! Two sides. *Local*: TCP from the sidecars of this datacenter; a name of another datacenter goes into a tunnel, a name
//! of this one to a sidecar here. *Remote*: streams out of the tunnels of other gateways; they go to sidecars here, and
//! nowhere else, so that nothing can go in circles.

mod remote;
mod route;

use crate::Error;
use crate::balance;
use crate::body::Exchange;
use crate::limits::{ATTEMPTS_MAX, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, TUNNEL_CONNECTIONS};
use crate::listen::{Listening, bind};
use crate::live::{Live, Verdict};
use crate::metrics::{Counters, Event, GatewaySnapshot};
use crate::pipe::pipe;
use crate::stream::Stream;
use crate::tunnel::{self, Line};
use crate::upstream::{Plan, Speak, Upstream, now_us};
use api::transport::net::TcpStream;
use arc_swap::ArcSwap;
use identity::Identity;
use model::ProxyConfig;
use model::proxy_config::GatewayConfig;
use route::{datacenter_of, read_hello};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A running gateway.
pub(crate) struct Tunnels {
    pub(crate) listening: Listening,
    tunnel_listen: String,
    pub(crate) tunnel_address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    routes: ArcSwap<Routes>,
    endpoint: quinn::Endpoint,
    identity: Identity,
    local: Side,
    remote: Side,
    /// QUIC connections that others have made to us.
    tunnels: Arc<Live>,
    /// A line stands that did not before.
    up: Arc<Notify>,
}

#[derive(Default)]
struct Side {
    counters: Counters,
    live: Arc<Live>,
}

/// Where names lead, as of now.
struct Routes {
    trust_domain: String,
    /// Services of this datacenter, by server name.
    services: BTreeMap<String, Arc<Upstream>>,
    /// Lines to other datacenters, by name.
    datacenters: BTreeMap<String, Vec<Arc<Line>>>,
}

impl Tunnels {
    /// Listens on both sides, and begins to connect to the other datacenters.
    pub(crate) fn start(
        config: &ProxyConfig,
        gateway: &GatewayConfig,
        identity: &Identity,
        drain: &CancellationToken,
    ) -> Result<Self, Error> {
        // Both ports before anything is begun; this one first, because it is free again the moment that the other fails.
        let listener = bind("sidecars", &gateway.listen)?;
        let (endpoint, tunnel_address) = tunnel::endpoint(&gateway.tunnel_listen, identity)?;
        let nothing = Routes { trust_domain: String::new(), services: BTreeMap::new(), datacenters: BTreeMap::new() };
        let shared = Arc::new(Shared {
            routes: ArcSwap::from_pointee(nothing),
            endpoint,
            identity: identity.clone(),
            local: Side::default(),
            remote: Side::default(),
            tunnels: Arc::default(),
            up: Arc::default(),
        });
        shared.update(config, gateway)?;
        let taker = shared.clone();
        let listening = Listening::over(listener, "sidecars", &gateway.listen, drain, move |tcp| taker.take(tcp))?;
        let stop = drain.child_token();
        tokio::spawn(shared.clone().accept_tunnels(stop.clone()));
        Ok(Tunnels { listening, tunnel_listen: gateway.tunnel_listen.clone(), tunnel_address, shared, stop })
    }

    /// Whether it can go on with this configuration, or must listen elsewhere.
    pub(crate) fn listens_on(&self, gateway: &GatewayConfig) -> bool {
        self.listening.is_on(&gateway.listen) && self.tunnel_listen == gateway.tunnel_listen
    }

    /// Goes by another configuration from now on. Streams that stand go on, unless their gateway is trusted no more.
    pub(crate) fn update(
        &self,
        config: &ProxyConfig,
        gateway: &GatewayConfig,
        trust_changed: bool,
    ) -> Result<(), Error> {
        self.shared.update(config, gateway)?;
        if trust_changed {
            let shared = &self.shared;
            shared.routes.load().datacenters.values().flatten().for_each(|line| line.recheck(&shared.identity));
            shared.tunnels.judge(&shared.remote.counters, |peer| {
                if peer.is_trusted(&shared.identity, true) { Verdict::Allow } else { Verdict::Distrust }
            });
        }
        Ok(())
    }

    /// What is in hand: connections of sidecars, and streams of other gateways.
    pub(crate) fn live(&self) -> Vec<Arc<Live>> {
        vec![self.shared.local.live.clone(), self.shared.remote.live.clone()]
    }

    /// The socket of all tunnels, to be waited for when it is closed.
    pub(crate) fn endpoint(&self) -> quinn::Endpoint {
        self.shared.endpoint.clone()
    }

    pub(crate) fn snapshot(&self) -> GatewaySnapshot {
        let standing = |lines: &Vec<Arc<Line>>| lines.iter().filter(|line| line.connection().is_some()).count();
        GatewaySnapshot {
            local: self.shared.local.counters.snapshot(self.shared.local.live.len()),
            remote: self.shared.remote.counters.snapshot(self.shared.remote.live.len()),
            tunnels: self
                .shared
                .routes
                .load()
                .datacenters
                .iter()
                .map(|(dc, lines)| (dc.clone(), standing(lines)))
                .collect(),
        }
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.listening.stop();
        self.stop.cancel();
        self.live().iter().for_each(|live| live.close());
        self.shared.tunnels.close();
        self.shared.endpoint.close(0u8.into(), b"shut down");
    }
}

impl Shared {
    fn update(&self, config: &ProxyConfig, gateway: &GatewayConfig) -> Result<(), Error> {
        let before = self.routes.load_full();
        let mut services = BTreeMap::new();
        for (name, endpoints) in &gateway.services {
            let plan = Plan::passing(name, endpoints);
            let upstream = match before.services.get(name) {
                Some(known) => {
                    known.update(plan, false);
                    known.clone()
                }
                None => Upstream::new(plan),
            };
            services.insert(name.to_ascii_lowercase(), upstream);
        }
        let mut datacenters = BTreeMap::new();
        for (dc, addresses) in &gateway.datacenters {
            let known = before.datacenters.get(dc).filter(|_| before.trust_domain == config.trust_domain);
            datacenters.insert(dc.clone(), self.lines(config, dc, addresses, known.map_or(&[], Vec::as_slice))?);
        }
        let trust_domain = config.trust_domain.clone();
        self.routes.store(Arc::new(Routes { trust_domain, services, datacenters }));
        Ok(())
    }

    /// Lines to each of these addresses; those that there are already stay.
    fn lines(
        &self,
        config: &ProxyConfig,
        dc: &str,
        addresses: &[String],
        known: &[Arc<Line>],
    ) -> Result<Vec<Arc<Line>>, Error> {
        let mut lines = Vec::new();
        for address in addresses {
            lines.extend(known.iter().filter(|line| line.address == *address).cloned());
            while lines.iter().filter(|line| line.address == *address).count() < TUNNEL_CONNECTIONS {
                lines.push(Arc::new(Line::start(
                    &self.endpoint,
                    address,
                    &config.trust_domain,
                    dc,
                    &self.identity,
                    self.up.clone(),
                )?));
            }
        }
        Ok(lines)
    }

    /// Takes a sidecar's connection, unless there are too many.
    fn take(self: &Arc<Self>, tcp: TcpStream) {
        if !self.local.live.admits(&self.local.counters, CONNECTIONS_MAX) {
            return;
        }
        let shared = self.clone();
        self.local.live.spawn(|_| async move {
            if !shared.run_local(tcp).await {
                shared.local.counters.count(Event::ConnectionRefused);
            }
        });
    }

    /// One connection of a sidecar here. False if it could not be passed on.
    async fn run_local(&self, mut tcp: TcpStream) -> bool {
        let Ok(Some((name, hello))) = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(read_hello(&mut tcp))).await
        else {
            return false;
        };
        let routes = self.routes.load_full();
        if let Some(service) = routes.services.get(&name) {
            let service = service.clone();
            drop(routes);
            return self.to_sidecar(tcp, &hello, &service, &self.local.counters).await;
        }
        let Some(dc) = datacenter_of(&name, &routes.trust_domain).filter(|dc| routes.datacenters.contains_key(*dc))
        else {
            tracing::debug!(%name, "a connection for a name that leads nowhere");
            return false;
        };
        let dc = dc.to_string();
        drop(routes);
        self.to_tunnel(tcp, &hello, &name, &dc).await
    }

    /// Through a tunnel, whichever of those that stand is the best.
    async fn to_tunnel(&self, mut tcp: TcpStream, hello: &[u8], name: &str, dc: &str) -> bool {
        for _ in 0..ATTEMPTS_MAX {
            let Some(line) = Box::pin(self.line(dc)).await else {
                return false;
            };
            let Some((mut send, receive, connection)) = Box::pin(line.open()).await else {
                continue;
            };
            if tunnel::write_header(&mut send, name).await.is_err() || send.write_all(hello).await.is_err() {
                continue;
            }
            let busy = InUse::begin(line);
            let mut far = tokio::io::join(receive, send);
            if pipe(&mut tcp, &mut far, &self.local.counters.traffic).await.is_err() {
                // A stream that is merely dropped would look like one that came to a good end.
                let _ = far.writer_mut().reset(0u8.into());
            }
            drop((busy, connection));
            return true;
        }
        false
    }

    /// The line for the next stream; waits a little if there is none yet.
    async fn line(&self, dc: &str) -> Option<Arc<Line>> {
        let find = async {
            loop {
                let mut up = std::pin::pin!(self.up.notified());
                up.as_mut().enable();
                let routes = self.routes.load_full();
                let standing: Vec<Arc<Line>> =
                    routes.datacenters.get(dc)?.iter().filter(|line| line.connection().is_some()).cloned().collect();
                if let Some(place) = balance::pick(&standing, now_us(), rand::random()) {
                    return Some(standing[place].clone());
                }
                drop(routes);
                up.await;
            }
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, find).await.ok().flatten()
    }

    /// To a sidecar here.
    async fn to_sidecar<S>(&self, mut near: S, hello: &[u8], service: &Upstream, counters: &Counters) -> bool
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let Some((mut sidecar, exchange)) = Box::pin(reach(service, counters)).await else {
            return false;
        };
        if sidecar.write_all(hello).await.is_err() {
            return false;
        }
        // Whoever breaks off ends it for both.
        let passed = pipe(&mut near, &mut sidecar, &counters.traffic).await;
        drop(exchange);
        passed.is_ok()
    }
}

/// A stream on a line.
struct InUse(Arc<Line>);

impl InUse {
    fn begin(line: Arc<Line>) -> Self {
        balance::Loaded::load(&line).begin();
        InUse(line)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        balance::Loaded::load(&self.0).end();
    }
}

/// A connection to one of the service's sidecars.
async fn reach(service: &Upstream, counters: &Counters) -> Option<(Stream, Exchange)> {
    let plan = service.plan();
    for _ in 0..ATTEMPTS_MAX.min(plan.endpoints.len()) {
        let endpoint = plan.pick()?;
        let exchange = Exchange::begin(endpoint);
        if let Ok(stream) = plan.connect(endpoint, Speak::Bytes, counters).await {
            return Some((stream, exchange));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::TrustBundle;

    /// The size of what a function of three arguments returns.
    fn size_of_result<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_passed_connection_is_small() {
        let local = size_of_result(|shared: &'static Shared, tcp, (): ()| shared.run_local(tcp));
        let remote = size_of_result(|shared: &'static Shared, send, receive| shared.run_remote(send, receive));
        assert!(local <= 1_280 && remote <= 1_280, "{local} and {remote} bytes");
    }

    #[tokio::test]
    async fn nothing_is_begun_while_the_port_for_sidecars_is_taken() {
        let sidecars = bind("a test", "127.0.0.1:0").expect("a port");
        let tunnels = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let gateway = GatewayConfig {
            listen: sidecars.local_addr().expect("address").to_string(),
            tunnel_listen: tunnels.local_addr().expect("address").to_string(),
            ..GatewayConfig::default()
        };
        let identity = Identity::new(TrustBundle::empty());
        let started = Tunnels::start(&ProxyConfig::default(), &gateway, &identity, &CancellationToken::new());
        let error = started.err().expect("both are in use").to_string();
        assert!(error.contains("sidecars"), "{error}");
    }
}
