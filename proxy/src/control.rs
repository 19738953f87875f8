//! The agent's side of a proxy's life: the configuration as a stream of deltas, and a certificate that is renewed in time.
//!
//! Two loops that do not wait for each other: a certificate that is slow to come must not hold up a change of intentions.

use crate::Error;
use crate::limits::{AGENT_BACKOFF_MAX, BACKOFF_FIRST, CONTROL_TIMEOUT};
use crate::source::Heard;
use api::proto::mesh_client::MeshClient;
use api::proto::{ConfigureRequest, SignRequest};
use api::transport::Channel;
use identity::{Csr, LeafName, Renewer};
use model::ProxyConfig;
use model::proxy_config::{self, ProxyDelta};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who we are to the agent.
struct Agent {
    address: String,
    proxy_id: String,
    node: String,
    client: MeshClient<Channel>,
}

/// Listens to the agent for ever. When it goes away, the proxy goes on with what it has heard.
pub(crate) async fn run(address: String, proxy_id: String, node: String, heard: Heard) {
    let client = match api::transport::connect_plain(&address) {
        Ok(channel) => MeshClient::new(channel),
        Err(error) => {
            heard.problem.send_replace(Some(Error::Config(error.to_string())));
            return;
        }
    };
    let agent = Agent { address, proxy_id, node, client };
    tokio::join!(agent.configure(&heard), agent.keep_leaf(&heard));
}

impl Agent {
    /// Takes configurations as they come, and reconnects with back-off.
    async fn configure(&self, heard: &Heard) {
        let mut known = Known::default();
        let mut backoff = Backoff::up_to(AGENT_BACKOFF_MAX);
        loop {
            let before = known.messages;
            let why = match self.stream(&mut known, heard).await {
                Ok(()) => "it has closed the stream".to_string(),
                Err(why) => why,
            };
            if known.messages != before {
                backoff = Backoff::up_to(AGENT_BACKOFF_MAX);
            }
            self.report(heard, why);
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }

    /// One stream, to its end.
    async fn stream(&self, known: &mut Known, heard: &Heard) -> Result<(), String> {
        let request = ConfigureRequest { node: self.node.clone(), proxy_id: self.proxy_id.clone() };
        let opening = tokio::time::timeout(CONTROL_TIMEOUT, self.client.clone().configure(request)).await;
        let mut replies =
            opening.map_err(|_| "no answer in time".to_string())?.map_err(|e| e.message().to_string())?.into_inner();
        while let Some(reply) = replies.message().await.map_err(|e| e.message().to_string())? {
            if let Err(why) = known.hear(&reply.delta_mp) {
                // Start over from nothing: the next stream begins with the whole.
                *known = Known { messages: known.messages, ..Known::default() };
                return Err(why);
            }
            heard.problem.send_replace(None);
            heard.config.send_replace(Some(Arc::new(known.config.clone())));
        }
        Ok(())
    }

    /// Has a certificate signed as soon as we know our name, and again at about half of its life, or when the roots change.
    async fn keep_leaf(&self, heard: &Heard) {
        let mut configs = heard.config.subscribe();
        let mut renewer = Renewer::new(SystemTime::now());
        let mut ours: Option<(LeafName, Vec<String>)> = None;
        loop {
            let told = configs.borrow_and_update().clone();
            let named = told.as_deref().map(|config| (leaf_name(config), config.roots.clone()));
            match named {
                Some((Ok(name), roots)) if ours.as_ref() != Some(&(name.clone(), roots.clone())) => {
                    match &ours {
                        Some((before, _)) if *before == name => {
                            renewer.roots_changed(SystemTime::now(), rand::random());
                        }
                        Some(_) | None => renewer = Renewer::new(SystemTime::now()),
                    }
                    ours = Some((name, roots));
                }
                Some((Err(error), _)) => drop(heard.problem.send_replace(Some(error))),
                Some((Ok(_), _)) | None => {}
            }
            let Some((name, _)) = &ours else {
                if configs.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if renewer.is_due(SystemTime::now()) {
                self.renew(name, &mut renewer, heard).await;
            }
            tokio::select! {
                changed = configs.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(renewer.wait(SystemTime::now())) => {}
            }
        }
    }

    async fn renew(&self, name: &LeafName, renewer: &mut Renewer, heard: &Heard) {
        match self.sign(name, heard).await {
            Ok(info) => renewer.renewed(SystemTime::now(), info.not_before, info.not_after, rand::random()),
            Err(why) => {
                renewer.failed(SystemTime::now(), rand::random());
                self.report(heard, format!("no certificate for {}: {why}", name.id()));
            }
        }
    }

    /// A fresh key, which never leaves this process, and a certificate for it.
    async fn sign(&self, name: &LeafName, heard: &Heard) -> Result<identity::LeafInfo, String> {
        let csr = Csr::new(name).map_err(|e| e.to_string())?;
        let request = SignRequest { csr_pem: csr.pem.clone(), node: self.node.clone() };
        let signing = tokio::time::timeout(CONTROL_TIMEOUT, self.client.clone().sign(request)).await;
        let reply =
            signing.map_err(|_| "no answer in time".to_string())?.map_err(|e| e.message().to_string())?.into_inner();
        heard.use_leaf(&csr.with_chain(reply.chain_pem)).map_err(|e| e.to_string())
    }

    fn report(&self, heard: &Heard, why: String) {
        tracing::warn!(agent = %self.address, %why, "the agent does not serve this proxy now");
        heard.problem.send_replace(Some(Error::Control { address: self.address.clone(), why }));
    }
}

/// The configuration as the agent has told it so far.
#[derive(Default)]
struct Known {
    /// How many have been heard, over all streams.
    messages: u64,
    config: ProxyConfig,
}

impl Known {
    fn hear(&mut self, delta: &[u8]) -> Result<(), String> {
        let delta: ProxyDelta = api::mp::decode(delta).map_err(|e| e.to_string())?;
        proxy_config::apply(&mut self.config, delta);
        self.messages += 1;
        Ok(())
    }
}

/// The name that this configuration's proxy needs a certificate for.
fn leaf_name(config: &ProxyConfig) -> Result<LeafName, Error> {
    Ok(match &config.gateway {
        Some(_) => LeafName::gateway(&config.trust_domain, &config.datacenter)?,
        None => LeafName::service(&config.trust_domain, &config.datacenter, &config.service)?,
    })
}

/// How long to wait after each failure in a row.
pub(crate) struct Backoff {
    failures: u32,
    max: Duration,
}

impl Backoff {
    /// None has failed yet; no wait is longer.
    pub(crate) fn up_to(max: Duration) -> Self {
        Self { failures: 0, max }
    }

    /// Doubling, and between half and all of that by `random`, so that many do not come back at once.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let full = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BACKOFF_MAX;

    #[test]
    fn backoff_doubles_and_is_bounded() {
        let waits = |max| {
            let mut backoff = Backoff::up_to(max);
            Vec::from_iter((0..8).map(|_| backoff.next(1.0).as_millis()))
        };
        assert_eq!(waits(BACKOFF_MAX), [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(waits(AGENT_BACKOFF_MAX), [200, 400, 800, 1000, 1000, 1000, 1000, 1000]);
        assert_eq!(Backoff::up_to(BACKOFF_MAX).next(0.0).as_millis(), 100);
    }

    #[test]
    fn a_gateway_and_a_service_ask_for_what_they_are() {
        let mut config = ProxyConfig {
            trust_domain: "t.consul".into(),
            datacenter: "dc1".into(),
            service: "web".into(),
            ..ProxyConfig::default()
        };
        let id = |config: &ProxyConfig| leaf_name(config).expect("a name").id().to_string();
        assert_eq!(id(&config), "spiffe://t.consul/ns/default/dc/dc1/svc/web");
        config.gateway = Some(proxy_config::GatewayConfig::default());
        assert_eq!(id(&config), "spiffe://t.consul/gateway/mesh/dc/dc1");
    }
}
