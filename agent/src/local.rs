//! What this node has: its services and checks, what the servers do not know yet, and what was kept on disk.
//!
//! All changes go through [`Local`], which marks what changed as *dirty*. The anti-entropy (`sync.rs`) takes the dirty ids and
//! looks here what they are now: something that is here is put, something that is not is removed. So an item is pushed in
//! its newest form however often it changed, and a failed push only has to mark its ids dirty again.

mod alias;
mod batch;
mod kept;
#[cfg(test)]
mod tests;

pub(crate) use batch::Batch;
pub(crate) use kept::Kept;

use crate::check::Plan;
use crate::config::{CHECKS_MAX, ID_BYTES_MAX, ITEM_BYTES_MAX, SERVICES_MAX};
use crate::metrics::Metrics;
use faults::Bug;
use model::{Check, CheckStatus, ServiceInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Store, StoreError, Tree};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Something that the servers may not know yet. Services sort before checks, for a check needs its service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// An instance, by id.
    Service(String),
    /// A check, by id.
    Check(String),
}

/// A check as it is registered: the noun for the catalog and how it is made.
#[derive(Debug, Clone)]
pub(crate) struct CheckSpec {
    pub(crate) check: Check,
    pub(crate) plan: Arc<Plan>,
}

impl CheckSpec {
    fn check_size(&self) -> Result<(), api::Error> {
        let encoded = [api::mp::encode(&self.check), api::mp::encode(&*self.plan.check)];
        check_size("check", &self.check.check_id, &encoded)
    }
}

/// Refuses what the store could not keep, before anything has changed.
fn check_size(what: &str, id: &str, encoded: &[bytes::Bytes]) -> Result<(), api::Error> {
    let item: usize = encoded.iter().map(bytes::Bytes::len).sum();
    if id.len() > ID_BYTES_MAX {
        let bytes = id.len();
        return Err(api::Error::bad_request(format!(
            "the id of the {what} is too large: {bytes} bytes of at most {ID_BYTES_MAX}"
        )));
    }
    if item > ITEM_BYTES_MAX {
        return Err(api::Error::bad_request(format!(
            "{what} {id:?} is too large: {item} bytes of at most {ITEM_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// Services and checks of this node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Local {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    store: Store,
    tree: Tree<Kept>,
    /// Something became dirty.
    dirty: Notify,
    /// Counts changes, for those who wait for one.
    version: watch::Sender<u64>,
    output_interval: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    services: BTreeMap<String, Service>,
    checks: BTreeMap<String, Entry>,
    /// Checks of the node itself: they count for every instance.
    node_checks: BTreeSet<String>,
    dirty: BTreeSet<Item>,
    /// Removed here, and perhaps not yet in the catalog. On disk too.
    gone: BTreeSet<Item>,
    /// When the new output of a check is due to be told.
    deferred: BTreeSet<(Instant, String)>,
    /// Checks that repeat those of an instance, by that instance's id.
    aliases: BTreeMap<String, BTreeSet<String>>,
}

struct Service {
    instance: Arc<ServiceInstance>,
    checks: BTreeSet<String>,
}

struct Entry {
    check: Arc<Check>,
    plan: Arc<Plan>,
    critical_since: Option<Instant>,
    /// When a TTL check was last reported.
    reported: Instant,
    is_deferred: bool,
}

/// What a registration did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Checks to start, or to start anew.
    pub(crate) start: Vec<String>,
    /// Checks to stop.
    pub(crate) stop: Vec<String>,
}

impl Local {
    /// What was kept in the store; the ids of the checks to start.
    pub(crate) fn open(store: Store, output_interval: Duration, metrics: Arc<Metrics>) -> Result<Local, StoreError> {
        let tree = store.tree("agent/local")?;
        let state = kept::restore(&tree)?;
        let shared = Shared {
            state: Mutex::new(state),
            store,
            tree,
            dirty: Notify::new(),
            version: watch::Sender::new(1),
            output_interval,
            metrics,
        };
        Ok(Local { shared: Arc::new(shared) })
    }

    /// Puts an instance with its checks. A check that is there keeps what it says; checks that are not named stay, unless
    /// `replace`. Durable after [`Local::durable`].
    pub(crate) fn register(
        &self,
        instance: ServiceInstance,
        checks: Vec<CheckSpec>,
        replace: bool,
    ) -> Result<Registered, api::Error> {
        check_size("service", &instance.id, &[api::mp::encode(&instance)])?;
        checks.iter().try_for_each(CheckSpec::check_size)?;
        let mut state = self.state();
        state.check_room(&instance.id, &checks)?;
        let id = instance.id.clone();
        let mut done = Registered::default();
        let mut change = kept::Change::default();
        if replace {
            let named: BTreeSet<&str> = checks.iter().map(|c| c.check.check_id.as_str()).collect();
            let of_service = state.services.get(&id).map(|s| s.checks.clone()).unwrap_or_default();
            for old in of_service.into_iter().filter(|old| !named.contains(old.as_str())) {
                state.remove_check(&old, &mut change);
                done.stop.push(old);
            }
        }
        state.put_service(instance, &mut change);
        // A new check that repeats others says at once what they say: nothing may ever change there.
        let repeated: BTreeSet<String> = checks.iter().filter_map(|c| c.plan.alias().map(str::to_string)).collect();
        for spec in checks {
            let check_id = spec.check.check_id.clone();
            if state.put_check(spec, &mut change) {
                done.start.push(check_id);
            }
        }
        repeated.iter().chain([&id]).for_each(|target| state.update_aliases_of(target, self, &mut change));
        self.finish(state, change)?;
        self.shared.metrics.services_registered.add_one();
        Ok(done)
    }

    /// Puts a check of the node, or of an instance that is there. Says whether it is to be started.
    pub(crate) fn register_check(&self, spec: CheckSpec) -> Result<Registered, api::Error> {
        spec.check_size()?;
        let mut state = self.state();
        let (check_id, service_id) = (spec.check.check_id.clone(), spec.check.service_id.clone());
        if !service_id.is_empty() && !state.services.contains_key(&service_id) {
            return Err(api::Error::internal(format!("ServiceID {service_id:?} does not exist")));
        }
        if !state.checks.contains_key(&check_id) && state.checks.len() >= CHECKS_MAX {
            return Err(api::Error::too_many(format!("this agent has {CHECKS_MAX} checks already")));
        }
        let mut change = kept::Change::default();
        let repeated = spec.plan.alias().map(str::to_string);
        let is_new = state.put_check(spec, &mut change);
        repeated.iter().chain([&service_id]).for_each(|target| state.update_aliases_of(target, self, &mut change));
        self.finish(state, change)?;
        Ok(Registered { start: is_new.then_some(check_id).into_iter().collect(), stop: Vec::new() })
    }

    /// Removes an instance with its checks; the checks to stop, or none if there is no such instance.
    pub(crate) fn deregister(&self, id: &str) -> Result<Option<Vec<String>>, api::Error> {
        let mut state = self.state();
        let Some(service) = state.services.remove(id) else { return Ok(None) };
        let mut change = kept::Change::default();
        for check in &service.checks {
            state.remove_check(check, &mut change);
        }
        state.mark_gone(Item::Service(id.to_string()), &mut change);
        state.update_aliases_of(id, self, &mut change);
        self.finish(state, change)?;
        Ok(Some(service.checks.into_iter().collect()))
    }

    /// Removes a check; says whether there was one.
    pub(crate) fn deregister_check(&self, id: &str) -> Result<bool, api::Error> {
        let mut state = self.state();
        let Some(entry) = state.checks.get(id) else { return Ok(false) };
        let service_id = entry.check.service_id.clone();
        let mut change = kept::Change::default();
        state.remove_check(id, &mut change);
        state.update_aliases_of(&service_id, self, &mut change);
        self.finish(state, change)?;
        Ok(true)
    }

    /// What a check says now, and whether that is a new status. It is pushed at once, a new output alone when its time comes.
    pub(crate) fn update_check(&self, id: &str, status: CheckStatus, output: String) -> Result<bool, api::Error> {
        let mut state = self.state();
        let mut change = kept::Change::default();
        state.update_check(id, status, output, self, &mut change);
        let is_new = change.has_changed;
        self.finish(state, change)?;
        Ok(is_new)
    }

    /// Returns when everything that was registered before is on the disk.
    pub(crate) async fn durable(&self) {
        let (done, waiting) = tokio::sync::oneshot::channel();
        self.shared.store.commit_then(move || {
            // Nobody waits any more: the request was cancelled.
            done.send(()).ok();
        });
        // An error would mean that the store dropped the callback: it does so only when the process ends.
        waiting.await.ok();
    }

    /// When a TTL check is overdue, unless it is reported before; none if there is no such check.
    pub(crate) fn ttl_deadline(&self, id: &str) -> Option<Instant> {
        let state = self.state();
        let entry = state.checks.get(id)?;
        Some(entry.reported + entry.plan.ttl()?)
    }

    /// Marks the checks whose new output has waited long enough as dirty; returns when the next one is due.
    pub(crate) fn release_deferred(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let mut released = false;
        while let Some((due, id)) = state.deferred.first().cloned() {
            if due > now {
                break;
            }
            state.deferred.remove(&(due, id.clone()));
            if let Some(entry) = state.checks.get_mut(&id) {
                entry.is_deferred = false;
                state.dirty.insert(Item::Check(id));
                released = true;
            }
        }
        let next = state.deferred.first().map(|(due, _)| *due);
        drop(state);
        if released {
            self.shared.dirty.notify_one();
        }
        next
    }

    /// Instances with a check that has been critical for longer than it may.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<String> {
        let state = self.state();
        let is_overdue = |entry: &&Entry| {
            let limit = entry.plan.deregister_after().filter(|_| !entry.check.service_id.is_empty());
            let critical = entry.critical_since.map(|since| now.saturating_duration_since(since));
            limit.zip(critical).is_some_and(|(limit, critical)| critical >= limit)
        };
        let ids: BTreeSet<String> =
            state.checks.values().filter(is_overdue).map(|e| e.check.service_id.clone()).collect();
        ids.into_iter().collect()
    }

    /// Waits until something is dirty.
    pub(crate) async fn wait_dirty(&self) {
        self.shared.dirty.notified().await;
    }

    /// Counts changes, for those who wait for one.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere left the maps whole: each change is made of single inserts.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a change for the store while the lock is held, so that disk and memory agree in their order.
    fn finish(&self, state: MutexGuard<'_, State>, change: kept::Change) -> Result<(), api::Error> {
        let has_changed = change.has_changed;
        let queued = change.queue(&self.shared.tree);
        drop(state);
        if has_changed {
            self.shared.dirty.notify_one();
            self.shared.version.send_modify(|version| *version += 1);
        }
        queued.map_err(|e| api::Error::internal(format!("cannot keep it: {e}")))
    }
}

/// Reading.
impl Local {
    /// An instance.
    pub(crate) fn service(&self, id: &str) -> Option<Arc<ServiceInstance>> {
        self.state().services.get(id).map(|s| s.instance.clone())
    }

    /// All instances.
    pub(crate) fn services(&self) -> Vec<Arc<ServiceInstance>> {
        self.state().services.values().map(|s| s.instance.clone()).collect()
    }

    /// Whether there is such a check.
    pub(crate) fn check(&self, id: &str) -> Option<Arc<Check>> {
        self.state().checks.get(id).map(|e| e.check.clone())
    }

    /// How a check is made.
    pub(crate) fn plan(&self, id: &str) -> Option<Arc<Plan>> {
        self.state().checks.get(id).map(|e| e.plan.clone())
    }

    /// All checks.
    pub(crate) fn checks(&self) -> Vec<Arc<Check>> {
        self.state().checks.values().map(|e| e.check.clone()).collect()
    }

    /// How many services and checks there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.services.len(), state.checks.len())
    }

    /// An instance's checks and the node's.
    pub(crate) fn checks_for(&self, service_id: &str) -> Vec<Arc<Check>> {
        let state = self.state();
        let own =
            state.services.get(service_id).into_iter().flat_map(|s| &s.checks).filter_map(|id| state.checks.get(id));
        let of_node = state.node_checks.iter().filter_map(|id| state.checks.get(id));
        own.chain(of_node).map(|e| e.check.clone()).collect()
    }
}

impl State {
    fn check_room(&self, id: &str, checks: &[CheckSpec]) -> Result<(), api::Error> {
        if !self.services.contains_key(id) && self.services.len() >= SERVICES_MAX {
            return Err(api::Error::too_many(format!("this agent has {SERVICES_MAX} services already")));
        }
        if self.checks.len() + checks.len() > CHECKS_MAX {
            return Err(api::Error::too_many(format!("this agent has {CHECKS_MAX} checks already")));
        }
        Ok(())
    }

    fn put_service(&mut self, instance: ServiceInstance, change: &mut kept::Change) {
        let known = self.services.get(&instance.id);
        if known.is_some_and(|known| *known.instance == instance) {
            return;
        }
        let checks = known.map(|known| known.checks.clone()).unwrap_or_default();
        let id = instance.id.clone();
        let instance = Arc::new(instance);
        change.put_service(&id, &instance);
        self.unmark_gone(&Item::Service(id.clone()), change);
        self.services.insert(id.clone(), Service { instance, checks });
        self.dirty.insert(Item::Service(id));
    }

    /// Says whether it has to be started: it is new, or made otherwise than before.
    fn put_check(&mut self, mut spec: CheckSpec, change: &mut kept::Change) -> bool {
        let id = spec.check.check_id.clone();
        let known = self.checks.get(&id);
        if let Some(known) = known {
            spec.check.status = known.check.status;
            spec.check.output.clone_from(&known.check.output);
            if *known.check == spec.check && known.plan == spec.plan {
                return false;
            }
        }
        let now = Instant::now();
        let critical_since = match known {
            Some(known) => known.critical_since,
            None => (spec.check.status == CheckStatus::Critical).then_some(now),
        };
        let is_same_plan = known.is_some_and(|known| known.plan == spec.plan);
        let reported = known.map_or(now, |known| known.reported);
        self.insert_check(spec, critical_since, reported);
        if let Some(entry) = self.checks.get(&id) {
            change.put_check(&id, entry);
        }
        self.unmark_gone(&Item::Check(id.clone()), change);
        self.dirty.insert(Item::Check(id));
        !is_same_plan
    }

    fn insert_check(&mut self, spec: CheckSpec, critical_since: Option<Instant>, reported: Instant) {
        let id = spec.check.check_id.clone();
        if let Some(old) = self.checks.get(&id) {
            let old = old.plan.alias().map(str::to_string);
            self.unlink_alias(old.as_deref(), &id);
        }
        if let Some(target) = spec.plan.alias() {
            self.aliases.entry(target.to_string()).or_default().insert(id.clone());
        }
        self.unlink_service(&id);
        if spec.check.service_id.is_empty() {
            self.node_checks.insert(id.clone());
        } else if let Some(service) = self.services.get_mut(&spec.check.service_id) {
            service.checks.insert(id.clone());
        }
        let entry =
            Entry { check: Arc::new(spec.check), plan: spec.plan, critical_since, reported, is_deferred: false };
        self.checks.insert(id, entry);
    }

    fn remove_check(&mut self, id: &str, change: &mut kept::Change) {
        self.unlink_service(id);
        let Some(entry) = self.checks.remove(id) else { return };
        self.unlink_alias(entry.plan.alias(), id);
        self.mark_gone(Item::Check(id.to_string()), change);
    }

    /// A check may be registered again for another instance, or for the node.
    fn unlink_service(&mut self, check_id: &str) {
        let Some(entry) = self.checks.get(check_id) else { return };
        self.node_checks.remove(check_id);
        if let Some(service) = self.services.get_mut(&entry.check.service_id) {
            service.checks.remove(check_id);
        }
    }

    fn mark_gone(&mut self, item: Item, change: &mut kept::Change) {
        if faults::has(Bug::GoneForgotten) {
            return;
        }
        change.put_gone(&item);
        self.dirty.insert(item.clone());
        self.gone.insert(item);
    }

    fn unmark_gone(&mut self, item: &Item, change: &mut kept::Change) {
        if self.gone.remove(item) {
            change.forget_gone(item);
        }
    }

    fn update_check(
        &mut self,
        id: &str,
        status: CheckStatus,
        output: String,
        local: &Local,
        change: &mut kept::Change,
    ) {
        let Some(entry) = self.checks.get_mut(id) else { return };
        let now = Instant::now();
        entry.reported = now;
        let is_ttl = entry.plan.ttl().is_some();
        let (new_status, new_output) = (entry.check.status != status, entry.check.output != output);
        if new_status || new_output {
            let check = Arc::make_mut(&mut entry.check);
            check.status = status;
            check.output = output;
        }
        if is_ttl || new_status {
            change.put_check(id, entry);
        }
        if new_status {
            entry.critical_since = (status == CheckStatus::Critical).then_some(now);
            let service_id = entry.check.service_id.clone();
            if !faults::has(Bug::StatusNotTold) {
                self.dirty.insert(Item::Check(id.to_string()));
            }
            change.has_changed = true;
            local.shared.metrics.status_changes.add_one();
            self.update_aliases_of(&service_id, local, change);
        } else if new_output && !entry.is_deferred {
            entry.is_deferred = true;
            let wait = local.shared.output_interval.mul_f64(rand::random_range(0.5..1.0));
            self.deferred.insert((now + wait, id.to_string()));
            local.shared.dirty.notify_one();
        }
    }
}
