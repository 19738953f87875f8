//! A small language for commands and reads, so that tests can be tables of text.
//!
//! Words are split at spaces; `name=value` are settings; lists are split at commas.

use catalog::query::{self, HealthEntry, Placed, Selection};
use catalog::{
    CaState, Catalog, Changes, Command, Deregistration, KvCommand, Registration, Response, Revocation, Row, SyncPush,
    Topic, TxnKv, TxnOp, TxnOutcome, TxnResult, TxnVerb, View,
};
use model::ca::CaRoot;
use model::config_entry::ConfigEntry;
use model::datacenter::Datacenter;
use model::intention::Action;
use model::service::{Connect, Upstream};
use model::session::{LockDelay, SessionCheck};
use model::{Check, CheckStatus, GoDuration, Intention, KvEntry, Meta, Node, ServiceInstance, ServiceKind, Session};
use std::collections::BTreeMap;

/// The words of a line: what stands alone, and what has a name.
pub(crate) struct Words<'t> {
    plain: Vec<&'t str>,
    named: BTreeMap<&'t str, &'t str>,
}

impl<'t> Words<'t> {
    pub(crate) fn new(line: &'t str) -> Self {
        let mut words = Words { plain: Vec::new(), named: BTreeMap::new() };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(words.named.insert(name, value)),
                None => words.plain.push(word),
            }
        }
        words
    }

    fn at(&self, n: usize) -> &'t str {
        self.plain.get(n).copied().unwrap_or("")
    }

    fn text(&self, name: &str) -> String {
        self.named.get(name).copied().unwrap_or("").to_string()
    }

    fn number<N: std::str::FromStr + Default>(&self, name: &str) -> N {
        self.named.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.named.get(name).copied().unwrap_or("");
        text.split(',').filter(|part| !part.is_empty()).map(str::to_string).collect()
    }

    fn pairs(&self, name: &str) -> Meta {
        let pair = |pair: String| pair.split_once(':').map(|(k, v)| (k.to_string(), v.to_string()));
        self.list(name).into_iter().filter_map(pair).collect()
    }
}

/// What a line's command does at the line's time (`at=`, in milliseconds).
pub(crate) fn apply(catalog: &mut Catalog, line: &str) -> (Response, Changes) {
    catalog.apply_at(time_ms(line), command(line))
}

/// When a line's command comes; 0 if the line does not say.
pub(crate) fn time_ms(line: &str) -> u64 {
    Words::new(line).number("at")
}

/// A command from a line.
pub(crate) fn command(line: &str) -> Command {
    let words = Words::new(line);
    let rest = |skip: usize| line.split_whitespace().skip(skip).collect::<Vec<_>>().join(" ");
    match words.at(0) {
        "node" => Command::Register(Box::new(Registration { node: node(&words), ..Registration::default() })),
        "service" => Command::Register(Box::new(on_known_node(&words, Some(service(&words)), Vec::new()))),
        "check" => Command::Register(Box::new(on_known_node(&words, None, vec![check(&words)]))),
        "deregister" => Command::Deregister(Deregistration {
            node: words.at(1).into(),
            service_id: Some(words.text("service")).filter(|id| !id.is_empty()),
            check_id: Some(words.text("check")).filter(|id| !id.is_empty()),
        }),
        "health" => Command::SetNodeHealth { node: Box::new(node(&words)), alive: words.at(2) == "alive" },
        "remove" => Command::RemoveNode { node: words.at(1).into(), id: words.text("id") },
        "sync" => Command::Sync(Box::new(sync(&words))),
        "kv" => Command::Kv(kv(&words)),
        "txn" => Command::Txn(rest(1).split(" ; ").map(txn_op).collect()),
        "session" => Command::CreateSession(Box::new(session(&words))),
        "unsession" => Command::DestroySession { id: words.at(1).into() },
        "intention" => Command::SetIntention(Box::new(intention(&words))),
        "unintention" => Command::DeleteIntention { source: words.at(1).into(), destination: words.at(2).into() },
        "config" => Command::SetConfigEntry { entry: Box::new(entry(&rest(1))), cas: None },
        "config-cas" => Command::SetConfigEntry { entry: Box::new(entry(&rest(2))), cas: words.at(1).parse().ok() },
        "unconfig" => Command::DeleteConfigEntry {
            kind: words.at(1).into(),
            name: words.at(2).into(),
            cas: words.at(3).parse().ok(),
        },
        "ca" => Command::SetCa { expected: words.number("expected"), state: Box::new(ca(words.at(1))) },
        "revoke" => Command::Revoke(Revocation {
            serials: words.list("serials"),
            ids: words.list("ids"),
            until_secs: words.number("until"),
        }),
        "forget" => Command::ForgetRevoked { before_secs: words.at(1).parse().unwrap_or(0) },
        "datacenter" => Command::SetDatacenter(Box::new(Datacenter {
            name: words.at(1).into(),
            servers: words.list("servers"),
            gateways: words.list("gateways"),
            primary: words.text("primary") == "yes",
        })),
        "undatacenter" => Command::DeleteDatacenter { name: words.at(1).into() },
        other => panic!("no such command: {other}"),
    }
}

fn node(words: &Words<'_>) -> Node {
    Node {
        id: words.text("id"),
        name: words.at(1).into(),
        address: words.text("address"),
        datacenter: "dc1".into(),
        tagged_addresses: words.pairs("tagged"),
        meta: words.pairs("meta"),
        ..Node::default()
    }
}

fn on_known_node(words: &Words<'_>, service: Option<ServiceInstance>, checks: Vec<Check>) -> Registration {
    let node = Node { name: words.at(1).into(), ..Node::default() };
    Registration { node, skip_node_update: true, service, checks }
}

fn service(words: &Words<'_>) -> ServiceInstance {
    let kind = match words.text("kind").as_str() {
        "" => ServiceKind::Typical,
        "sidecar" => ServiceKind::ConnectProxy,
        "gateway" => ServiceKind::MeshGateway,
        other => panic!("no such kind: {other}"),
    };
    let mut service = ServiceInstance {
        kind,
        id: words.at(2).into(),
        service: words.at(3).into(),
        tags: words.list("tags"),
        address: words.text("address"),
        port: words.number("port"),
        meta: words.pairs("meta"),
        enable_tag_override: words.text("override") == "yes",
        connect: Connect { native: words.text("native") == "yes" },
        ..ServiceInstance::default()
    };
    service.proxy.destination_service_name = words.text("for");
    service.proxy.destination_service_id = words.text("for-id");
    service.proxy.local_service_port = words.number("local-port");
    service.proxy.upstreams = words.list("upstreams").iter().map(|text| upstream(text)).collect();
    for (key, value) in words.pairs("settings") {
        service.proxy.config.insert(key, serde_json::from_str(&value).unwrap_or(value.into()));
    }
    for (network, address) in words.pairs("tagged") {
        let address = model::service::ServiceAddress { address, port: 0 };
        service.tagged_addresses.insert(network, address);
    }
    service
}

/// `db:9191` or `db.dc2:9191`.
fn upstream(text: &str) -> Upstream {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let (service, datacenter) = name.split_once('.').unwrap_or((name, ""));
    Upstream {
        destination_name: service.into(),
        datacenter: datacenter.into(),
        local_bind_port: port.parse().expect("a port"),
        ..Upstream::default()
    }
}

fn check(words: &Words<'_>) -> Check {
    Check {
        check_id: words.at(2).into(),
        name: words.at(2).into(),
        status: words.at(3).parse().expect("a status"),
        output: words.text("output"),
        service_id: words.text("service"),
        ..Check::default()
    }
}

/// `sync n1 services=id:name:tag check=… full=yes`
fn sync(words: &Words<'_>) -> SyncPush {
    let parts = |text: String| text.split(':').map(str::to_string).collect::<Vec<_>>();
    let services = words.list("services").into_iter().map(parts).map(|p| ServiceInstance {
        id: p[0].clone(),
        service: p[1].clone(),
        tags: p[2..].to_vec(),
        enable_tag_override: words.text("override") == "yes",
        ..ServiceInstance::default()
    });
    let checks = words.list("checks").into_iter().map(parts).map(|p| Check {
        check_id: p[0].clone(),
        status: p[1].parse().expect("a status"),
        service_id: p.get(2).cloned().unwrap_or_default(),
        ..Check::default()
    });
    SyncPush {
        node: node(words),
        services: services.collect(),
        checks: checks.collect(),
        deregister_services: words.list("no-services"),
        deregister_checks: words.list("no-checks"),
        full: words.text("full") == "yes",
        after: words.named.get("after").map(|after| after.parse().expect("an index")),
    }
}

fn kv(words: &Words<'_>) -> KvCommand {
    let key = words.at(2).to_string();
    let value = words.at(3).to_string().into();
    match words.at(1) {
        "set" => KvCommand::Set { key, value, flags: words.number("flags") },
        "cas" => KvCommand::Cas { key, value, flags: words.number("flags"), cas: words.number("index") },
        "delete" => KvCommand::Delete { key },
        "delete-cas" => KvCommand::DeleteCas { key, cas: words.number("index") },
        "delete-tree" => KvCommand::DeleteTree { prefix: key },
        "put" => {
            let session = Some(words.text("session")).filter(|id| !id.is_empty());
            KvCommand::Put(KvEntry { key, value, flags: words.number("flags"), lock_index: 1, session })
        }
        "lock" => KvCommand::Lock { key, value, flags: words.number("flags"), session: words.text("session") },
        "unlock" => KvCommand::Unlock { key, value, flags: words.number("flags"), session: words.text("session") },
        other => panic!("no such kv command: {other}"),
    }
}

/// `kv set a 1`, `node set n1 address=…`, `service cas n1 id name index=5`, `check delete n1 c`
fn txn_op(line: &str) -> TxnOp {
    let (noun, verb_and_rest) = line.split_once(' ').expect("a verb");
    let (verb, after) = verb_and_rest.split_once(' ').unwrap_or((verb_and_rest, ""));
    // The parsers of nouns expect a word in front of the name.
    let rest = format!("{noun} {after}");
    let words = Words::new(&rest);
    let index = words.number("index");
    match noun {
        "kv" => TxnOp::Kv(TxnKv {
            verb: serde_json::from_value(verb.into()).expect("a verb"),
            key: words.at(1).into(),
            value: words.at(2).to_string().into(),
            flags: words.number("flags"),
            index,
            session: words.text("session"),
        }),
        "node" => TxnOp::Node { verb: txn_verb(verb), node: Box::new(node(&words)), index },
        "service" => {
            TxnOp::Service { verb: txn_verb(verb), node: words.at(1).into(), service: Box::new(service(&words)), index }
        }
        "check" => {
            let mut check = if words.at(3).is_empty() {
                Check { check_id: words.at(2).into(), ..Check::default() }
            } else {
                check(&words)
            };
            check.node = words.at(1).into();
            TxnOp::Check { verb: txn_verb(verb), check: Box::new(check), index }
        }
        other => panic!("no such operation: {other}"),
    }
}

fn txn_verb(verb: &str) -> TxnVerb {
    serde_json::from_value(verb.into()).expect("a verb")
}

/// What became of a transaction, one line each.
pub(crate) fn show_outcome(outcome: &TxnOutcome) -> String {
    let result = |result: &TxnResult| match result {
        TxnResult::Kv(row) => show_kv(row),
        TxnResult::Node(row) => show_node(row),
        TxnResult::Service(row) => show_service(row),
        TxnResult::Check(row) => show_check(row),
    };
    let results = outcome.results.iter().map(result);
    let errors = outcome.errors.iter().map(|error| format!("error {}: {}", error.op_index, error.what));
    lines(results.chain(errors), |line| line)
}

/// `session s1 n1 checks=serfHealth service-checks=c1 delay=5s ttl=10s behavior=delete`
fn session(words: &Words<'_>) -> Session {
    let service_checks = words.list("service-checks").into_iter();
    let delay: GoDuration = words.text("delay").parse().unwrap_or(GoDuration::from_secs(15));
    Session {
        id: words.at(1).into(),
        node: words.at(2).into(),
        lock_delay: LockDelay(delay.0),
        behavior: words.text("behavior").parse().expect("a behaviour"),
        ttl: words.text("ttl"),
        node_checks: words.list("checks"),
        service_checks: service_checks.map(|id| SessionCheck { id, ..SessionCheck::default() }).collect(),
        ..Session::default()
    }
}

fn intention(words: &Words<'_>) -> Intention {
    Intention {
        id: words.text("id"),
        source_name: words.at(1).into(),
        destination_name: words.at(2).into(),
        action: if words.at(3) == "allow" { Action::Allow } else { Action::Deny },
        created_at: words.text("created"),
        ..Intention::default()
    }
}

fn entry(json: &str) -> ConfigEntry {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn ca(name: &str) -> CaState {
    let root = CaRoot { id: name.into(), root_cert: format!("PEM of {name}"), active: true, ..CaRoot::default() };
    CaState { trust_domain: "t.consul".into(), roots: vec![root], ..CaState::default() }
}

/// A read from a line: `health web passing tags=a,b`. Its value as text; every row shows when it last changed.
pub(crate) fn read(view: &View<'_>, line: &str) -> String {
    let words = Words::new(line);
    let selection = Selection {
        tags: words.list("tags"),
        node_meta: words.pairs("meta").into_iter().collect(),
        passing: words.text("passing") == "yes",
    };
    let name = words.at(1);
    let meta = selection.node_meta.as_slice();
    match words.at(0) {
        "nodes" => lines(query::node::nodes(view, meta), show_node),
        "node" => lines(query::node::node(view, name), show_node),
        "node-id" => lines(query::node::node_by_id(view, name), show_node),
        "names" => lines(query::service::names(view, meta), |(name, tags)| format!("{name} {tags:?}")),
        "all" => lines(query::service::all(view), |placed| show_placed(&placed)),
        "instances" => lines(query::service::instances(view, name, &selection), |placed| show_placed(&placed)),
        "connect" => lines(query::service::connect(view, name, &selection), |placed| show_placed(&placed)),
        "connect-names" => lines(query::service::connect_names(view), str::to_string),
        "health" => lines(query::service::health(view, name, &selection), |entry| show_entry(&entry)),
        "health-connect" => lines(query::service::health_connect(view, name, &selection), |entry| show_entry(&entry)),
        "on-node" => match query::service::on_node(view, name) {
            Some((node, services)) => {
                format!("{}\n{}", show_node(node), lines(services, show_service))
            }
            None => "none".into(),
        },
        "proxies" => lines(query::service::proxies_on(view, name), show_service),
        "instance" => lines(query::service::instance(view, name, words.at(2)), show_service),
        "node-checks" => lines(query::check::of_node(view, name), show_check),
        "check" => lines(query::check::check(view, name, words.at(2)), show_check),
        "service-checks" => lines(query::check::of_service(view, name, meta), show_check),
        "state" => lines(query::check::in_state(view, name.parse::<CheckStatus>().ok(), meta), show_check),
        "kv" => lines(query::kv::get(view, name), show_kv),
        "list" => lines(query::kv::list(view, name), show_kv),
        "keys" => lines(query::kv::keys(view, name, words.at(2)), str::to_string),
        "txn" => {
            let ops: Vec<TxnOp> = line["txn ".len()..].split(" ; ").map(txn_op).collect();
            show_outcome(&query::txn::read(view, &ops))
        }
        "sessions" => lines(query::session::list(view), show_session),
        "session" => lines(query::session::session(view, name), show_session),
        "node-sessions" => lines(query::session::of_node(view, name), show_session),
        "intentions" => lines(query::intention::list(view), show_intention),
        "exact" => lines(query::intention::exact(view, name, words.at(2)), show_intention),
        "intention-id" => lines(query::intention::by_id(view, name), show_intention),
        "to" => lines(query::intention::matching_destination(view, name), show_intention),
        "from" => lines(query::intention::matching_source(view, name), show_intention),
        "entries" => lines(query::config_entry::entries(view, name), |row| format!("{row:?}")),
        "entry" => lines(query::config_entry::entry(view, name, words.at(2)), |row| format!("{row:?}")),
        "ca" => lines(query::ca::ca(view), |row| {
            format!("{} {:?} @{}", row.trust_domain, row.roots[0].id, row.modify_index)
        }),
        "revoked" => format!("{:?}", query::ca::revoked(view)),
        "datacenters" => {
            lines(query::datacenter::datacenters(view), |row| format!("{:?} @{}", row.value, row.modify_index))
        }
        "datacenter" => {
            lines(query::datacenter::datacenter(view, name), |row| format!("{:?} @{}", row.value, row.modify_index))
        }
        "gateways" => lines(query::gateway::mesh_gateways(view), |entry| show_entry(&entry)),
        "gateway-addresses" => lines(query::gateway::public_addresses(view), |address| address),
        "dns" => lines(query::dns::endpoints(view, name, None, false), |entry| show_entry(&entry)),
        "dns-connect" => lines(query::dns::connect_endpoints(view, name, true), |entry| show_entry(&entry)),
        "nodes-at" => lines(query::dns::nodes_at(view, name), |node| node.name.clone()),
        "services-at" => lines(query::dns::services_at(view, name), str::to_string),
        "proxy" => match catalog::compile::proxy(view, name, words.at(2), "dc1", Action::Allow) {
            Some(config) => serde_json::to_string_pretty(&config).expect("prints"),
            None => "none".into(),
        },
        other => panic!("no such read: {other}"),
    }
}

fn lines<T>(rows: impl IntoIterator<Item = T>, show: impl Fn(T) -> String) -> String {
    let shown: Vec<String> = rows.into_iter().map(show).collect();
    if shown.is_empty() { "none".into() } else { shown.join("\n") }
}

fn show_node(row: &Row<Node>) -> String {
    format!("{} {} {:?} id={:?} @{}/{}", row.name, row.address, row.meta, row.id, row.create_index, row.modify_index)
}

fn show_service(row: &Row<ServiceInstance>) -> String {
    format!("{} {}:{} {:?} @{}/{}", row.id, row.service, row.port, row.tags, row.create_index, row.modify_index)
}

fn show_placed(placed: &Placed<'_>) -> String {
    format!("{} on {}", show_service(placed.service), show_node(placed.node))
}

fn show_check(row: &Row<Check>) -> String {
    let about = if row.service_id.is_empty() {
        String::new()
    } else {
        format!(" of {}:{}{:?}", row.service_id, row.service_name, row.service_tags)
    };
    format!(
        "{}/{} {}{about} {:?} @{}/{}",
        row.node, row.check_id, row.status, row.output, row.create_index, row.modify_index
    )
}

fn show_entry(entry: &HealthEntry<'_>) -> String {
    let checks: Vec<String> = entry.checks.iter().map(|check| show_check(check)).collect();
    format!("{} on {} [{}]", show_service(entry.service), show_node(entry.node), checks.join("; "))
}

fn show_kv(row: &Row<KvEntry>) -> String {
    format!("{}={:?} flags={} @{}/{}", row.key, row.value, row.flags, row.create_index, row.modify_index)
}

fn show_session(row: &Row<Session>) -> String {
    let checks: Vec<&str> = row.check_ids().collect();
    format!(
        "{} on {} checks={checks:?} delay={:?} {:?} ttl={:?} @{}/{}",
        row.id, row.node, row.lock_delay.0, row.behavior, row.ttl, row.create_index, row.modify_index
    )
}

fn show_intention(row: &Row<Intention>) -> String {
    format!(
        "{}->{} {:?} {} id={:?} @{}/{}",
        row.source_name, row.destination_name, row.action, row.precedence, row.id, row.create_index, row.modify_index
    )
}

/// A catalog after some commands, one a line.
pub(crate) fn catalog_after(commands: &str) -> Catalog {
    let mut catalog = Catalog::new();
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (response, _) = apply(&mut catalog, line);
        assert!(matches!(response, Response::Done | Response::Synced { .. }), "{line}: {response:?}");
    }
    assert_eq!(catalog.violations(), [""; 0]);
    catalog
}

/// A topic in one word.
pub(crate) fn show_topic(topic: &Topic) -> String {
    format!("{topic:?}").replace('"', "").replace(", ", "/")
}
