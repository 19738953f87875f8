//! One service calls another through their sidecars while the intention between them flips: what the callers do, who flips, and the judge of it all.
//! Soon after a denial nothing passes, neither on new connections nor on those that stand; soon after it is allowed again, calls pass; and nobody but
//! the service that is meant ever answers.

use std::time::Duration;

use jlt_core::judgement::Judgement;
use jlt_core::record::Typed;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::api::{Api, Failure, Mode};
use crate::client::Client;

#[cfg(test)]
mod tests;

/// Callers come first; then one who flips the intention, and one who looks whether the callee's agent reaches who decides.
pub(crate) const CALLERS: usize = 3;

/// All of them.
pub(crate) const CLIENTS: usize = CALLERS + 2;

/// Between two answers to the callee's agent while it reaches who decides.
const GAP_NS: u64 = 1_500_000_000;

/// A change of unknown outcome may come so much later.
const LATE_NS: u64 = 20_000_000_000;

/// How long an intention stays, in milliseconds.
const STAY_MS: (u64, u64) = (3_000, 6_000);

/// When all is healed, the proxies must have heard of a change after so long.
const HEAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Then calls are made for so long after the lag of the last denial, on the connection that stands and on new ones.
const LAST_STAY: Duration = Duration::from_secs(1);

/// And so many at least, however slow they are.
const LAST_CALLS: u64 = 10;

/// Who calls whom, and what is promised of it.
pub(crate) struct Flips {
    pub(crate) source: &'static str,
    /// The application answers with its name and a blank.
    pub(crate) destination: &'static str,
    /// The number by which the source calls the destination.
    pub(crate) upstream: fn(&Client) -> usize,
    /// The number of the callee's agent.
    pub(crate) agent: fn(&Client) -> usize,
    /// What is read through that agent where the intentions are decided.
    pub(crate) reach: &'static str,
    /// How long a caller waits for an answer.
    pub(crate) patience: Duration,
    /// After an acknowledged denial calls may pass for so long.
    pub(crate) lag: Duration,
    /// That is demanded when the callee's agent has reached who decides for so long: before that, somebody on the way may still go back to a server.
    pub(crate) calm: Duration,
}

/// What the intentions say of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rule {
    Allow,
    Deny,
    /// No intention names the caller, and nobody else may call.
    Gone,
}

/// Each is answered by whether it was done; a call of the service, by whether the right one answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Call {
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

impl Flips {
    /// What each of the clients does.
    pub(crate) async fn run(&self, client: &mut Client) {
        match client.number {
            CALLERS => self.flip(client).await,
            number if number > CALLERS => self.look(client).await,
            _ => {
                client.patience = self.patience;
                while client.goes_on() {
                    // A connection that is hung up may have no successor; the first caller keeps what it has.
                    let anew = client.number > 0 && client.rng.below(3) == 0;
                    self.call(client, Call::Request { anew }).await;
                    client.think(5, 30).await;
                }
            }
        }
    }

    /// When all is healed: what is allowed passes, and what is denied does not.
    pub(crate) async fn finish(&self, client: &mut Client) -> Result<(), String> {
        client.patience = self.patience;
        // A short load may have ended before that was acknowledged; without it, whom no intention names may call.
        client.insist(Call::Others, async |api| self.deny_others(api).await).await?;
        for rule in [Rule::Allow, Rule::Deny, Rule::Allow] {
            client.insist(Call::Set(rule), async |api| self.set(api, rule).await).await?;
            self.until(client, rule).await?;
        }
        client.insist(Call::Set(Rule::Gone), async |api| self.set(api, Rule::Gone).await).await?;
        for anew in [false, true] {
            let until = Instant::now() + self.lag + LAST_STAY;
            let mut calls = 0;
            while Instant::now() < until || calls < LAST_CALLS {
                self.call(client, Call::Request { anew }).await;
                calls += 1;
            }
        }
        Ok(())
    }

    pub(crate) async fn clear(&self, client: &mut Client) -> Result<(), String> {
        for source in [self.source, "*"] {
            let path = self.path(source);
            client.insist("clear", async |api| api.send("DELETE", &path, "").await.map(|_| ())).await?;
        }
        Ok(())
    }

    fn path(&self, source: &str) -> String {
        format!("/v1/connect/intentions/exact?source={source}&destination={}", self.destination)
    }

    async fn set(&self, api: &mut Api<'_>, rule: Rule) -> Result<bool, Failure> {
        let body = |action: &str| json!({"Action": action}).to_string();
        let (method, body) = match rule {
            Rule::Allow => ("PUT", body("allow")),
            Rule::Deny => ("PUT", body("deny")),
            Rule::Gone => ("DELETE", String::new()),
        };
        api.send(method, &self.path(self.source), &body).await.map(|_| true)
    }

    async fn deny_others(&self, api: &mut Api<'_>) -> Result<bool, Failure> {
        let body = json!({"Action": "deny"}).to_string();
        api.send("PUT", &self.path("*"), &body).await.map(|_| true)
    }

    async fn flip(&self, client: &mut Client) {
        let mut is_set = false;
        while client.goes_on() && !is_set {
            let server = client.any_server();
            is_set = client.ask(server, Call::Others, async |api| self.deny_others(api).await).await.is_ok();
        }
        let mut rule = Rule::Allow;
        while client.goes_on() {
            let server = client.any_server();
            if client.ask(server, Call::Set(rule), async |api| self.set(api, rule).await).await.is_ok() {
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

    /// A call from one application to the other, on the connection that stands or on a new one. True when the right one answered.
    async fn call(&self, client: &mut Client, what: Call) -> bool {
        let upstream = (self.upstream)(client);
        let answered = client.ask(upstream, what, async |api| {
            if what != (Call::Request { anew: false }) {
                api.hang_up();
            }
            let reply = api.send("GET", "/", "").await?;
            let text = String::from_utf8_lossy(&reply.body);
            Ok(text.strip_prefix(self.destination).is_some_and(|rest| rest.starts_with(' ')))
        });
        answered.await == Ok(true)
    }

    /// Asks through the callee's agent.
    async fn look(&self, client: &mut Client) {
        let agent = (self.agent)(client);
        while client.goes_on() {
            let read = async |api: &mut Api<'_>| api.see(self.reach, Mode::Consistent, None).await.map(|_| true);
            client.ask(agent, Call::Reach, read).await.ok();
            client.think(100, 200).await;
        }
    }

    /// Waits until calls obey.
    async fn until(&self, client: &mut Client, rule: Rule) -> Result<(), String> {
        let deadline = Instant::now() + HEAL_TIMEOUT;
        while self.call(client, Call::Probe).await != (rule == Rule::Allow) {
            if Instant::now() > deadline {
                let (source, destination) = (self.source, self.destination);
                return Err(format!(
                    "{source} calls {destination}: calls do not obey {rule:?} {HEAL_TIMEOUT:?} after it was set, though all is healed"
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn judge(&self, operations: &[Typed<Call, bool>]) -> Judgement {
        let mut judgement = Judgement::default();
        let (mut passed, mut refused, mut due, mut denials) = (0, 0, 0, 0);
        for operation in operations {
            let at = operation.start_ns / 1_000_000;
            match (operation.call, &operation.seen) {
                (Call::Request { .. } | Call::Probe, Some(Some(false))) => {
                    judgement.violations.push(format!("a call at {at} ms was answered by somebody who was not meant"));
                }
                (Call::Request { anew }, seen) => {
                    let is_passed = *seen == Some(Some(true));
                    passed += u64::from(is_passed);
                    let Some(since_ns) = denied_since(operations, operation) else { continue };
                    refused += u64::from(!is_passed);
                    if operation.start_ns <= since_ns + nanos(self.lag) || !self.is_due(operations, operation) {
                        continue;
                    }
                    due += 1;
                    if is_passed {
                        let since = since_ns / 1_000_000;
                        let connection = if anew { "a new connection" } else { "the connection that stood" };
                        let wrong = format!("a call passed on {connection} at {at} ms, denied since {since} ms");
                        judgement.violations.push(wrong);
                    }
                }
                (Call::Set(Rule::Deny | Rule::Gone), Some(Some(_))) => denials += 1,
                _ => {}
            }
        }
        judgement.cover("calls that passed", passed, 20);
        judgement.cover("calls refused while denied", refused, 10);
        // A permission of unknown outcome may come until long after the end, and nothing is sure.
        let may_come = |one: &Typed<Call, bool>| one.call == Call::Set(Rule::Allow) && one.seen == Some(None);
        let due_least = if operations.iter().any(may_come) { 0 } else { LAST_CALLS };
        judgement.cover("calls that had to be refused", due, due_least);
        judgement.cover("denials", denials, 2);
        judgement
    }

    /// Whether the callee must have heard: in the end, or when its agent was not cut off.
    fn is_due(&self, operations: &[Typed<Call, bool>], call: &Typed<Call, bool>) -> bool {
        call.client >= CLIENTS || is_calm(operations, nanos(self.calm), call.start_ns, call.end_ns)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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

/// Whether the callee's agent has reached who decides since long before the call, without a gap.
fn is_calm(operations: &[Typed<Call, bool>], calm_ns: u64, start_ns: u64, end_ns: u64) -> bool {
    let from_ns = start_ns.saturating_sub(calm_ns);
    let during = |one: &&Typed<Call, bool>| one.call == Call::Reach && one.end_ns >= from_ns && one.start_ns <= end_ns;
    let mut last_ns = from_ns;
    for one in operations.iter().filter(during) {
        if one.seen != Some(Some(true)) || one.end_ns > last_ns + GAP_NS {
            return false;
        }
        last_ns = one.end_ns;
    }
    start_ns >= calm_ns && last_ns + GAP_NS >= start_ns
}
