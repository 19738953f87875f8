//! `Mesh`: certificates and configuration of proxies. Agents ask for the proxies of their machine.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::proto::mesh_server::Mesh as MeshService;
use api::proto::{ConfigureReply, ConfigureRequest, SignReply, SignRequest};
use api::query::Consistency;
use catalog::query::{ca, service as services};
use catalog::{CaState, View, compile};
use identity::LeafName;
use model::proxy_config::{ProxyDelta, diff};
use model::spiffe::Subject;
use model::{ProxyConfig, ServiceInstance, ServiceKind, SpiffeId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::admit::may_speak_for;
use super::{Rpc, caller};
use crate::core::Core;

/// Deltas that wait for a slow proxy; what comes meanwhile goes into the next one.
const WAITING_MAX: usize = 1;
/// How long a proxy may ask before its registration has come.
const REGISTRATION_WAIT: Duration = Duration::from_secs(10);
/// The longest wait between two looks at the catalog.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

#[tonic::async_trait]
impl MeshService for Rpc {
    type ConfigureStream = Pin<Box<dyn Stream<Item = Result<ConfigureReply, Status>> + Send>>;

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let peer = caller(&request)?;
        let request = request.into_inner();
        let datacenter = &self.core.config.datacenter;
        if !may_speak_for(&peer, &request.node, datacenter) {
            return Err(Status::permission_denied(format!(
                "this certificate does not speak for node {:?}",
                request.node
            )));
        }
        self.as_fresh_as_the_leader().await?;
        let (found, _) = self.core.watch.read(|view| may_sign(view, &request, datacenter));
        let (state, name) = found?;
        let signed = crate::ca::sign(&state, &request.csr_pem, &name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        faults::pass(faults::Point::SignedNotGiven);
        let bundle = self.core.trust.bundle().borrow().clone();
        Ok(Response::new(SignReply { chain_pem: signed.cert_chain_pem, bundle: Some(bundle) }))
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let peer = caller(&request)?;
        let request = request.into_inner();
        if !may_speak_for(&peer, &request.node, &self.core.config.datacenter) {
            return Err(Status::permission_denied(format!(
                "this certificate does not speak for node {:?}",
                request.node
            )));
        }
        self.core.check_not_cut_off()?;
        // A proxy that comes from another server must not hear what held before.
        self.as_fresh_as_the_leader().await?;
        let (sender, replies) = mpsc::channel(WAITING_MAX);
        let core = self.core.clone();
        self.core.tasks.spawn(async move {
            tokio::select! {
                () = configure(&core, &request, &sender) => {}
                () = sender.closed() => {}
                () = core.until_cut_off() => {}
                () = core.closing.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

impl Rpc {
    async fn as_fresh_as_the_leader(&self) -> Result<(), Status> {
        let fresh = self.core.reads.prepare(Consistency::Default, None).await;
        fresh.map(drop).map_err(|error| Status::unavailable(error.text))
    }
}

/// Sends the whole configuration, then what changes. Ends when the proxy is no longer registered.
async fn configure(
    core: &Arc<Core>,
    request: &ConfigureRequest,
    sender: &mpsc::Sender<Result<ConfigureReply, Status>>,
) {
    let (node, proxy) = (request.node.as_str(), request.proxy_id.as_str());
    let default_action = core.config.default_intention_policy;
    let mut sent = ProxyConfig::default();
    let (mut seen, mut is_first) = (0, true);
    let registered_until = Instant::now() + REGISTRATION_WAIT;
    loop {
        let deadline = if is_first { registered_until } else { Instant::now() + LOOK_AGAIN };
        let compile = |view: &View<'_>| compile::proxy(view, node, proxy, &core.config.datacenter, default_action);
        let (compiled, index) = core.watch.query(seen, deadline, compile).await;
        seen = index;
        let Some(config) = compiled else {
            if is_first && Instant::now() < registered_until {
                continue;
            }
            let text = format!("no proxy {proxy:?} is registered on node {node:?}");
            // A proxy that went away needs no answer.
            let _ = sender.send(Err(Status::not_found(text))).await;
            return;
        };
        let delta = if is_first { ProxyDelta::whole(&config) } else { diff(&sent, &config) };
        if !is_first && delta.is_empty() {
            continue;
        }
        let reply = ConfigureReply { version: index, delta_mp: api::mp::encode(&delta) };
        if sender.send(Ok(reply)).await.is_err() {
            return;
        }
        (sent, is_first) = (config, false);
    }
}

/// Whether the node may have this leaf: only for what is registered on it.
fn may_sign(view: &View<'_>, request: &SignRequest, datacenter: &str) -> Result<(CaState, LeafName), Status> {
    let state =
        ca::ca(view).ok_or_else(|| Status::unavailable("this cluster has no certificate authority yet: try again"))?;
    let id = requested_id(&request.csr_pem)?;
    let registered = services::on_node(view, &request.node).map(|(_, services)| services).unwrap_or_default();
    let (dc, is_registered) = match &id.subject {
        Subject::Service { dc, service } => (dc, registered.iter().any(|row| speaks_for(&row.value, service))),
        Subject::Gateway { dc } => (dc, registered.iter().any(|row| row.kind == ServiceKind::MeshGateway)),
        Subject::Agent { .. } | Subject::Server { .. } => {
            return Err(Status::permission_denied("agents and servers enroll with Join"));
        }
    };
    if dc != datacenter {
        return Err(Status::invalid_argument(format!("this datacenter is {datacenter:?}, not {dc:?}")));
    }
    if !is_registered && !faults::has(faults::Bug::SpiffeAnyName) {
        return Err(Status::permission_denied(format!("{id} is not registered on node {:?}", request.node)));
    }
    let name = LeafName::of(id).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((state.value.clone(), name))
}

/// A sidecar speaks for its application, and an application for itself.
fn speaks_for(instance: &ServiceInstance, service: &str) -> bool {
    instance.service == service || instance.proxy.destination_service_name == service
}

fn requested_id(csr_pem: &str) -> Result<SpiffeId, Status> {
    identity::requested_id(csr_pem).map_err(|error| Status::invalid_argument(error.to_string()))
}
