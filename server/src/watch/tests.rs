//! Tests of the watch: no wake-up is lost, none is spurious, and waiting is cheap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catalog::{Command, KvCommand, query};
use http::StatusCode;
use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Applies a command as the state machine does.
fn apply(watch: &Watch, command: Command) -> Index {
    let mut catalog = (*watch.current()).clone();
    let (_, changes) = catalog.apply(command);
    let index = catalog.index();
    watch.publish(catalog, &changes.topics);
    index
}

fn put(key: &str, value: &str) -> Command {
    Command::Kv(KvCommand::Set { key: key.into(), value: value.to_string().into(), flags: 0 })
}

fn value(view: &View<'_>, key: &str) -> Option<String> {
    query::kv::get(view, key).map(|row| String::from_utf8_lossy(&row.value.value).into_owned())
}

fn answer(view: &View<'_>, key: &str) -> Answer {
    let body = value(view, key).unwrap_or_default().into();
    Answer { status: StatusCode::OK, content_type: "text/plain", body }
}

#[tokio::test]
async fn a_newer_answer_does_not_wait() {
    let watch = Watch::new(Catalog::new());
    let index = apply(&watch, put("a", "1"));
    assert_eq!(watch.query(index - 1, soon(), |view| value(view, "a")).await, (Some("1".into()), index));
}

#[tokio::test]
async fn a_deadline_ends_the_wait_with_what_there_is() {
    let watch = Watch::new(Catalog::new());
    let index = apply(&watch, put("a", "1"));
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(watch.query(index, deadline, |view| value(view, "a")).await, (Some("1".into()), index));
}

#[tokio::test]
async fn closing_and_replacing_wake_everybody() {
    let watch = Arc::new(Watch::new(Catalog::new()));
    let index = apply(&watch, put("a", "1"));
    let wait =
        |watch: Arc<Watch>| tokio::spawn(async move { watch.query(index, soon(), |view| value(view, "a")).await });
    let replaced = wait(watch.clone());
    tokio::task::yield_now().await;
    let mut other = Catalog::new();
    for text in ["2", "3"] {
        other.apply(put("a", text));
    }
    watch.replace(other);
    assert_eq!(replaced.await.expect("ends").0, Some("3".into()));
    let newest = watch.read(|view| value(view, "a")).1;
    let closed = tokio::spawn({
        let watch = watch.clone();
        async move { watch.query(newest, soon(), |view| value(view, "a")).await }
    });
    tokio::task::yield_now().await;
    watch.close();
    assert_eq!(closed.await.expect("ends").0, Some("3".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_polls_sleep_through_changes_of_others() {
    let watch = Arc::new(Watch::new(Catalog::new()));
    let runs = Arc::new(AtomicUsize::new(0));
    let polls: Vec<_> = (0..5_000)
        .map(|i| {
            let (watch, runs) = (watch.clone(), runs.clone());
            tokio::spawn(async move {
                let key = format!("dir{i}/key");
                watch
                    .query(1, Instant::now() + LONG, |view| (runs.fetch_add(1, Ordering::Relaxed), value(view, &key)))
                    .await
            })
        })
        .collect();
    while watch.waiters.topics_len() < 5_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = runs.load(Ordering::Relaxed);
    for i in 0..1_000 {
        apply(&watch, put(&format!("other/{i}"), "1"));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(runs.load(Ordering::Relaxed), before, "nobody was woken");
    watch.close();
    for poll in polls {
        poll.await.expect("ends");
    }
    assert_eq!(watch.waiters.topics_len(), 0);
}

#[tokio::test]
async fn woken_polls_of_one_target_share_the_answer() {
    let watch = Arc::new(Watch::new(Catalog::new()));
    let runs = Arc::new(AtomicUsize::new(0));
    let poll = |min_index| {
        let (watch, runs) = (watch.clone(), runs.clone());
        tokio::spawn(async move {
            let run = |view: &View<'_>| {
                runs.fetch_add(1, Ordering::Relaxed);
                answer(view, "a")
            };
            watch.query_shared("/v1/kv/a", min_index, soon(), run).await
        })
    };
    let polls: Vec<_> = (0..100).map(|_| poll(1)).collect();
    while runs.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    apply(&watch, put("a", "1"));
    let mut index = 0;
    for poll in polls {
        let (answer, changed) = poll.await.expect("ends");
        assert_eq!(answer.body, "1");
        index = changed;
    }
    assert_eq!(runs.load(Ordering::Relaxed), 101, "one query for all");
    // They come back and wait, for which none of them has to ask; and the next change is seen.
    let polls: Vec<_> = (0..100).map(|_| poll(index)).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(runs.load(Ordering::Relaxed), 101);
    apply(&watch, put("a", "2"));
    for poll in polls {
        assert_eq!(poll.await.expect("ends").0.body, "2");
    }
    assert_eq!(runs.load(Ordering::Relaxed), 102);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_version_gets_it() {
    let watch = Arc::new(Watch::new(Catalog::new()));
    let waiting = tokio::spawn({
        let watch = watch.clone();
        async move { watch.applied(4, soon()).await }
    });
    for i in 0..3 {
        apply(&watch, put("a", &i.to_string()));
    }
    assert!(waiting.await.expect("ends"));
    assert!(!watch.applied(100, Instant::now() + Duration::from_millis(10)).await);
}

/// Readers on several threads follow keys while a writer changes them: each must see the last value of its key, whatever
/// the interleaving. A lost wake-up leaves its reader waiting for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    const READERS: usize = 64;
    const KEYS: usize = 8;
    const WRITES: usize = 2_000;
    let watch = Arc::new(Watch::new(Catalog::new()));
    let readers: Vec<_> = (0..READERS)
        .map(|i| {
            let watch = watch.clone();
            tokio::spawn(async move {
                let key = format!("k{}", i % KEYS);
                let (mut index, mut answers) = (0, 0);
                loop {
                    let (value, seen) = watch.query(index, soon(), |view| value(view, &key)).await;
                    assert!(seen > index || index == 0, "answered without news");
                    index = seen;
                    answers += 1;
                    if value.as_deref() == Some("last") {
                        return answers;
                    }
                }
            })
        })
        .collect();
    for i in 0..WRITES {
        apply(&watch, put(&format!("k{}", i % KEYS), &i.to_string()));
        if i % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for key in 0..KEYS {
        apply(&watch, put(&format!("k{key}"), "last"));
    }
    for reader in readers {
        let answers = tokio::time::timeout(LONG / 2, reader).await.expect("a wake-up was lost").expect("ends");
        assert!(answers >= 1);
    }
}

/// One step of an interleaving.
#[derive(Debug, Clone)]
enum Step {
    Write {
        key: u8,
    },
    /// A reader of a key begins to wait, from what it has seen.
    Begin {
        key: u8,
    },
    /// All readers that were woken run.
    Run,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4u8).prop_map(|key| Step::Write { key }),
        3 => (0..4u8).prop_map(|key| Step::Begin { key }),
        2 => Just(Step::Run),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// In every order of writes, registrations and runs: a reader whose key has changed is woken, one whose has not is not.
    #[test]
    fn exactly_those_with_news_are_woken(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let watch = Arc::new(Watch::new(Catalog::new()));
            let mut versions = BTreeMap::<u8, u64>::new();
            let mut waiting: Vec<(u8, Index, tokio::task::JoinHandle<Index>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Write { key } => {
                        let index = apply(&watch, put(&format!("d{key}/k"), "x"));
                        versions.insert(key, index);
                    }
                    Step::Begin { key } => {
                        let seen = watch.read(|view| value(view, &format!("d{key}/k"))).1;
                        let watch = watch.clone();
                        let reader = async move { watch.query(seen, soon(), |view| value(view, &format!("d{key}/k"))).await.1 };
                        waiting.push((key, seen, tokio::spawn(reader)));
                    }
                    Step::Run => {
                        for _ in 0..4 {
                            tokio::task::yield_now().await;
                        }
                        for (key, seen, reader) in &waiting {
                            let has_news = versions.get(key).is_some_and(|version| version > seen);
                            assert_eq!(reader.is_finished(), has_news, "key {key}");
                        }
                        waiting.retain(|(_, _, reader)| !reader.is_finished());
                    }
                }
            }
            waiting.iter().for_each(|(_, _, reader)| reader.abort());
        });
    }
}
