//! Tests of the local state on a real store.

use super::*;
use crate::check::spec;
use crate::config::{Scripts, Source};
use model::{AgentCheck, GoDuration, Node};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn open(folder: &tempfile::TempDir) -> Local {
    let store = Store::open(folder.path()).expect("a store");
    Local::open(store, Duration::from_secs(300), Arc::default()).expect("opens")
}

fn instance(id: &str, port: u16) -> ServiceInstance {
    ServiceInstance { id: id.into(), service: id.into(), port, ..ServiceInstance::default() }
}

fn made(id: &str, make: impl FnOnce(&mut AgentCheck)) -> AgentCheck {
    let mut check =
        AgentCheck { check_id: id.into(), name: id.into(), ttl: GoDuration::from_secs(30), ..AgentCheck::default() };
    make(&mut check);
    check
}

fn check(service: Option<&ServiceInstance>, id: &str, make: impl FnOnce(&mut AgentCheck)) -> CheckSpec {
    let mut made = made(id, make);
    made.normalize(service.map(|s| (s.id.as_str(), s.service.as_str())), 0, 1);
    spec("n1", made, service, Scripts::Off, Source::Http).expect("a check")
}

fn register(local: &Local, id: &str, checks: &[&str]) -> Registered {
    let service = instance(id, 80);
    let checks = checks.iter().map(|c| check(Some(&service), c, |_| {})).collect();
    local.register(service, checks, false).expect("registers")
}

/// What a push says: services, checks, and what is gone.
fn contents(batch: &Batch) -> (Vec<String>, Vec<String>, Vec<String>) {
    let request = batch.request(api::mp::encode(&Node::default()), 0);
    let services =
        request.services_mp.iter().map(|b| api::mp::decode::<ServiceInstance>(b).expect("a service").id).collect();
    let checks = request.checks_mp.iter().map(|b| api::mp::decode::<Check>(b).expect("a check").check_id).collect();
    let gone = request.deregister_services.into_iter().chain(request.deregister_checks).collect();
    (services, checks, gone)
}

fn take(local: &Local) -> (Vec<String>, Vec<String>, Vec<String>) {
    let Some(batch) = local.take_batch() else { return Default::default() };
    local.settled(&batch);
    contents(&batch)
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_string()).collect()
}

#[test]
fn only_what_changed_is_pushed() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    assert_eq!(register(&local, "web", &["c1", "c2"]).start, ["c1", "c2"]);
    assert_eq!(take(&local), (ids(&["web"]), ids(&["c1", "c2"]), ids(&[])));
    assert_eq!(register(&local, "web", &["c1", "c2"]), Registered::default());
    assert!(local.take_batch().is_none(), "the same again is no change");
    local.update_check("c1", CheckStatus::Passing, "fine".into()).expect("updates");
    assert_eq!(take(&local), (ids(&[]), ids(&["c1"]), ids(&[])));
    register(&local, "web", &["c1"]);
    assert_eq!(
        local.check("c1").expect("stays").status,
        CheckStatus::Passing,
        "a new registration does not make it critical"
    );
    assert!(local.check("c2").is_some(), "checks that are not named stay");
    let replaced = local.register(instance("web", 80), Vec::new(), true).expect("registers");
    assert_eq!(replaced.stop, ["c1", "c2"]);
    assert_eq!(take(&local), (ids(&[]), ids(&[]), ids(&["c1", "c2"])));
}

#[test]
fn a_failed_push_is_repeated_with_what_is_true_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    register(&local, "web", &["c1"]);
    let batch = local.take_batch().expect("dirty");
    local.deregister("web").expect("deregisters");
    register(&local, "db", &[]);
    local.put_back(batch);
    assert_eq!(take(&local), (ids(&["db"]), ids(&[]), ids(&["web", "c1"])));
    assert!(local.take_batch().is_none());
}

#[test]
fn what_is_too_large_to_be_kept_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    let mut large = instance("large", 80);
    large.tags = vec!["t".repeat(1_000); 70];
    let fits = instance("fits", 80);
    let large_check = || check(Some(&fits), "c", |made| made.notes = "n".repeat(70_000));
    let refused = [
        local.register(large, Vec::new(), false).err(),
        local.register(fits.clone(), vec![large_check()], false).err(),
        local.register_check(check(None, "n", |made| made.notes = "n".repeat(70_000))).err(),
        local.register(instance(&"i".repeat(1_100), 80), Vec::new(), false).err(),
    ];
    for error in refused {
        let error = error.expect("it cannot be kept");
        assert_eq!(error.status, 400, "{error}");
        assert!(error.to_string().contains("too large"), "{error}");
    }
    assert_eq!(local.counts(), (0, 0));
    assert!(local.take_batch().is_none());
    local.shared.store.commit();
    drop(local);
    assert_eq!(open(&folder).counts(), (0, 0));
}

#[test]
fn what_is_gone_is_not_forgotten_until_the_servers_know() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    register(&local, "web", &["c1"]);
    take(&local);
    assert_eq!(local.deregister("web").expect("deregisters"), Some(ids(&["c1"])));
    assert_eq!(local.deregister("web").expect("answers"), None);
    drop(local);
    let local = open(&folder);
    let batch = local.take_batch().expect("dirty after a restart");
    assert_eq!(contents(&batch).2, ["web", "c1"]);
    // Back before the servers have heard: then it is not gone.
    register(&local, "web", &[]);
    local.settled(&batch);
    assert_eq!(take(&local).0, ["web"]);
    local.shared.store.commit();
    drop(local);
    let local = open(&folder);
    let all = contents(&local.take_all());
    assert_eq!((all.0, all.2), (ids(&["web"]), ids(&[])));
}

#[test]
fn everything_comes_back_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    register(&local, "web", &["c1", "c2"]);
    local.update_check("c1", CheckStatus::Passing, "fine".into()).expect("updates");
    local.shared.store.commit();
    drop(local);
    let local = open(&folder);
    assert_eq!(local.counts(), (1, 2));
    let c1 = local.check("c1").expect("is back");
    assert_eq!((c1.status, c1.output.as_str(), c1.service_name.as_str()), (CheckStatus::Passing, "fine", "web"));
    assert_eq!(local.check("c2").expect("is back").status, CheckStatus::Critical);
    assert!(local.ttl_deadline("c1").is_some_and(|due| due <= Instant::now() + Duration::from_secs(30)));
    assert_eq!(local.checks_for("web").len(), 2);
    assert_eq!(take(&local), (ids(&["web"]), ids(&["c1", "c2"]), ids(&[])), "the servers may have forgotten");
}

#[test]
fn a_new_output_alone_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    register(&local, "web", &["c1"]);
    take(&local);
    local.update_check("c1", CheckStatus::Critical, "one".into()).expect("updates");
    local.update_check("c1", CheckStatus::Critical, "two".into()).expect("updates");
    assert!(local.take_batch().is_none());
    assert_eq!(local.check("c1").expect("is there").output, "two", "here it is known at once");
    let due = local.release_deferred(Instant::now()).expect("is due some time");
    assert!(local.take_batch().is_none());
    assert_eq!(local.release_deferred(due), None);
    assert_eq!(take(&local).1, ["c1"]);
}

#[test]
fn aliases_follow() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    let sidecar = instance("web-sidecar-proxy", 21000);
    let alias = check(Some(&sidecar), "alias", |c| {
        c.ttl = GoDuration::ZERO;
        c.alias_service = "web".into();
    });
    local.register(sidecar, vec![alias], false).expect("registers");
    let says = |local: &Local| local.check("alias").map(|c| (c.status, c.output.clone())).expect("is there");
    assert_eq!(says(&local).0, CheckStatus::Critical);
    register(&local, "web", &[]);
    assert_eq!(says(&local), (CheckStatus::Passing, "No checks found.".to_string()));
    register(&local, "web", &["c1"]);
    assert_eq!(says(&local), (CheckStatus::Critical, "Aliased check \"c1\" failing: ".to_string()));
    local.update_check("c1", CheckStatus::Passing, String::new()).expect("updates");
    assert_eq!(says(&local), (CheckStatus::Passing, "All checks passing.".to_string()));
    local.register_check(check(None, "node", |_| {})).expect("registers");
    assert_eq!(says(&local).0, CheckStatus::Critical, "the node's checks count");
    local.deregister_check("node").expect("deregisters");
    assert_eq!(says(&local).0, CheckStatus::Passing);
    local.deregister("web").expect("deregisters");
    assert_eq!(says(&local), (CheckStatus::Critical, "Service web could not be found on node".to_string()));
}

#[test]
fn a_new_alias_says_at_once_what_there_is_to_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    register(&local, "web", &[]);
    let sidecar = instance("web-sidecar-proxy", 21000);
    let alias = |service: Option<&ServiceInstance>, id: &str| {
        check(service, id, |c| {
            c.ttl = GoDuration::ZERO;
            c.alias_service = "web".into();
        })
    };
    let own = alias(Some(&sidecar), "alias");
    local.register(sidecar, vec![own], false).expect("registers");
    local.register_check(alias(None, "of-node")).expect("registers");
    for id in ["alias", "of-node"] {
        assert_eq!(local.check(id).expect("is there").status, CheckStatus::Passing, "{id}");
    }
}

#[test]
fn only_services_that_are_critical_too_long_are_overdue() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    let web = instance("web", 80);
    let reaped = check(Some(&web), "c1", |c| c.deregister_critical_service_after = GoDuration::from_secs(90));
    local.register(web, vec![reaped], false).expect("registers");
    register(&local, "db", &["c2"]);
    let now = Instant::now();
    assert!(local.overdue(now + Duration::from_secs(80)).is_empty());
    assert_eq!(local.overdue(now + Duration::from_secs(100)), ["web"]);
    local.update_check("c1", CheckStatus::Passing, String::new()).expect("updates");
    assert!(local.overdue(now + Duration::from_secs(10_000)).is_empty());
}

#[test]
fn a_check_needs_its_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = open(&folder);
    let orphan = check(Some(&instance("web", 80)), "c1", |_| {});
    assert_eq!(local.register_check(orphan).expect_err("refused").text, "ServiceID \"web\" does not exist");
    assert!(!local.deregister_check("c1").expect("answers"));
}

/// Something that happens to an agent.
#[derive(Debug, Clone)]
enum Event {
    Register(u8, u16),
    Deregister(u8),
    Report(u8, bool),
    Push { works: bool },
    PushAll { works: bool },
    PushWhile(Box<Event>),
}

fn event() -> impl Strategy<Value = Event> {
    let simple = prop_oneof![
        (0..4u8, 0..3u16).prop_map(|(id, port)| Event::Register(id, port)),
        (0..4u8).prop_map(Event::Deregister),
        (0..4u8, any::<bool>()).prop_map(|(id, ok)| Event::Report(id, ok)),
        any::<bool>().prop_map(|works| Event::Push { works }),
        any::<bool>().prop_map(|works| Event::PushAll { works }),
    ];
    prop_oneof![4 => simple.clone(), 1 => simple.prop_map(|event| Event::PushWhile(Box::new(event)))]
}

/// What the servers have, as port and status.
#[derive(Default, Debug, PartialEq)]
struct Catalog {
    services: BTreeMap<String, u16>,
    checks: BTreeMap<String, CheckStatus>,
}

impl Catalog {
    fn apply(&mut self, batch: &Batch) {
        let request = batch.request(api::mp::encode(&Node::default()), 0);
        if request.full {
            *self = Catalog::default();
        }
        for bytes in &request.services_mp {
            let service: ServiceInstance = api::mp::decode(bytes).expect("a service");
            self.services.insert(service.id, service.port);
        }
        for bytes in &request.checks_mp {
            let check: Check = api::mp::decode(bytes).expect("a check");
            self.checks.insert(check.check_id, check.status);
        }
        self.services.retain(|id, _| !request.deregister_services.contains(id));
        self.checks.retain(|id, _| !request.deregister_checks.contains(id));
    }

    fn of(local: &Local) -> Catalog {
        Catalog {
            services: local.services().iter().map(|s| (s.id.clone(), s.port)).collect(),
            checks: local.checks().iter().map(|c| (c.check_id.clone(), c.status)).collect(),
        }
    }
}

fn happen(local: &Local, catalog: &mut Catalog, event: &Event) {
    match event {
        Event::Register(id, port) => {
            let service = instance(&format!("s{id}"), *port);
            let checks = vec![check(Some(&service), &format!("c{id}"), |_| {})];
            local.register(service, checks, false).expect("registers");
        }
        Event::Deregister(id) => drop(local.deregister(&format!("s{id}")).expect("deregisters")),
        Event::Report(id, ok) => {
            let status = if *ok { CheckStatus::Passing } else { CheckStatus::Critical };
            local.update_check(&format!("c{id}"), status, String::new()).expect("updates");
        }
        Event::Push { works } => finish(local, catalog, local.take_batch(), *works),
        Event::PushAll { works } => finish(local, catalog, Some(local.take_all()), *works),
        Event::PushWhile(event) => {
            let batch = local.take_batch();
            if !matches!(**event, Event::Push { .. } | Event::PushAll { .. }) {
                happen(local, catalog, event);
            }
            finish(local, catalog, batch, true);
        }
    }
}

fn finish(local: &Local, catalog: &mut Catalog, batch: Option<Batch>, works: bool) {
    match batch {
        Some(batch) if works => {
            catalog.apply(&batch);
            local.settled(&batch);
        }
        Some(batch) => local.put_back(batch),
        None => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens, and however many pushes fail: in the end the servers have what the agent has, also after a restart.
    #[test]
    fn the_servers_end_up_with_what_is_here(before in proptest::collection::vec(event(), 0..20), after in proptest::collection::vec(event(), 0..20)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut catalog = Catalog::default();
        let local = open(&folder);
        before.iter().for_each(|event| happen(&local, &mut catalog, event));
        local.shared.store.commit();
        drop(local);
        let local = open(&folder);
        after.iter().for_each(|event| happen(&local, &mut catalog, event));
        happen(&local, &mut catalog, &Event::Push { works: true });
        prop_assert_eq!(catalog, Catalog::of(&local));
        prop_assert!(local.take_batch().is_none());
    }
}
