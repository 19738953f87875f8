//! Sessions from their beginning to what comes after their end: nobody renews them, a check turns critical, their node
//! goes, they are destroyed.
//!
//! Each is a story: a node of its own, a session on it, two keys that it locks. It must not end before its time or
//! without a cause, must end soon after one, takes its keys with it in the same step, and nobody else gets them before
//! the lock delay is over.

mod judge;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, typed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{Api, Failure};
use crate::client::{Client, Workload};
use crate::lease::{self, Created, Row, TTL_MS, TTL_SHORT_MS};

/// The client after them makes the final reads.
const CLIENTS: usize = 4;

/// Stories that one client follows at a time.
const STORIES: usize = 10;

/// Stories that are kept for the end, because their keys stay delayed for long.
const LEFT_MAX: usize = 40;

/// Lock delays; the longest outlives a short run, so that nobody may ever get those keys.
const DELAYS_MS: [u64; 4] = [0, 500, 3_000, 60_000];

/// Tries to lock a delayed key before the next story may take the place of this one.
const TRIES: u32 = 12;

/// What was asked for and has not ended a session by then is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);

const NODE_CHECK: &str = "alive";
const SERVICE_CHECK: &str = "works";

#[derive(Default)]
pub(crate) struct Session {
    /// All nodes that were registered.
    nodes: Mutex<Vec<String>>,
    /// What had no end when time was over.
    left: Mutex<Vec<Story>>,
}

/// What will end a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cause {
    /// Nobody renews it.
    Ttl,
    Destroy,
    NodeCheck,
    ServiceCheck,
    Node,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Register { node: String },
    Create { node: String, cause: Cause, deletes: bool, delay_ms: u64, ttl_ms: u64 },
    Acquire { key: String, session: String },
    Renew { session: String },
    Destroy { session: String },
    Critical { node: String, check: String },
    Deregister { node: String },
    Info { session: String },
    Look { key: String },
    Leader,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done,
    Created(Created),
    /// The lock was got, or not; or the session is there, or not.
    Is(bool),
    NoSession,
    Info {
        there: bool,
        index: u64,
    },
    Row {
        row: Option<Row>,
        index: u64,
    },
    Leader(String),
}

#[derive(Debug)]
struct Story {
    session: String,
    node: String,
    cause: Cause,
    ttl: Duration,
    /// Those that it has locked and nobody has locked after it.
    keys: Vec<String>,
    /// So many more before nobody does it.
    renewals: usize,
    /// When there is something to do again.
    next: Instant,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Lives,
    /// The cause has come, or may have.
    Ends(Instant),
    /// Seen to be gone.
    Gone,
    /// What it has left was looked at; so often somebody has tried to lock it.
    Tried(u32),
}

#[async_trait(?Send)]
impl Workload for Session {
    fn name(&self) -> &'static str {
        "session"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    async fn run(&self, client: &mut Client) {
        let (mut ttl_ms, mut heir, mut stories) = (TTL_SHORT_MS, None, Vec::new());
        while client.goes_on() {
            let Some(heir) = &heir else {
                heir = self.settle(client).await;
                continue;
            };
            if client.rng.chance(100) {
                let server = client.any_server();
                client.ask(server, Call::Leader, leader).await.ok();
            }
            if stories.len() < STORIES && client.rng.chance(200) {
                stories.extend(self.begin(client, &mut ttl_ms).await);
            } else if !stories.is_empty() {
                let at = client.rng.below(stories.len());
                step(client, &mut stories[at], heir).await;
                self.put_aside(&mut stories);
            }
            client.think(1, 8).await;
        }
        lock(&self.left).extend(stories);
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        let mut stories = std::mem::take(&mut *lock(&self.left));
        let none = || "session: the healed cluster makes no session".to_owned();
        let heir = client.patiently(async |client| self.settle(client).await.ok_or_else(none)).await?;
        await_ends(client, &mut stories).await?;
        for key in stories.iter().flat_map(|story| &story.keys) {
            let call = Call::Look { key: key.clone() };
            client.insist(call, async |api| look(api, key).await).await?;
            let (call, value) = (Call::Acquire { key: key.clone(), session: heir.clone() }, client.unique());
            client.insist(call, async |api| acquire(api, key, &heir, value).await).await?;
        }
        Ok(())
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        let nodes = std::mem::take(&mut *lock(&self.nodes));
        for some in nodes.chunks(50) {
            let delete = |node: &String| json!({"Node": {"Verb": "delete", "Node": {"Node": node}}});
            let ops: Vec<Value> = some.iter().map(delete).collect();
            client.insist("clear", async |api| lease::txn(api, &ops).await).await?;
        }
        Ok(())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge::judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

impl Session {
    /// A session that never ends, and tries to lock what others have left.
    async fn settle(&self, client: &mut Client) -> Option<String> {
        let node = self.register(client).await?;
        create(client, &node, Cause::Destroy, false, 0, 0).await?.ok()
    }

    /// A node of its own, with a check and a service with a check.
    async fn register(&self, client: &mut Client) -> Option<String> {
        let (server, node) = (client.any_server(), client.named(format!("session-{}", client.unique())));
        lock(&self.nodes).push(node.clone());
        let body = json!({
            "Node": node, "Address": "10.0.0.2",
            "Service": {"ID": "web", "Service": format!("{node}-web"), "Port": 80},
            "Checks": [
                {"CheckID": NODE_CHECK, "Name": NODE_CHECK, "Status": "passing"},
                {"CheckID": SERVICE_CHECK, "Name": SERVICE_CHECK, "Status": "passing", "ServiceID": "web"},
            ],
        });
        let call = Call::Register { node: node.clone() };
        let body = body.to_string();
        client.ask(server, call, async |api| done(api, "/v1/catalog/register", &body).await).await.ok()?;
        Some(node)
    }

    async fn begin(&self, client: &mut Client, ttl_ms: &mut u64) -> Option<Story> {
        use Cause::{Destroy, Node, NodeCheck, ServiceCheck, Ttl};
        let cause = *client.rng.pick(&[Ttl, Ttl, Ttl, Destroy, NodeCheck, ServiceCheck, Node]);
        let (deletes, delay_ms) = (client.rng.below(2) == 0, *client.rng.pick(&DELAYS_MS));
        let node = self.register(client).await?;
        let life_ms = if cause == Ttl { *ttl_ms } else { 0 };
        let Ok(session) = create(client, &node, cause, deletes, delay_ms, life_ms).await? else {
            *ttl_ms = TTL_MS;
            return None;
        };
        let begun = Instant::now();
        let mut keys = Vec::new();
        for name in ["one", "two"] {
            let (server, value) = (client.any_server(), client.unique());
            let key = client.key(format!("{value}/{name}"));
            let call = Call::Acquire { key: key.clone(), session: session.clone() };
            let asked = client.ask(server, call, async |api| acquire(api, &key, &session, value).await).await;
            keys.extend((asked == Ok(Answer::Is(true))).then_some(key));
        }
        let ttl = Duration::from_millis(life_ms);
        let renewals = if cause == Ttl { client.rng.below(6) } else { 0 };
        let next = begun + between(client, renewals, ttl);
        Some(Story { session, node, cause, ttl, keys, renewals, next, phase: Phase::Lives })
    }

    /// Those that are over are forgotten; those that only wait for a long delay are put aside when there is no room.
    fn put_aside(&self, stories: &mut Vec<Story>) {
        stories.retain(|story| !(matches!(story.phase, Phase::Tried(_)) && story.keys.is_empty()));
        let waits = |story: &Story| matches!(story.phase, Phase::Tried(tries) if tries >= TRIES);
        if stories.len() == STORIES
            && let Some(at) = stories.iter().position(waits)
        {
            let story = stories.swap_remove(at);
            let mut left = lock(&self.left);
            if left.len() < LEFT_MAX {
                left.push(story);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the next renewal, or until it is left alone. Some renewals come at once, others nearly too late.
fn between(client: &mut Client, renewals: usize, ttl: Duration) -> Duration {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    match renewals {
        0 => client.rng.between_ms(50, 400),
        _ if client.rng.below(2) == 0 => client.rng.between_ms(0, 50),
        _ => client.rng.between_ms(ttl_ms / 2, ttl_ms * 9 / 10),
    }
}

/// What a story does next, if it is time.
async fn step(client: &mut Client, story: &mut Story, heir: &str) {
    if Instant::now() < story.next {
        return;
    }
    match story.phase {
        Phase::Lives if story.renewals > 0 => renew(client, story).await,
        Phase::Lives => {
            story.phase = Phase::Ends(Instant::now());
            end(client, story).await;
        }
        Phase::Ends(since) => {
            if since.elapsed() > PATIENCE {
                story.phase = Phase::Ends(Instant::now());
                end(client, story).await;
            }
            let (server, session) = (client.any_server(), story.session.clone());
            let call = Call::Info { session: session.clone() };
            let answer = client.ask(server, call, async |api| info(api, &session).await).await;
            if matches!(answer, Ok(Answer::Info { there: false, .. })) {
                story.phase = Phase::Gone;
            } else {
                story.next = Instant::now() + client.rng.between_ms(20, 200);
            }
        }
        Phase::Gone => {
            let mut seen = 0;
            for key in &story.keys {
                let (server, call) = (client.any_server(), Call::Look { key: key.clone() });
                seen += usize::from(client.ask(server, call, async |api| look(api, key).await).await.is_ok());
            }
            if seen == story.keys.len() {
                story.phase = Phase::Tried(0);
            }
        }
        Phase::Tried(tries) => {
            story.phase = Phase::Tried(tries + 1);
            story.next = Instant::now() + client.rng.between_ms(20, 200);
            if story.keys.is_empty() {
                return;
            }
            let (server, value, at) = (client.any_server(), client.unique(), client.rng.below(story.keys.len()));
            let key = story.keys[at].clone();
            let call = Call::Acquire { key: key.clone(), session: heir.to_owned() };
            let answer = client.ask(server, call, async |api| acquire(api, &key, heir, value).await).await;
            if answer == Ok(Answer::Is(true)) {
                story.keys.swap_remove(at);
            }
        }
    }
}

async fn renew(client: &mut Client, story: &mut Story) {
    let (server, session) = (client.any_server(), story.session.clone());
    let call = Call::Renew { session: session.clone() };
    let renewed = client.ask(server, call, async |api| lease::renew(api, &session).await.map(Answer::Is)).await;
    match renewed {
        Ok(Answer::Is(true)) => {
            story.renewals -= 1;
            story.next = Instant::now() + between(client, story.renewals, story.ttl);
        }
        Ok(_) => story.phase = Phase::Ends(Instant::now()),
        // It is tried again at once: otherwise it ends while nobody leads.
        Err(_) => {}
    }
}

/// Brings about what ends the session.
async fn end(client: &mut Client, story: &Story) {
    let server = client.any_server();
    let node = story.node.clone();
    match story.cause {
        Cause::Ttl => {}
        Cause::Destroy => {
            let call = Call::Destroy { session: story.session.clone() };
            let destroy = async |api: &mut Api<'_>| lease::destroy(api, &story.session).await.map(Answer::Is);
            client.ask(server, call, destroy).await.ok();
        }
        Cause::NodeCheck | Cause::ServiceCheck => {
            let of_node = story.cause == Cause::NodeCheck;
            let (check, service) = if of_node { (NODE_CHECK, "") } else { (SERVICE_CHECK, "web") };
            let check_body = json!({"CheckID": check, "Name": check, "Status": "critical", "ServiceID": service});
            let body = json!({"Node": node, "SkipNodeUpdate": true, "Check": check_body}).to_string();
            let call = Call::Critical { node, check: check.to_owned() };
            client.ask(server, call, async |api| done(api, "/v1/catalog/register", &body).await).await.ok();
        }
        Cause::Node => {
            let body = json!({"Node": node}).to_string();
            let call = Call::Deregister { node };
            client.ask(server, call, async |api| done(api, "/v1/catalog/deregister", &body).await).await.ok();
        }
    }
}

/// Looks at what nobody renews any more until it is gone, or has lived for far too long.
async fn await_ends(client: &mut Client, stories: &mut [Story]) -> Result<(), String> {
    let longest = stories.iter().map(|story| story.ttl).max().unwrap_or_default();
    let deadline = Instant::now() + 2 * judge::too_long(longest);
    loop {
        let mut open = 0;
        for story in stories.iter_mut().filter(|story| matches!(story.phase, Phase::Lives | Phase::Ends(_))) {
            let session = story.session.clone();
            let call = Call::Info { session: session.clone() };
            let answer = client.insist(call, async |api| info(api, &session).await).await?;
            match answer {
                Answer::Info { there: false, .. } => story.phase = Phase::Gone,
                _ => open += usize::from(story.cause == Cause::Ttl),
            }
        }
        client.insist(Call::Leader, leader).await?;
        if open == 0 || Instant::now() > deadline {
            return Ok(());
        }
        client.think(20, 60).await;
    }
}

/// `Err` when the time to live is too short for the servers.
async fn create(
    client: &mut Client,
    node: &str,
    cause: Cause,
    deletes: bool,
    delay_ms: u64,
    ttl_ms: u64,
) -> Option<Result<String, ()>> {
    let behavior = if deletes { "delete" } else { "release" };
    let node_checks: &[&str] = if cause == Cause::NodeCheck { &[NODE_CHECK] } else { &[] };
    let mut body = json!({
        "Node": node, "LockDelay": format!("{delay_ms}ms"), "Behavior": behavior, "NodeChecks": node_checks,
    });
    if ttl_ms > 0 {
        body["TTL"] = json!(format!("{ttl_ms}ms"));
    }
    if cause == Cause::ServiceCheck {
        body["ServiceChecks"] = json!([{"ID": SERVICE_CHECK}]);
    }
    let (server, call) =
        (client.any_server(), Call::Create { node: node.to_owned(), cause, deletes, delay_ms, ttl_ms });
    match client.ask(server, call, async |api| lease::create(api, &body).await.map(Answer::Created)).await.ok()? {
        Answer::Created(Created::Session(id)) => Some(Ok(id)),
        Answer::Created(Created::TooShort) => Some(Err(())),
        _ => None,
    }
}

async fn done(api: &mut Api<'_>, path: &str, body: &str) -> Result<Answer, Failure> {
    api.send("PUT", path, body).await.map(|_| Answer::Done)
}

async fn acquire(api: &mut Api<'_>, key: &str, session: &str, value: u64) -> Result<Answer, Failure> {
    Ok(lease::acquire(api, key, session, value).await?.map_or(Answer::NoSession, Answer::Is))
}

async fn info(api: &mut Api<'_>, session: &str) -> Result<Answer, Failure> {
    let (there, index) = lease::info(api, session).await?;
    Ok(Answer::Info { there, index })
}

async fn look(api: &mut Api<'_>, key: &str) -> Result<Answer, Failure> {
    let (row, index) = lease::look(api, key).await?;
    Ok(Answer::Row { row, index })
}

async fn leader(api: &mut Api<'_>) -> Result<Answer, Failure> {
    api.get("/v1/status/leader").await.map(Answer::Leader)
}
