//! One service calls another through their sidecars while the intention between them flips: soon after a denial nothing passes, neither on
//! new connections nor on those that stand; and soon after it is allowed again, calls pass.

use std::time::Duration;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::api::{Api, Failure, Mode};
use crate::client::{Client, Need, Workload};

/// Callers come first; then one who flips the intention, and one who looks whether the callee's agent reaches the servers.
const CALLERS: usize = 3;

/// The agent of the callee.
const CALLEE: usize = 1;

/// After an acknowledged denial calls may pass for so long.
const LAG_NS: u64 = 2_000_000_000;

/// That is demanded when the callee's agent has reached the servers for so long: before that, its proxy may still go back to a server.
const CALM_NS: u64 = 6_000_000_000;

/// Between two answers to the callee's agent while it reaches the servers.
const GAP_NS: u64 = 1_500_000_000;

/// A change of unknown outcome may come so much later.
const LATE_NS: u64 = 20_000_000_000;

/// How long an intention stays, in milliseconds.
const STAY_MS: (u64, u64) = (3_000, 6_000);

/// When all is healed, the proxies must have heard of a change after so long.
const HEAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Then calls are made for so long after the last denial, on the connection that stands and on new ones.
const LAST_STAY: Duration = Duration::from_secs(3);

pub(crate) struct Intention;

/// What the intentions say of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rule {
    Allow,
    Deny,
    /// No intention names the caller, and nobody else may call.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Set(Rule),
    /// The one for everybody, which stays.
    Others,
    Request {
        anew: bool,
    },
    /// A call that may pass or not: whether the proxies are back.
    Probe,
    /// A `consistent` read through the callee's agent.
    Reach,
}

#[async_trait(?Send)]
impl Workload for Intention {
    fn name(&self) -> &'static str {
        "intention"
    }

    fn clients(&self) -> usize {
        CALLERS + 2
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Agents, Need::Sidecars]
    }

    async fn run(&self, client: &mut Client) {
        match client.number {
            CALLERS => flip(client).await,
            number if number > CALLERS => reach(client).await,
            _ => {
                while client.goes_on() {
                    // A connection that is hung up may have no successor; the first caller keeps what it has.
                    let anew = client.number > 0 && client.rng.below(3) == 0;
                    call(client, Call::Request { anew }).await;
                    client.think(5, 30).await;
                }
            }
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for rule in [Rule::Allow, Rule::Deny, Rule::Allow] {
            client.insist(Call::Set(rule), async |api| set(api, rule).await).await?;
            until(client, rule).await?;
        }
        client.insist(Call::Set(Rule::Gone), async |api| set(api, Rule::Gone).await).await?;
        for anew in [false, true] {
            let until = Instant::now() + LAST_STAY;
            while Instant::now() < until {
                call(client, Call::Request { anew }).await;
            }
        }
        Ok(())
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        for source in ["web", "*"] {
            let path = path(source);
            client.insist("clear", async |api| api.send("DELETE", &path, "").await.map(|_| ())).await?;
        }
        Ok(())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, bool>(history, self.name()) {
            Ok(operations) => judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

fn path(source: &str) -> String {
    format!("/v1/connect/intentions/exact?source={source}&destination=api")
}

async fn set(api: &mut Api<'_>, rule: Rule) -> Result<bool, Failure> {
    let body = |action: &str| json!({"Action": action}).to_string();
    let (method, body) = match rule {
        Rule::Allow => ("PUT", body("allow")),
        Rule::Deny => ("PUT", body("deny")),
        Rule::Gone => ("DELETE", String::new()),
    };
    api.send(method, &path("web"), &body).await.map(|_| true)
}

async fn flip(client: &mut Client) {
    let body = json!({"Action": "deny"}).to_string();
    let mut is_set = false;
    while client.goes_on() && !is_set {
        let (server, others) = (client.any_server(), path("*"));
        let set = client.ask(server, Call::Others, async |api| api.send("PUT", &others, &body).await.map(|_| true));
        is_set = set.await.is_ok();
    }
    let mut rule = Rule::Allow;
    while client.goes_on() {
        let server = client.any_server();
        if client.ask(server, Call::Set(rule), async |api| set(api, rule).await).await.is_ok() {
            rule = match rule {
                Rule::Allow if client.rng.below(2) == 0 => Rule::Deny,
                Rule::Allow => Rule::Gone,
                Rule::Deny | Rule::Gone => Rule::Allow,
            };
            let stay = client.rng.between_ms(STAY_MS.0, STAY_MS.1);
            client.pause(stay).await;
        }
    }
}

/// A call from one application to the other, on the connection that stands or on a new one. True when it was answered.
async fn call(client: &mut Client, what: Call) -> bool {
    let upstream = client.upstream();
    let answered = client.ask(upstream, what, async |api| {
        if what != (Call::Request { anew: false }) {
            api.hang_up();
        }
        let reply = api.send("GET", "/", "").await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        if text.starts_with("api ") {
            Ok(true)
        } else {
            Err(Failure::Failed(format!("somebody else answered: {text}")))
        }
    });
    answered.await.is_ok()
}

/// Asks through the callee's agent.
async fn reach(client: &mut Client) {
    let agent = client.agent(CALLEE);
    while client.goes_on() {
        let read = async |api: &mut Api<'_>| api.see("jlt/none", Mode::Consistent, None).await.map(|_| true);
        client.ask(agent, Call::Reach, read).await.ok();
        client.think(100, 200).await;
    }
}

/// Waits until calls obey.
async fn until(client: &mut Client, rule: Rule) -> Result<(), String> {
    let deadline = Instant::now() + HEAL_TIMEOUT;
    while call(client, Call::Probe).await != (rule == Rule::Allow) {
        if Instant::now() > deadline {
            return Err(format!(
                "intention: calls do not obey {rule:?} {HEAL_TIMEOUT:?} after it was set, though all is healed"
            ));
        }
    }
    Ok(())
}

fn judge(operations: &[Typed<Call, bool>]) -> Judgement {
    let mut judgement = Judgement::default();
    let (mut passed, mut refused, mut denials) = (0, 0, 0);
    for operation in operations {
        match (operation.call, &operation.seen) {
            (Call::Request { anew }, Some(Some(true))) => {
                passed += 1;
                let Some(since_ns) = denied_since(operations, operation) else { continue };
                let is_last = operation.client > CALLERS + 1;
                let is_calm = || is_last || is_calm(operations, operation.start_ns, operation.end_ns);
                if operation.start_ns > since_ns + LAG_NS && is_calm() {
                    let (at, since) = (operation.start_ns / 1_000_000, since_ns / 1_000_000);
                    let connection = if anew { "a new connection" } else { "the connection that stood" };
                    judgement
                        .violations
                        .push(format!("a call passed on {connection} at {at} ms, denied since {since} ms"));
                }
            }
            (Call::Request { .. }, _) if denied_since(operations, operation).is_some() => refused += 1,
            (Call::Set(Rule::Deny | Rule::Gone), Some(Some(_))) => denials += 1,
            _ => {}
        }
    }
    judgement.cover("calls that passed", passed, 20);
    judgement.cover("calls refused while denied", refused, 10);
    judgement.cover("denials", denials, 2);
    judgement
}

/// When the denial was acknowledged that holds during the whole call, if nothing else may be so.
fn denied_since(operations: &[Typed<Call, bool>], call: &Typed<Call, bool>) -> Option<u64> {
    let changes = operations.iter().filter(|one| matches!(one.call, Call::Set(_)) && one.start_ns <= call.end_ns);
    let mut since = None;
    for change in changes {
        let is_denial = change.call != Call::Set(Rule::Allow);
        since = match change.seen {
            None => since,
            Some(Some(_)) if is_denial && change.end_ns <= call.start_ns => since.or(Some(change.end_ns)),
            Some(Some(_)) if is_denial => since,
            Some(Some(_)) => None,
            Some(None) if is_denial => since,
            Some(None) if change.end_ns + LATE_NS > call.start_ns => return None,
            Some(None) => None,
        };
    }
    since
}

/// Whether the callee's agent has reached the servers since long before the call, without a gap.
fn is_calm(operations: &[Typed<Call, bool>], start_ns: u64, end_ns: u64) -> bool {
    let from_ns = start_ns.saturating_sub(CALM_NS);
    let during = |one: &&Typed<Call, bool>| one.call == Call::Reach && one.end_ns >= from_ns && one.start_ns <= end_ns;
    let mut last_ns = from_ns;
    for one in operations.iter().filter(during) {
        if one.seen != Some(Some(true)) || one.end_ns > last_ns + GAP_NS {
            return false;
        }
        last_ns = one.end_ns;
    }
    start_ns >= CALM_NS && last_ns + GAP_NS >= start_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn operation(call: Call, seen: Option<Option<bool>>, at_s: u64) -> Typed<Call, bool> {
        Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at_s * S, end_ns: at_s * S }
    }

    fn set(rule: Rule, at_s: u64) -> Typed<Call, bool> {
        operation(Call::Set(rule), Some(Some(true)), at_s)
    }

    fn passed(at_s: u64) -> Typed<Call, bool> {
        operation(Call::Request { anew: false }, Some(Some(true)), at_s)
    }

    /// With an agent that reaches the servers each second, but at these.
    fn violations(operations: &[Typed<Call, bool>], away: &[u64]) -> usize {
        let reach = (0..60).map(|at| operation(Call::Reach, (!away.contains(&at)).then_some(Some(true)), at));
        let mut all: Vec<_> = operations.iter().cloned().chain(reach).collect();
        all.sort_by_key(|one| one.start_ns);
        judge(&all).violations.len()
    }

    #[test]
    fn good_histories_pass() {
        assert_eq!(violations(&[set(Rule::Allow, 1), passed(20)], &[]), 0);
        assert_eq!(violations(&[set(Rule::Deny, 19), passed(20)], &[]), 0, "within the lag");
        assert_eq!(violations(&[set(Rule::Deny, 10), passed(20)], &[15]), 0, "the last rule is kept");
        assert_eq!(violations(&[set(Rule::Deny, 10), set(Rule::Allow, 20), passed(20)], &[]), 0);
        let unknown = operation(Call::Set(Rule::Allow), Some(None), 9);
        assert_eq!(violations(&[unknown, set(Rule::Deny, 10), passed(20)], &[]), 0, "it may come late");
        assert_eq!(violations(&[set(Rule::Gone, 10), passed(5)], &[]), 0);
    }

    #[test]
    fn bad_histories_fail() {
        assert_eq!(violations(&[set(Rule::Allow, 1), set(Rule::Deny, 10), passed(20)], &[]), 1);
        assert_eq!(violations(&[set(Rule::Gone, 10), passed(13), passed(14), set(Rule::Allow, 15)], &[]), 2);
        assert_eq!(violations(&[set(Rule::Deny, 10), passed(20)], &[5, 30]), 1, "it was away at other times");
        let last = Typed { client: CALLERS + 2, ..passed(20) };
        assert_eq!(violations(&[set(Rule::Gone, 10), last], &[18]), 1, "when all is healed");
        let failed = operation(Call::Set(Rule::Allow), None, 12);
        assert_eq!(violations(&[set(Rule::Deny, 10), failed, passed(20)], &[]), 1);
    }
}
