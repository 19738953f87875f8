//! Two datacenters in a simulated world: real gateways with their QUIC tunnels, and calls from end to end, while gateways die and links break.

mod apps;
mod judge;
mod nemesis;
mod world;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use jlt_core::judgement::Judgement;
use serde_json::json;

use crate::trace::Trace;
use apps::{CALL_TIMEOUT, Shared};
use judge::{Call, History};
use nemesis::Nemesis;
use world::World;

const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";
const DATACENTERS: [&str; 2] = ["dc1", "dc2"];
/// The applications of each. One name is in both: the datacenter must be heard, too.
const SERVICES: [[&str; 2]; 2] = [["web", "db"], ["web", "api"]];
/// Names that lead nowhere in each, but somewhere in the other.
const NOWHERE: [&str; 2] = ["api", "db"];
const APP_PORT: u16 = 8_443;
const GATEWAY_PORT: u16 = 443;
const TUNNEL_PORT: u16 = 8_444;

/// The first tunnels stand within this time.
const JOIN_MS_MAX: u64 = 10_000;
/// After the faults: in each direction a call passes, and then all tunnels stand and are true. The longest silence, back-off and handshake
/// of a tunnel (8, 10 and 5 s) are within it.
const RECOVER_MS_MAX: u64 = 30_000;
/// Then nothing fails for so long.
const CALM_MS: u64 = 5_000;
const LOOK_MS: u64 = 20;
/// What a run must have done, for each second with faults.
const ANSWERED_PER_SECOND_MIN: u64 = 2;

/// Runs, and answers the verdict as one line of JSON, and whether it is a pass.
pub(crate) fn run(seed: u64, duration: Duration, trace: &Trace) -> Result<(String, bool), Box<dyn Error>> {
    let shared = Shared {
        seed,
        history: Rc::new(RefCell::new(History::default())),
        now_ms: Rc::default(),
        is_over: Rc::new(Cell::new(false)),
        drops: Rc::default(),
        dropped: Rc::default(),
    };
    let world = World::new(shared, trace.clone())?;
    let mut run = Run { world, nemesis: None, calm_ms: None };
    let mut judgement = Judgement::default();
    if let Err(broken) = run.phases(seed, duration) {
        judgement.violations.push(format!("liveness: {broken}"));
    }
    Ok(run.verdict(seed, duration, judgement))
}

struct Run {
    world: World,
    nemesis: Option<Nemesis>,
    /// Since when nothing may fail.
    calm_ms: Option<u64>,
}

impl Run {
    fn phases(&mut self, seed: u64, duration: Duration) -> Result<(), String> {
        self.until(JOIN_MS_MAX, "the tunnels did not come to stand", World::is_joined)?;
        self.until(JOIN_MS_MAX, "no calls passed", passes_since(0))?;
        let mut nemesis = Nemesis::new(seed, self.world.now_ms());
        let end_ms = self.world.now_ms() + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        while self.world.now_ms() < end_ms {
            nemesis.act(&mut self.world);
            self.step()?;
        }
        nemesis.heal(&mut self.world);
        self.nemesis = Some(nemesis);
        let healed_ms = self.world.now_ms();
        self.world.trace.note("phase healed");
        self.until(RECOVER_MS_MAX, "calls did not pass again", passes_since(healed_ms))?;
        self.wait(healed_ms + RECOVER_MS_MAX)?;
        self.calm_ms = Some(self.world.now_ms());
        self.wait(healed_ms + RECOVER_MS_MAX + CALM_MS)?;
        self.world.shared.is_over.set(true);
        let last_ms = u64::try_from(CALL_TIMEOUT.as_millis()).unwrap_or(u64::MAX) + CALM_MS;
        self.until(last_ms, "calls did not end", |world| {
            world.shared.history.borrow().calls.iter().all(|call| call.end_ms.is_some())
        })?;
        match self.world.is_joined() {
            true => Ok(()),
            false => Err("not all tunnels stand in the end".to_owned()),
        }
    }

    fn until(&mut self, ms_max: u64, otherwise: &str, is_so: impl Fn(&World) -> bool) -> Result<(), String> {
        let until_ms = self.world.now_ms() + ms_max;
        while self.world.now_ms() < until_ms {
            self.step()?;
            if self.world.now_ms().is_multiple_of(LOOK_MS) && is_so(&self.world) {
                return Ok(());
            }
        }
        Err(format!("{otherwise} within {ms_max} ms"))
    }

    fn wait(&mut self, until_ms: u64) -> Result<(), String> {
        while self.world.now_ms() < until_ms {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.world.step()?;
        if self.world.now_ms().is_multiple_of(LOOK_MS) {
            self.world.look();
        }
        Ok(())
    }

    fn verdict(&self, seed: u64, duration: Duration, mut judgement: Judgement) -> (String, bool) {
        let world = &self.world;
        let history = world.shared.history.borrow();
        judgement.add("tunnels", history.judge(self.calm_ms));
        let count = |is: fn(&Call) -> bool| history.calls.iter().filter(|call| is(call)).count() as u64;
        let (answered, failed) = (count(Call::is_good), count(|call| call.exists && call.has_failed()));
        let first = (proxy::limits::TUNNEL_CONNECTIONS * DATACENTERS.len()) as u64;
        judgement.cover("calls answered", answered, ANSWERED_PER_SECOND_MIN * duration.as_secs());
        judgement.cover("calls failed", failed, 1);
        judgement.cover("calls for a name that leads nowhere", count(|call| !call.exists && call.has_failed()), 1);
        judgement.cover("tunnels ended", world.lines.ended, 1);
        judgement.cover("tunnels came again", world.lines.made.saturating_sub(first), 1);
        judgement.cover("connections dropped by applications", world.shared.dropped.get(), 1);
        let happened = self.nemesis.as_ref().map(Nemesis::happened).unwrap_or_default();
        happened.iter().for_each(|(name, times)| judgement.cover(name, *times, 1));
        let bytes: u64 = history.calls.iter().map(|call| call.heard.bytes).sum();
        let (hash, lines) = world.trace.hash();
        let word = judgement.word();
        let verdict = json!({
            "seed": seed,
            "verdict": word,
            "trace": format!("{hash:016x}"),
            "lines": lines,
            "simulated_ms": world.now_ms(),
            "operations": { "calls": { "ok": answered, "failed": failed, "bytes": bytes } },
            "tunnels": { "made": world.lines.made, "ended": world.lines.ended },
            "faults": happened,
            "violations": judgement.violations,
            "undecided": judgement.undecided,
            "coverage": judgement.coverage(),
        });
        (verdict.to_string(), word == "pass")
    }
}

/// Whether from each datacenter a call to the other one has begun since and was answered.
fn passes_since(since_ms: u64) -> impl Fn(&World) -> bool {
    move |world| {
        let history = world.shared.history.borrow();
        (0..DATACENTERS.len()).all(|dc| {
            let other = DATACENTERS[1 - dc];
            let passed = |call: &Call| call.from_dc == dc && call.start_ms >= since_ms && call.to.ends_with(other);
            history.calls.iter().any(|call| passed(call) && call.is_good())
        })
    }
}
