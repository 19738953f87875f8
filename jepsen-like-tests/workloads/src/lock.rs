//! Locks that are taken, kept too long and lost: a key has one holder at a time, and a write behind the fence is never
//! of a former holder.
//!
//! Under each lock two counters are read, incremented and written. One is written in a transaction that checks the
//! lock; none of its acknowledged updates may be lost. The other is simply written, so that whoever has slept through
//! the end of its session destroys the work of the next holder: that is counted, not judged, and says why the fence is
//! needed.

mod judge;

use std::time::Duration;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, typed};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{Api, Entry, Failure};
use crate::client::{Client, Workload};
use crate::lease::{self, Created, Row, TTL_MS, TTL_SHORT_MS, Txn};

/// Few, so that clients wait for each other.
const LOCKS: usize = 3;

/// The client after them makes the final reads.
const CLIENTS: usize = 5;

/// How often a session is used before the next one.
const USES: usize = 15;

/// In so many of a thousand uses the holder sleeps for longer than its session lives; fewer, where that is long.
const SLEEPS_PER_MILLE: u64 = 80;

/// In so many the holder ends its own session.
const ENDS_PER_MILLE: u32 = 60;

/// In so many somebody tries what is not its right.
const MEDDLES_PER_MILLE: u32 = 100;

pub(crate) struct Lock;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Create {
        ttl_ms: u64,
    },
    Renew {
        session: String,
    },
    Destroy {
        session: String,
    },
    /// In a transaction, which tells the token, or not.
    Acquire {
        lock: usize,
        session: String,
        in_txn: bool,
    },
    Release {
        lock: usize,
        session: String,
    },
    Look {
        lock: usize,
    },
    Count {
        lock: usize,
    },
    /// A write of the fenced counter by who has, or had, this token.
    Fenced {
        lock: usize,
        session: String,
        token: u64,
        to: u64,
    },
    /// A write of the other counter.
    Plain {
        lock: usize,
        to: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Created(Created),
    /// Done, or there; or not.
    Is(bool),
    NoSession,
    /// A lock; `None` if it was never taken.
    Row(Option<Row>),
    Counts {
        fenced: Option<Entry>,
        plain: Option<Entry>,
    },
    Txn(Txn),
}

/// A session in use.
struct Life {
    id: String,
    ttl_ms: u64,
}

#[async_trait(?Send)]
impl Workload for Lock {
    fn name(&self) -> &'static str {
        "lock"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    async fn run(&self, client: &mut Client) {
        let mut ttl_ms = TTL_SHORT_MS;
        while client.goes_on() {
            let Some(session) = begin(client, &mut ttl_ms).await else { continue };
            // What ends it: its end, or an outcome that is not known. What may still be on its way with this session
            // does nothing after its end.
            use_it(client, &session).await;
            destroy(client, &session.id).await;
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for lock in 0..LOCKS {
            let key = client.key(lock);
            let look = async |api: &mut Api<'_>| lease::look(api, &key).await.map(|(row, _)| Answer::Row(row));
            client.insist(Call::Look { lock }, look).await?;
            let (fenced, plain) = (client.key(format!("{lock}/fenced")), client.key(format!("{lock}/plain")));
            let count = async |api: &mut Api<'_>| {
                Ok(Answer::Counts { fenced: api.read(&fenced).await?, plain: api.read(&plain).await? })
            };
            client.insist(Call::Count { lock }, count).await?;
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

/// A session on the server that is asked, with the shortest time to live that is allowed.
async fn begin(client: &mut Client, ttl_ms: &mut u64) -> Option<Life> {
    let server = client.any_server();
    let asked_ms = *ttl_ms;
    let body = json!({"TTL": format!("{asked_ms}ms"), "LockDelay": "0s", "Behavior": "release"});
    let call = Call::Create { ttl_ms: asked_ms };
    let answer = client.ask(server, call, async |api| lease::create(api, &body).await.map(Answer::Created)).await;
    match answer.ok()? {
        Answer::Created(Created::Session(id)) => Some(Life { id, ttl_ms: asked_ms }),
        Answer::Created(Created::TooShort) => {
            *ttl_ms = TTL_MS;
            None
        }
        _ => {
            // The server's own check is critical for a while.
            client.think(50, 200).await;
            None
        }
    }
}

/// Locks with one session, until it has ended or something is not known.
async fn use_it(client: &mut Client, session: &Life) -> Option<()> {
    for _ in 0..USES {
        if !client.goes_on() || !is_there(client, &session.id).await? {
            return None;
        }
        let lock = client.rng.below(LOCKS);
        if client.rng.chance(MEDDLES_PER_MILLE) {
            meddle(client, lock).await;
        }
        match take(client, lock, &session.id).await? {
            Some(row) => guarded(client, lock, session, &row).await?,
            None => client.think(5, 40).await,
        }
    }
    Some(())
}

/// The lock with its token, if it was free.
async fn take(client: &mut Client, lock: usize, session: &str) -> Option<Option<Row>> {
    let (server, key, value, in_txn) =
        (client.any_server(), client.key(lock), client.unique(), client.rng.below(2) == 0);
    let call = Call::Acquire { lock, session: session.to_owned(), in_txn };
    if in_txn {
        let ops = [lease::op("lock", &key, json!({"Session": session, "Value": lease::encoded(&value.to_string())}))];
        let answer = client.ask(server, call, async |api| lease::txn(api, &ops).await.map(Answer::Txn)).await;
        return match answer.ok()? {
            Answer::Txn(Txn::Done(rows)) => Some(rows.into_iter().next()),
            _ => Some(None),
        };
    }
    let answer = client.ask(server, call, async |api| acquire(api, &key, session, value).await).await;
    if answer.ok()? != Answer::Is(true) {
        return Some(None);
    }
    let look = async |api: &mut Api<'_>| lease::look(api, &key).await.map(|(row, _)| Answer::Row(row));
    match client.ask(server, Call::Look { lock }, look).await.ok()? {
        Answer::Row(row) => Some(row.filter(|row| row.session.as_deref() == Some(session))),
        _ => Some(None),
    }
}

/// Reads the counters, sometimes sleeps as a process that is stopped, and goes on as if nothing had happened.
async fn guarded(client: &mut Client, lock: usize, session: &Life, held: &Row) -> Option<()> {
    let (fenced_key, plain_key) = (client.key(format!("{lock}/fenced")), client.key(format!("{lock}/plain")));
    let server = client.any_server();
    let count = async |api: &mut Api<'_>| {
        Ok(Answer::Counts { fenced: api.read(&fenced_key).await?, plain: api.read(&plain_key).await? })
    };
    let Answer::Counts { fenced, plain } = client.ask(server, Call::Count { lock }, count).await.ok()? else {
        return None;
    };
    let sleeps = SLEEPS_PER_MILLE * TTL_SHORT_MS / session.ttl_ms;
    if client.rng.chance(sleeps as u32) {
        client.pause(Duration::from_millis(session.ttl_ms * 5 / 2)).await;
    } else if client.rng.chance(ENDS_PER_MILLE) {
        destroy(client, &session.id).await;
    }
    let written = fence(client, lock, session, held, fenced).await?;
    let to = plain.map_or(0, |entry| entry.value) + 1;
    let server = client.any_server();
    let put = async |api: &mut Api<'_>| api.put(&plain_key, to).await.map(Answer::Is);
    client.ask(server, Call::Plain { lock, to }, put).await.ok();
    let (key, value, server) = (client.key(lock), client.unique(), client.any_server());
    let call = Call::Release { lock, session: session.id.clone() };
    let release = async |api: &mut Api<'_>| lease::release(api, &key, &session.id, value).await.map(Answer::Is);
    let released = client.ask(server, call, release).await.ok()? == Answer::Is(true);
    if !written || !released {
        // If the session is still there, it should have held the lock.
        renew(client, &session.id).await?;
    }
    Some(())
}

/// The fenced write, by either of the two ways to say "only if I still hold it". False when it was refused.
async fn fence(client: &mut Client, lock: usize, session: &Life, held: &Row, count: Option<Entry>) -> Option<bool> {
    let (server, key, counter) = (client.any_server(), client.key(lock), client.key(format!("{lock}/fenced")));
    let to = count.map_or(0, |entry| entry.value) + 1;
    let value = lease::encoded(&to.to_string());
    let mut ops = vec![lease::op("check-session", &key, json!({"Session": session.id}))];
    if client.rng.below(2) == 0 {
        ops.push(lease::op("check-index", &key, json!({"Index": held.modify_index})));
        ops.push(lease::op("set", &counter, json!({"Value": value})));
    } else {
        let index = count.map_or(0, |entry| entry.modify_index);
        ops.push(lease::op("cas", &counter, json!({"Value": value, "Index": index})));
    }
    let call = Call::Fenced { lock, session: session.id.clone(), token: held.lock_index, to };
    let answer = client.ask(server, call, async |api| lease::txn(api, &ops).await.map(Answer::Txn)).await.ok()?;
    Some(matches!(answer, Answer::Txn(Txn::Done(_))))
}

/// With a session that nobody has: takes the lock, or gives it back.
async fn meddle(client: &mut Client, lock: usize) {
    let (server, key, number) = (client.any_server(), client.key(lock), client.unique());
    let session = format!("00000000-0000-0000-0000-{number:012}");
    if client.rng.below(2) == 0 {
        let call = Call::Acquire { lock, session: session.clone(), in_txn: false };
        client.ask(server, call, async |api| acquire(api, &key, &session, number).await).await.ok();
    } else {
        let call = Call::Release { lock, session: session.clone() };
        let release = async |api: &mut Api<'_>| lease::release(api, &key, &session, number).await.map(Answer::Is);
        client.ask(server, call, release).await.ok();
    }
}

async fn acquire(api: &mut Api<'_>, key: &str, session: &str, value: u64) -> Result<Answer, Failure> {
    Ok(lease::acquire(api, key, session, value).await?.map_or(Answer::NoSession, Answer::Is))
}

/// Renews the session. Who is told that it is gone asks another time: it must not come back.
async fn is_there(client: &mut Client, session: &str) -> Option<bool> {
    Some(renew(client, session).await? || renew(client, session).await?)
}

async fn renew(client: &mut Client, session: &str) -> Option<bool> {
    let server = client.any_server();
    let call = Call::Renew { session: session.to_owned() };
    let answer = client.ask(server, call, async |api| lease::renew(api, session).await.map(Answer::Is)).await;
    Some(answer.ok()? == Answer::Is(true))
}

async fn destroy(client: &mut Client, session: &str) {
    let server = client.any_server();
    let call = Call::Destroy { session: session.to_owned() };
    client.ask(server, call, async |api| lease::destroy(api, session).await.map(Answer::Is)).await.ok();
}
