//! What holds for all commands and all reads.

use crate::language::{apply, command, read, time_ms};
use crate::random::{self, READS};
use catalog::{Catalog, Command, Response, Topic, View};
use proptest::prelude::*;

/// What a read said, and what it looked at.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    value: String,
    index: u64,
    topics: Vec<Topic>,
}

fn ask(catalog: &Catalog, question: &str) -> Answer {
    let view = View::new(catalog);
    let value = read(&view, question);
    Answer { value, index: view.index(), topics: view.into_topics() }
}

fn ask_all(catalog: &Catalog) -> Vec<Answer> {
    READS.iter().map(|question| ask(catalog, question)).collect()
}

fn commands(count: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(random::command(), 1..count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whoever_must_look_again_is_told_and_nobody_else(lines in commands(50)) {
        let mut catalog = Catalog::new();
        let mut answers = ask_all(&catalog);
        for line in &lines {
            let (_, changes) = apply(&mut catalog, line);
            let now = ask_all(&catalog);
            for ((question, before), after) in READS.iter().zip(&answers).zip(&now) {
                let told = before.topics.iter().any(|topic| changes.topics.contains(topic));
                if before.value != after.value {
                    prop_assert!(told, "{line}: {question} was not told: {before:?} {after:?} {changes:?}");
                    prop_assert!(after.index > before.index, "{line}: {question} has no new index: {before:?} {after:?}");
                    prop_assert_eq!(after.index, catalog.index());
                }
                if !told {
                    prop_assert_eq!(before, after, "{} changed {} but told nobody", line, question);
                }
                prop_assert!(after.index >= before.index.max(1), "{line}: {question} ran backwards");
                prop_assert!(!after.topics.is_empty(), "{question} reads nothing");
            }
            answers = now;
        }
    }

    #[test]
    fn what_must_hold_holds_after_each_command(lines in commands(80)) {
        let mut catalog = Catalog::new();
        for line in &lines {
            let before = catalog.clone();
            let (response, changes) = apply(&mut catalog, line);
            prop_assert_eq!(catalog.violations(), Vec::<String>::new(), "{}", line);
            prop_assert_eq!(catalog.index(), before.index() + 1);
            prop_assert!(changes.topics.is_sorted_by(|a, b| a < b), "{line}: a topic is named twice");
            let failed = matches!(&response, Response::Txn(outcome) if !outcome.errors.is_empty());
            if failed || matches!(response, Response::Refused(_) | Response::CasFailed | Response::LockFailed) {
                prop_assert!(changes.is_empty(), "{line} was refused but changed {changes:?}");
            }
        }
    }

    #[test]
    fn the_same_command_again_wakes_nobody(lines in commands(40)) {
        let mut catalog = Catalog::new();
        for line in &lines {
            apply(&mut catalog, line);
            let (_, changes) = apply(&mut catalog, line);
            // A key that is written is written, as in Consul. Compare-and-set names an index that is past.
            let is_write = line.starts_with("kv") || line.starts_with("txn") || line.starts_with("intention") || line.starts_with("ca ");
            prop_assert!(is_write || changes.is_empty(), "{line}: {changes:?}");
        }
    }

    #[test]
    fn replicas_are_equal_also_one_that_starts_from_a_snapshot(lines in commands(60), cut in 0..60usize) {
        let (mut first, mut second) = (Catalog::new(), Catalog::new());
        for (at, line) in lines.iter().enumerate() {
            if at == cut {
                let mut snapshot = Vec::new();
                first.write_snapshot(&mut snapshot).expect("memory takes all");
                second = Catalog::read_snapshot(snapshot.as_slice()).expect("reads");
            }
            // One gets the command as it is, the other from the log.
            let logged = Command::stamp(&command(line).encode(), time_ms(line));
            let again = second.apply_at(Command::time_ms(&logged), Command::decode(&logged).expect("decodes"));
            let (first_answer, second_answer) = (apply(&mut first, line), again);
            prop_assert_eq!(first_answer, second_answer, "{}", line);
        }
        prop_assert_eq!(first.state_hash(), second.state_hash());
        prop_assert_eq!(ask_all(&first), ask_all(&second));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn catalog_and_health_list_instances_in_the_same_order(lines in commands(60)) {
        let mut catalog = Catalog::new();
        for line in &lines {
            apply(&mut catalog, line);
        }
        let view = View::new(&catalog);
        for service in ["web", "db"] {
            let selection = catalog::query::Selection::default();
            let plain = catalog::query::service::instances(&view, service, &selection);
            let health = catalog::query::service::health(&view, service, &selection);
            let health: Vec<_> = health.iter().map(|entry| (&entry.node.name, &entry.service.id)).collect();
            let plain: Vec<_> = plain.iter().map(|placed| (&placed.node.name, &placed.service.id)).collect();
            prop_assert_eq!(plain, health);
        }
    }
}

#[test]
fn a_clone_is_not_changed_by_what_comes_after() {
    let mut catalog = Catalog::new();
    catalog.apply(command("node n1 address=10.0.0.1"));
    let (snapshot, hash) = (catalog.clone(), catalog.state_hash());
    catalog.apply(command("service n1 web1 web"));
    catalog.apply(command("kv set a 1"));
    assert_eq!(snapshot.state_hash(), hash);
    assert_ne!(catalog.state_hash(), hash);
}

#[test]
fn what_is_deleted_by_the_thousand_is_forgotten_but_never_served_with_an_old_index() {
    let mut catalog = Catalog::new();
    let mut newest_seen = 0;
    for n in 0..10_000 {
        catalog.apply(command(&format!("kv set key/{n} 1")));
        catalog.apply(command(&format!("kv delete key/{n}")));
        if n % 1000 == 0 {
            let index = ask(&catalog, "kv key/0").index;
            assert!(index >= newest_seen, "ran backwards");
            newest_seen = index;
        }
    }
    assert!(newest_seen > 3, "the floor was raised");
    assert_eq!(ask(&catalog, "list key/").index, catalog.index());
    assert_eq!(catalog.violations(), [""; 0]);
    let mut snapshot = Vec::new();
    catalog.write_snapshot(&mut snapshot).expect("memory takes all");
    assert_eq!(Catalog::read_snapshot(snapshot.as_slice()).expect("reads"), catalog);
    assert!(snapshot.len() < 8192 * 64, "{} bytes for nothing", snapshot.len());
}

#[test]
fn services_that_come_and_go_leave_nothing_behind() {
    let mut catalog = Catalog::new();
    catalog.apply(command("node n1 address=10.0.0.1"));
    for n in 0..5_000 {
        catalog.apply(command(&format!("service n1 web{n} web{n}")));
        catalog.apply(command(&format!("check n1 c{n} passing service=web{n}")));
        catalog.apply(command(&format!("deregister n1 service=web{n}")));
    }
    assert_eq!(catalog.violations(), [""; 0]);
    assert_eq!(ask(&catalog, "health web4999").index, catalog.index());
    let mut snapshot = Vec::new();
    catalog.write_snapshot(&mut snapshot).expect("memory takes all");
    assert!(snapshot.len() < 8192 * 64, "{} bytes for nothing", snapshot.len());
}
