//! A running proxy: [`Sidecar`] and [`Gateway`] start one, [`Handle`] is how others see and stop it.
//!
//! One task, the runner, hears the source and applies each configuration to the listeners. Nothing listens before the
//! first configuration and the first certificate are there.

use crate::gateway::Tunnels;
use crate::inbound::Inbound;
use crate::limits::{BACKOFF_MAX, GOODBYE_TIMEOUT, HTTP_IDLE_TIMEOUT, IDLE_SWEEP_INTERVAL};
use crate::live::Live;
use crate::metrics::Snapshot;
use crate::outbound::Outbound;
use crate::source::{self, ConfigSource, Heard};
use crate::upstream::lock;
use crate::{Error, control::Backoff};
use identity::{Identity, Serial, TrustBundle};
use model::{ProxyConfig, SpiffeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How to start a proxy.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it learns what to do.
    pub source: ConfigSource,
}

/// How to start a sidecar.
pub type SidecarOptions = Options;
/// How to start a gateway.
pub type GatewayOptions = Options;

/// The proxy of one service: takes the mesh's connections for it, and makes its connections to others.
#[derive(Debug)]
pub struct Sidecar;

impl Sidecar {
    /// Starts on the current tokio runtime and returns at once; [`Handle::ready`] tells when it serves. If the configuration is a gateway's,
    /// [`Handle::ready`] says so.
    pub fn start(options: SidecarOptions) -> Handle {
        start(options, Role::Sidecar)
    }
}

/// The proxy between datacenters: passes the sidecars' connections through QUIC tunnels without decrypting them.
#[derive(Debug)]
pub struct Gateway;

impl Gateway {
    /// Starts on the current tokio runtime and returns at once; [`Handle::ready`] tells when it serves.
    pub fn start(options: GatewayOptions) -> Handle {
        start(options, Role::Gateway)
    }
}

/// A tokio runtime that suits a proxy: one thread, unless told otherwise. A sidecar's work rarely needs a second one, and
/// moving connections between threads costs more than it gains.
///
/// # Errors
/// The system's, when it gives us no threads or descriptors.
pub fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Sidecar,
    Gateway,
}

/// A running proxy. It is shut down at once when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    status: watch::Receiver<Status>,
    problem: watch::Receiver<Option<Error>>,
    config: watch::Receiver<Option<Arc<ProxyConfig>>>,
    parts: Arc<Mutex<Parts>>,
    drain: CancellationToken,
    tasks: Vec<tokio::task::AbortHandle>,
}

/// How far the runner is with what it was told.
#[derive(Debug, Clone, Default)]
struct Status {
    serves: bool,
    problem: Option<Error>,
}

/// What listens now.
#[derive(Default)]
struct Parts {
    inbound: Option<Inbound>,
    upstreams: BTreeMap<String, Outbound>,
    gateway: Option<Tunnels>,
}

/// Where a proxy listens. Of use where the configuration says port 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// A sidecar's mutual TLS, or a gateway's TCP side.
    pub mesh: Option<SocketAddr>,
    /// A gateway's QUIC side.
    pub tunnel: Option<SocketAddr>,
    /// The application's side, by upstream.
    pub upstreams: BTreeMap<String, SocketAddr>,
}

impl Handle {
    /// Waits until the first configuration is applied and everything listens. An agent that does not answer yet is waited for
    /// ([`Handle::problem`] tells); whatever the operator must mend is an error at once. The proxy goes on trying all the same.
    pub async fn ready(&self) -> Result<(), Error> {
        let (mut status, mut problem) = (self.inner.status.clone(), self.inner.problem.clone());
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(error) = now.problem {
                return Err(error);
            }
            if now.serves {
                return Ok(());
            }
            let source = problem.borrow_and_update().clone();
            match source {
                Some(Error::Control { .. }) | None => {}
                Some(error) => return Err(error),
            }
            let gone = tokio::select! {
                changed = status.changed() => changed.is_err(),
                changed = problem.changed() => changed.is_err(),
            };
            if gone {
                return Err(Error::Stopped);
            }
        }
    }

    /// What is wrong now, if anything: with the source, or with what it said.
    pub fn problem(&self) -> Option<Error> {
        self.inner.status.borrow().problem.clone().or_else(|| self.inner.problem.borrow().clone())
    }

    /// The configuration that it goes by, once it has one.
    pub fn config(&self) -> Option<Arc<ProxyConfig>> {
        self.inner.config.borrow().clone()
    }

    /// Where it listens now.
    pub fn addresses(&self) -> Addresses {
        let parts = lock(&self.inner.parts);
        Addresses {
            mesh: parts
                .inbound
                .as_ref()
                .map(|i| i.listening.address)
                .or(parts.gateway.as_ref().map(|g| g.listening.address)),
            tunnel: parts.gateway.as_ref().map(|g| g.tunnel_address),
            upstreams: parts
                .upstreams
                .iter()
                .map(|(name, upstream)| (name.clone(), upstream.listening.address))
                .collect(),
        }
    }

    /// What it has done and has in hand.
    pub fn metrics(&self) -> Snapshot {
        let parts = lock(&self.inner.parts);
        Snapshot {
            inbound: parts.inbound.as_ref().map(Inbound::snapshot),
            upstreams: parts.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.snapshot())).collect(),
            gateway: parts.gateway.as_ref().map(Tunnels::snapshot),
        }
    }

    /// Stops listening, lets what is in hand come to its end for at most `drain`, then cuts what is left.
    pub async fn shutdown(&self, drain: Duration) {
        self.inner.drain.cancel();
        let live = lock(&self.inner.parts).live();
        let emptied = async {
            for live in &live {
                live.emptied().await;
            }
        };
        let _ = tokio::time::timeout(drain, emptied).await;
        live.iter().for_each(|live| live.close());
        let tunnels = lock(&self.inner.parts).gateway.as_ref().map(Tunnels::endpoint);
        self.inner.stop();
        if let Some(tunnels) = tunnels {
            // So that the other gateways hear of it now, and not when they miss us.
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, tunnels.wait_idle()).await;
        }
    }
}

impl Inner {
    fn stop(&self) {
        self.drain.cancel();
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        let parts = std::mem::take(&mut *lock(&self.parts));
        parts.live().iter().for_each(|live| live.close());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Parts {
    fn live(&self) -> Vec<Arc<Live>> {
        let upstreams = self.upstreams.values().map(Outbound::live);
        self.inbound
            .iter()
            .map(Inbound::live)
            .chain(upstreams)
            .chain(self.gateway.iter().flat_map(Tunnels::live))
            .collect()
    }

    fn sweep(&self) {
        self.live().iter().for_each(|live| live.sweep(HTTP_IDLE_TIMEOUT));
        self.inbound.iter().for_each(Inbound::sweep);
        self.upstreams.values().for_each(Outbound::sweep);
    }
}

fn start(options: Options, role: Role) -> Handle {
    let identity = Identity::new(TrustBundle::empty());
    let (config, configs) = watch::channel(None);
    let (leaves, _) = watch::channel(0);
    let (problem, problems) = watch::channel(None);
    let (status, statuses) = watch::channel(Status::default());
    let heard = Heard { config, identity: identity.clone(), leaves: leaves.clone(), problem };
    let parts = Arc::new(Mutex::new(Parts::default()));
    let drain = CancellationToken::new();
    let runner = Runner { role, identity, parts: parts.clone(), drain: drain.clone(), applied: None };
    let sweeper = sweep(parts.clone());
    let tasks = vec![
        tokio::spawn(source::run(options.source, heard)).abort_handle(),
        tokio::spawn(runner.run(configs.clone(), leaves.subscribe(), status)).abort_handle(),
        tokio::spawn(sweeper).abort_handle(),
    ];
    Handle { inner: Arc::new(Inner { status: statuses, problem: problems, config: configs, parts, drain, tasks }) }
}

async fn sweep(parts: Arc<Mutex<Parts>>) {
    loop {
        tokio::time::sleep(IDLE_SWEEP_INTERVAL).await;
        lock(&parts).sweep();
    }
}

/// Applies configurations.
struct Runner {
    role: Role,
    identity: Identity,
    parts: Arc<Mutex<Parts>>,
    drain: CancellationToken,
    applied: Option<Arc<ProxyConfig>>,
}

impl Runner {
    async fn run(
        mut self,
        mut configs: watch::Receiver<Option<Arc<ProxyConfig>>>,
        mut leaves: watch::Receiver<u64>,
        status: watch::Sender<Status>,
    ) {
        let mut backoff = Backoff::up_to(BACKOFF_MAX);
        loop {
            let config = configs.borrow_and_update().clone();
            let has_leaf = *leaves.borrow_and_update() > 0;
            let mut again = None;
            if let Some(config) = config.filter(|_| has_leaf) {
                let result = self.apply(&config);
                if let Err(error) = &result {
                    tracing::error!(%error, "the configuration cannot be applied as a whole; trying again");
                    again = Some(backoff.next(rand::random()));
                } else {
                    backoff = Backoff::up_to(BACKOFF_MAX);
                }
                status.send_modify(|s| *s = Status { serves: s.serves || result.is_ok(), problem: result.err() });
            }
            let gone = tokio::select! {
                changed = configs.changed() => changed.is_err(),
                changed = leaves.changed() => changed.is_err(),
                () = tokio::time::sleep(again.unwrap_or(BACKOFF_MAX)), if again.is_some() => false,
            };
            if gone {
                return;
            }
        }
    }

    /// Makes the listeners obey. What can be obeyed is, even if something else cannot: the first error is returned.
    fn apply(&mut self, config: &Arc<ProxyConfig>) -> Result<(), Error> {
        if self.applied.as_ref() == Some(config) {
            return Ok(());
        }
        let is_gateway = config.gateway.is_some();
        if is_gateway != (self.role == Role::Gateway) {
            let should = if is_gateway { "`tribune connect gateway`" } else { "`tribune connect proxy`" };
            return Err(Error::Config(format!("{:?} is not of this kind; start it with {should}", config.id)));
        }
        // Trust first: what is decided below rests on it.
        let trust_changed = self.applied.as_ref().is_none_or(|before| trust(before) != trust(config));
        if trust_changed {
            self.identity.update_bundle(bundle(config)?);
        }
        let mut parts = lock(&self.parts);
        if self.drain.is_cancelled() {
            return Err(Error::Stopped);
        }
        let applied = [
            self.apply_inbound(&mut parts, config, trust_changed),
            self.apply_upstreams(&mut parts, config, trust_changed),
            self.apply_gateway(&mut parts, config, trust_changed),
        ];
        applied.into_iter().collect::<Result<(), Error>>()?;
        self.applied = Some(config.clone());
        Ok(())
    }

    fn apply_inbound(&self, parts: &mut Parts, config: &ProxyConfig, trust_changed: bool) -> Result<(), Error> {
        let Some(told) = &config.inbound else {
            parts.inbound = None;
            return Ok(());
        };
        match &parts.inbound {
            Some(inbound) if inbound.listening.is_on(&told.listen) => {
                inbound.update(config, told, trust_changed);
            }
            Some(_) | None => {
                // The old port must be free before the new one is taken: they may be the same but for the address.
                parts.inbound = None;
                parts.inbound = Some(Inbound::start(config, told, &self.identity, &self.drain)?);
            }
        }
        Ok(())
    }

    fn apply_upstreams(&self, parts: &mut Parts, config: &ProxyConfig, trust_changed: bool) -> Result<(), Error> {
        parts.upstreams.retain(|name, upstream| {
            config.upstreams.get(name).is_some_and(|told| upstream.listening.is_on(&told.listen))
        });
        let mut result = Ok(());
        for (name, told) in &config.upstreams {
            let applied = match parts.upstreams.get(name) {
                Some(upstream) => upstream.update(name, told, trust_changed),
                None => Outbound::start(name, told, &self.identity, &self.drain)
                    .map(|upstream| drop(parts.upstreams.insert(name.clone(), upstream))),
            };
            result = result.and(applied);
        }
        result
    }

    fn apply_gateway(&self, parts: &mut Parts, config: &ProxyConfig, trust_changed: bool) -> Result<(), Error> {
        let Some(told) = &config.gateway else {
            parts.gateway = None;
            return Ok(());
        };
        match &parts.gateway {
            Some(gateway) if gateway.listens_on(told) => {
                gateway.update(config, told, trust_changed)?;
            }
            Some(_) | None => {
                parts.gateway = None;
                parts.gateway = Some(Tunnels::start(config, told, &self.identity, &self.drain)?);
            }
        }
        Ok(())
    }
}

/// The parts of a configuration that decide who is believed.
fn trust(config: &ProxyConfig) -> (&str, &[String], &[String], &[String]) {
    (&config.trust_domain, &config.roots, &config.revoked_serials, &config.revoked_ids)
}

fn bundle(config: &ProxyConfig) -> Result<TrustBundle, Error> {
    let wrong = |why: &dyn std::fmt::Display| Error::Config(format!("revoked: {why}"));
    let serials: Vec<Serial> = config
        .revoked_serials
        .iter()
        .map(|s| s.parse())
        .collect::<Result<_, _>>()
        .map_err(|e: identity::Error| wrong(&e))?;
    let ids: Vec<SpiffeId> = config
        .revoked_ids
        .iter()
        .map(|s| s.parse())
        .collect::<Result<_, _>>()
        .map_err(|e: model::spiffe::InvalidSpiffeId| wrong(&e))?;
    Ok(TrustBundle::new(&config.trust_domain, &config.roots)?.with_revoked(serials, ids))
}
