//! The acts of the demo. Each does something through the public interfaces, waits until it shows, and says how long that took.

use super::children::Children;
use super::plan::{Plan, SERVERS};
use super::{Narrator, service};
use crate::cmd::client::Agent;
use base64::Engine;
use hyper::StatusCode;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(45);
const GLANCE: Duration = Duration::from_millis(20);

type Step<T = ()> = Result<T, String>;

/// The play: who is on, and where.
pub(super) struct Stage {
    plan: Plan,
    folder: PathBuf,
    children: Children,
    narrator: Narrator,
    killed: Option<(u8, u8)>,
}

impl Stage {
    pub(super) fn new(plan: Plan, folder: &Path) -> Self {
        Stage {
            plan,
            folder: folder.to_path_buf(),
            children: Children::new(folder),
            narrator: Narrator::new(),
            killed: None,
        }
    }

    /// All acts, in order.
    pub(super) async fn play(&mut self) -> Step {
        self.narrator.line(&format!(
            "Tribune demo: two datacenters on this machine, data and logs in {}",
            self.folder.display()
        ));
        self.servers().await?;
        self.agents().await?;
        self.services().await?;
        self.sidecars().await?;
        self.names().await?;
        self.call().await?;
        self.intention().await?;
        self.kill_leader().await?;
        self.nobody_fell()?;
        self.narrator.line("\nAll of it worked.");
        Ok(())
    }

    pub(super) async fn stop(&mut self) {
        self.children.stop().await;
    }

    /// What a visitor may try now.
    pub(super) fn playground(&self) {
        let (http, dns) = (self.plan.agent_http(1), self.plan.agent_dns(1));
        self.narrator.line(&format!(
            "\nTo play with (Ctrl-C ends everything):\n\
             \x20 curl http://{http}/v1/catalog/services\n\
             \x20 curl http://{http}/v1/health/service/api?dc=dc2\\&passing\n\
             \x20 dig @{} -p {} api.service.dc2.consul SRV\n\
             \x20 curl http://{}/            # web in dc1, which calls api in dc2\n\
             \x20 tribune members -http-addr={http}\n\
             \x20 tribune intention create -deny -replace web api -http-addr={http}\n\
             \x20 tribune operator raft list-peers -http-addr={http}",
            dns.ip(),
            dns.port(),
            self.plan.app(1),
        ));
    }

    async fn servers(&mut self) -> Step {
        self.narrator.act("Servers");
        let secret = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>());
        let secret_file = self.folder.join("encrypt");
        std::fs::write(&secret_file, &secret).map_err(|e| format!("cannot write {}: {e}", secret_file.display()))?;
        for dc in 1..=2 {
            let begun = Instant::now();
            for n in 1..=SERVERS {
                let args = self.plan.server_args(&self.folder, &secret, dc, n);
                self.start(&format!("dc{dc}-s{n}"), &args)?;
            }
            let leader = self.leader(dc).await?;
            self.narrator.say(&format!("dc{dc}: {SERVERS} servers elected dc{dc}-s{leader} after {}", ms(begun)));
        }
        let begun = Instant::now();
        let plan = self.plan;
        let root = until("dc2 has the root certificate of dc1", || async move {
            let [first, second] = [root_id(plan.server_http(1, 1)).await, root_id(plan.server_http(2, 1)).await];
            (first.is_some() && first == second).then_some(first?)
        })
        .await?;
        self.narrator.say(&format!(
            "dc2's certificates chain to dc1's root {}… after {}",
            root.get(..17).unwrap_or(&root),
            ms(begun)
        ));
        let known = until("both datacenters know each other", || async move {
            let list = Agent::at(plan.server_http(1, 1)).get("/v1/catalog/datacenters").await.ok()?;
            (list.as_array()?.len() == 2).then(|| list.to_string())
        })
        .await?;
        self.narrator.say(&format!("GET /v1/catalog/datacenters says {known}"));
        Ok(())
    }

    async fn agents(&mut self) -> Step {
        self.narrator.act("Agents");
        let secret = std::fs::read_to_string(self.folder.join("encrypt")).map_err(|e| e.to_string())?;
        for dc in 1..=2 {
            let begun = Instant::now();
            let args = self.plan.agent_args(&self.folder, &secret, dc);
            self.start(&format!("dc{dc}-agent"), &args)?;
            let (at, node) = (self.plan.server_http(dc, 1), format!("dc{dc}-agent"));
            let node = &node;
            until("the agent is alive in the catalog", || async move {
                let checks = Agent::at(at).get(&format!("/v1/health/node/{node}")).await.ok()?;
                checks
                    .as_array()?
                    .iter()
                    .any(|c| c["CheckID"] == "serfHealth" && c["Status"] == "passing")
                    .then_some(())
            })
            .await?;
            self.narrator.say(&format!(
                "{node} proved the join secret, got its certificate and passes serfHealth after {}",
                ms(begun)
            ));
        }
        Ok(())
    }

    async fn services(&mut self) -> Step {
        self.narrator.act("Services, registered over HTTP");
        let plan = self.plan;
        self.start("app-api", &plan.app_args(2, "api", None))?;
        self.start("app-web", &plan.app_args(1, "web", Some(plan.upstream())))?;
        let upstream = json!({"DestinationName": "api", "Datacenter": "dc2", "LocalBindAddress": plan.upstream().ip(), "LocalBindPort": plan.upstream().port()});
        for (dc, name, upstreams) in [(2, "api", json!([])), (1, "web", json!([upstream]))] {
            let begun = Instant::now();
            let defaults = json!({"Kind": "service-defaults", "Name": name, "Protocol": "http"});
            let leader = Agent::at(plan.server_http(1, 1));
            leader
                .put("/v1/config", defaults.to_string().into_bytes())
                .await
                .map_err(|e| format!("service-defaults of {name}: {e}"))?;
            let app = plan.app(dc);
            let body = json!({
                "Name": name, "Address": app.ip(), "Port": app.port(), "Tags": ["demo"],
                "Check": {"HTTP": format!("http://{app}/health"), "Interval": "1s", "Timeout": "1s", "Name": "answers HTTP"},
                // Everything runs on one machine here: each sidecar keeps to its own loopback address.
                "Connect": {"SidecarService": {"Address": plan.agent_http(dc).ip(), "Proxy": {
                    "LocalServiceAddress": app.ip(),
                    "Upstreams": upstreams,
                    "Config": {"bind_address": plan.agent_http(dc).ip()},
                }}},
            });
            let agent = Agent::at(plan.agent_http(dc));
            agent
                .put("/v1/agent/service/register", body.to_string().into_bytes())
                .await
                .map_err(|e| format!("register {name}: {e}"))?;
            let path = format!("/v1/health/service/{name}?passing&dc=dc{dc}");
            let path = &path;
            until("the service passes in the catalog", || async move {
                some(Agent::at(plan.server_http(dc, 2)).get(path).await.ok()?)
            })
            .await?;
            self.narrator.say(&format!(
                "PUT /v1/agent/service/register {name} in dc{dc}: passing on another server after {}",
                ms(begun)
            ));
        }
        Ok(())
    }

    async fn sidecars(&mut self) -> Step {
        self.narrator.act("Sidecars and gateways");
        let plan = self.plan;
        for dc in 1..=2 {
            let begun = Instant::now();
            self.start(&format!("gateway-dc{dc}"), &plan.gateway_args(dc))?;
            until("the gateway passes", || async move {
                some(Agent::at(plan.server_http(dc, 1)).get("/v1/health/service/mesh-gateway?passing").await.ok()?)
            })
            .await?;
            self.narrator.say(&format!(
                "gateway of dc{dc} at {} (TCP for sidecars, UDP for QUIC) passes after {}",
                plan.gateway(dc),
                ms(begun)
            ));
        }
        for (dc, name) in [(2u8, "api"), (1, "web")] {
            let begun = Instant::now();
            self.start(&format!("sidecar-{name}"), &plan.sidecar_args(dc, name))?;
            let path = format!("/v1/health/connect/{name}?passing");
            let path = &path;
            until(
                "the sidecar passes",
                || async move { some(Agent::at(plan.server_http(dc, 1)).get(path).await.ok()?) },
            )
            .await?;
            self.narrator.say(&format!("sidecar of {name} in dc{dc} passes after {}", ms(begun)));
        }
        Ok(())
    }

    async fn names(&mut self) -> Step {
        self.narrator.act("Names, asked of dc1's agent by DNS");
        let at = self.plan.agent_dns(1);
        for (name, kind) in
            [("web.service.consul.", "A"), ("api.service.dc2.consul.", "SRV"), ("dc2-agent.node.dc2.consul.", "A")]
        {
            let (answer, took) = until("DNS answers", || async move {
                let asked = Instant::now();
                let answer = dns::client::ask(at, name, kind).await.ok()?;
                (!answer.is_empty()).then(|| (answer.join(", "), ms(asked)))
            })
            .await?;
            self.narrator.say(&format!("{name} {kind} is {answer} ({took})"));
        }
        Ok(())
    }

    async fn call(&mut self) -> Step {
        self.narrator
            .act("A call across the datacenters: web (dc1) → sidecar → gateway ═QUIC═ gateway → sidecar → api (dc2)");
        let web = self.plan.app(1);
        let (body, took) = until("web can call api", || async move {
            let asked = Instant::now();
            let (status, body) = service::ask(web, "/hello").await.ok()?;
            (status == StatusCode::OK && body.contains("spiffe://")).then(|| (body, ms(asked)))
        })
        .await?;
        self.narrator.say(&format!("GET http://{web}/hello: 200 in {took} (the first)"));
        let (caller, called) = (field(&body, "URI="), field(&body, "By="));
        self.narrator.say(&format!("api's sidecar saw the caller prove to be {caller}"));
        self.narrator.say(&format!("and proved itself to be {called}, the only id that web's sidecar accepts"));
        let asked = Instant::now();
        let calls = 50;
        for _ in 0..calls {
            let (status, body) = service::ask(web, "/hello").await?;
            if status != StatusCode::OK {
                return Err(format!("a call failed with {status}: {body}"));
            }
        }
        let each = asked.elapsed() / calls;
        self.narrator.say(&format!("{calls} more calls: all 200, {:.2} ms each", each.as_secs_f64() * 1e3));
        Ok(())
    }

    async fn intention(&mut self) -> Step {
        self.narrator.act("Who may call whom: an intention, flipped in dc1 and enforced in dc2");
        let (web, server) = (self.plan.app(1), Agent::at(self.plan.server_http(1, 1)));
        for (action, good) in [("deny", false), ("allow", true)] {
            let path = "/v1/connect/intentions/exact?source=web&destination=api";
            server
                .put(path, json!({"Action": action}).to_string().into_bytes())
                .await
                .map_err(|e| format!("intention: {e}"))?;
            let begun = Instant::now();
            let (status, took) = until("the intention holds", || async move {
                let (status, _) = service::ask(web, "/hello").await.ok()?;
                ((status == StatusCode::OK) == good).then(|| (status, ms(begun)))
            })
            .await?;
            self.narrator
                .say(&format!("{action} web → api: the call answers {status} {took} after the write was acknowledged"));
        }
        Ok(())
    }

    async fn kill_leader(&mut self) -> Step {
        self.narrator.act("A crash: kill -9 of dc1's leader");
        let leader = self.leader(1).await?;
        let survivor = if leader == 1 { 2 } else { 1 };
        let agent = Agent::at(self.plan.server_http(1, survivor));
        agent.put("/v1/kv/demo/before", b"kept".to_vec()).await.map_err(|e| format!("write: {e}"))?;
        self.children.kill(&format!("dc1-s{leader}")).await.map_err(|e| e.to_string())?;
        self.killed = Some((1, leader));
        let begun = Instant::now();
        let agent = &agent;
        until("writes go on", || async move { agent.put("/v1/kv/demo/after", b"written".to_vec()).await.ok() }).await?;
        let gap = ms(begun);
        let kept = agent.get("/v1/kv/demo/before?consistent").await.map_err(|e| format!("read: {e}"))?;
        if kept[0]["Value"] != "a2VwdA==" {
            return Err(format!("a write that was acknowledged before the crash is gone: {kept}"));
        }
        let new = self.leader(1).await?;
        self.narrator.say(&format!("dc1-s{leader} is dead; a write succeeded again after {gap}, led by dc1-s{new}; the write before it is there"));
        let (status, body) = service::ask(self.plan.app(1), "/hello").await?;
        if status != StatusCode::OK {
            return Err(format!("calls did not go on: {status} {body}"));
        }
        self.narrator.say(&format!("calls went on meanwhile: {status}"));
        Ok(())
    }

    /// Every process but the one that was killed must still run.
    fn nobody_fell(&mut self) -> Step {
        match self.children.ended() {
            None => Ok(()),
            Some(name) => {
                Err(format!("{name} ended by itself; its words are in {}", self.children.log(&name).display()))
            }
        }
    }

    fn start(&mut self, name: &str, args: &[String]) -> Step {
        self.children.start(name, args).map_err(|e| format!("cannot start {name}: {e}"))
    }

    /// Waits until every living server of a datacenter names the same leader; answers its number.
    async fn leader(&self, dc: u8) -> Step<u8> {
        let (plan, killed) = (self.plan, self.killed);
        until("the servers agree on a leader", || async move {
            let mut named = Vec::new();
            for n in (1..=SERVERS).filter(|n| killed != Some((dc, *n))) {
                let answer = Agent::at(plan.server_http(dc, n)).get("/v1/status/leader").await.ok()?;
                named.push(answer.as_str()?.parse::<SocketAddr>().ok()?.ip());
            }
            let first = *named.first()?;
            let n = (1..=SERVERS).find(|n| plan.server(dc, *n) == first)?;
            (named.iter().all(|ip| *ip == first) && killed != Some((dc, n))).then_some(n)
        })
        .await
    }
}

/// Asks again and again until there is an answer.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> Step<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {} s, and still not: {what}", PATIENCE.as_secs()));
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn some(list: Value) -> Option<()> {
    (!list.as_array()?.is_empty()).then_some(())
}

async fn root_id(at: SocketAddr) -> Option<String> {
    let roots = Agent::at(at).get("/v1/connect/ca/roots").await.ok()?;
    roots["ActiveRootID"].as_str().filter(|id| !id.is_empty()).map(str::to_string)
}

/// A field of the header in which api's sidecar tells who proved to be whom (`By=…;URI=…`).
fn field(text: &str, name: &str) -> String {
    let ends = |c: char| c.is_whitespace() || c == ';' || c == ',' || c == '"';
    text.split(name).nth(1).and_then(|rest| rest.split(ends).next()).unwrap_or("nobody").to_string()
}

fn ms(since: Instant) -> String {
    let elapsed = since.elapsed().as_secs_f64() * 1e3;
    if elapsed < 100.0 { format!("{elapsed:.1} ms") } else { format!("{elapsed:.0} ms") }
}
