//! The tasks that run checks: one small task each, which holds its probe's state only while it runs.

use super::{Finding, Plan, Probe, grpc, http, script, socket};
use crate::config::PROBES_MAX;
use crate::local::Local;
use crate::metrics::Metrics;
use model::CheckStatus;
use model::check_machine::CheckMachine;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const SECOND: Duration = Duration::from_secs(1);
/// The first run of a check comes within so long.
const FIRST_RUN_WITHIN: Duration = Duration::from_secs(1);
/// A check that has not passed for so long is no longer thought to be starting.
const STARTING_FOR: Duration = Duration::from_secs(30);

/// The running checks. Clones are the same.
#[derive(Clone)]
pub(crate) struct Runners {
    shared: Arc<Shared>,
}

struct Shared {
    local: Local,
    metrics: Arc<Metrics>,
    tasks: Mutex<BTreeMap<String, AbortHandle>>,
    room: Semaphore,
    runtime: Handle,
}

impl Runners {
    pub(crate) fn new(local: Local, metrics: Arc<Metrics>, runtime: Handle) -> Self {
        let room = Semaphore::new(PROBES_MAX);
        Runners { shared: Arc::new(Shared { local, metrics, tasks: Mutex::default(), room, runtime }) }
    }

    /// Starts a check, in place of the one with this id that may run.
    pub(crate) fn start(&self, id: &str) {
        let Some(plan) = self.shared.local.plan(id) else { return };
        let (shared, id) = (self.shared.clone(), id.to_string());
        self.stop(&id);
        let name = id.clone();
        let task = match &plan.probe {
            Probe::Alias(_) | Probe::Fixed => return,
            Probe::Ttl(_) => self.shared.runtime.spawn(async move { shared.expire(&id).await }).abort_handle(),
            _ => self.shared.runtime.spawn(async move { shared.repeat(&id, &plan).await }).abort_handle(),
        };
        self.tasks().insert(name, task);
    }

    /// Stops a check.
    pub(crate) fn stop(&self, id: &str) {
        if let Some(task) = self.tasks().remove(id) {
            task.abort();
        }
    }

    /// Stops all of them.
    pub(crate) fn stop_all(&self) {
        for task in std::mem::take(&mut *self.tasks()).into_values() {
            task.abort();
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, AbortHandle>> {
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Runs a check at its interval. The first run comes at a random moment soon after the start, so that a restart is no storm and a
    /// new service is known to be well at once. What has not passed yet is looked at more often for a while: it is starting.
    async fn repeat(&self, id: &str, plan: &Plan) {
        let mut machine = CheckMachine::new(plan.check.thresholds());
        let (begun, mut has_passed) = (Instant::now(), false);
        let mut wait = plan.interval().min(FIRST_RUN_WITHIN).mul_f64(rand::random());
        loop {
            sleep(wait).await;
            // The probe's future is large: it is on the heap, and only while it runs.
            let finding = Box::pin(self.probe(plan)).await;
            has_passed |= finding.status == CheckStatus::Passing;
            let is_starting = !has_passed && begun.elapsed() < STARTING_FOR;
            wait = if is_starting { plan.interval().min(SECOND) } else { plan.interval() };
            let Some(status) = machine.observe(finding.status) else { continue };
            self.say(id, plan, Finding { status, ..finding });
        }
    }

    async fn probe(&self, plan: &Plan) -> Finding {
        // The semaphore is never closed; if it were, running without it would be right.
        let _room = self.room.acquire().await.ok();
        self.metrics.probes.add_one();
        let (limit, check) = (plan.timeout(), &*plan.check);
        let run = async {
            match &plan.probe {
                Probe::Http => http::run(check, check.output_bytes_max()).await,
                Probe::Tcp => socket::tcp(&check.tcp).await,
                Probe::Udp => socket::udp(&check.udp, limit).await,
                Probe::Grpc => grpc::run(check).await,
                Probe::Script => script::run(&check.args, check.output_bytes_max()).await,
                Probe::Ttl(_) | Probe::Alias(_) | Probe::Fixed => Finding::passing(""),
            }
        };
        // A script gets the time to be killed; a datagram that nobody answers is no failure.
        match timeout(limit + Duration::from_millis(100), run).await {
            Ok(finding) => finding,
            Err(_) => Finding::critical(format!("Timed out ({limit:?}) running check")),
        }
    }

    /// Makes a TTL check critical when nobody reports in time.
    async fn expire(&self, id: &str) {
        while let Some(deadline) = self.local.ttl_deadline(id) {
            if deadline > Instant::now() {
                sleep_until(deadline).await;
                continue;
            }
            let Some((check, plan)) = self.local.check(id).zip(self.local.plan(id)) else { return };
            if check.output.starts_with("TTL expired") {
                // Said already: look again later.
                sleep(plan.ttl().unwrap_or(SECOND)).await;
                continue;
            }
            let output = match check.output.as_str() {
                "" => "TTL expired".to_string(),
                last => format!("TTL expired (last output before timeout follows): {last}"),
            };
            self.say(id, &plan, Finding::critical(output));
        }
    }

    fn say(&self, id: &str, plan: &Plan, finding: Finding) {
        let mut output = model::check::bound_output(finding.output);
        output.truncate(output.floor_char_boundary(plan.check.output_bytes_max()));
        if let Err(error) = self.local.update_check(id, finding.status, output) {
            tracing::warn!(check = id, %error, "cannot keep what a check says");
        }
    }
}
