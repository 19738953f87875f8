//! Leaves for `/v1/agent/connect/ca/leaf`: the key is made here and handed out, as Consul's clients expect.

use crate::config::LEAVES_MAX;
use crate::servers::Servers;
use api::proto::SignRequest;
use api::proto::mesh_client::MeshClient;
use api::reply::LeafCert;
use identity::{Csr, Identity, LeafInfo, LeafName, Renewer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// Most time to have a leaf signed.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// Leaves by service; each is made when it is first asked for, and again from half its life on.
pub(crate) struct Leaves {
    servers: Servers,
    identity: Identity,
    node: String,
    datacenter: String,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

/// The place of one leaf. The lock makes those who ask at the same time wait for one signature; it may be held across an await,
/// for it is tokio's.
type Slot = tokio::sync::Mutex<Option<Held>>;

struct Held {
    leaf: Arc<LeafCert>,
    renewer: Renewer,
    /// With which roots it was made (`TrustBundle::roots_hash`).
    roots: u64,
}

impl Leaves {
    pub(crate) fn new(servers: Servers, identity: Identity, node: &str, datacenter: &str) -> Self {
        Leaves {
            servers,
            identity,
            node: node.to_string(),
            datacenter: datacenter.to_string(),
            slots: Mutex::default(),
        }
    }

    /// The leaf of a service. A new one has a higher index.
    pub(crate) async fn get(&self, service: &str) -> Result<Arc<LeafCert>, api::Error> {
        let slot = self.slot(service)?;
        let mut held = slot.lock().await;
        let roots = self.identity.bundle().roots_hash();
        let is_good = |held: &Held| !held.renewer.is_due(SystemTime::now()) && held.roots == roots;
        if let Some(held) = held.as_ref().filter(|held| is_good(held)) {
            return Ok(held.leaf.clone());
        }
        let before = held.as_ref().map(|held| (held.leaf.create_index, held.leaf.modify_index));
        let (leaf, info) = self.sign(service, before).await?;
        let mut renewer = held.take().map_or_else(|| Renewer::new(SystemTime::now()), |held| held.renewer);
        renewer.renewed(SystemTime::now(), info.not_before, info.not_after, rand::random());
        *held = Some(Held { leaf: leaf.clone(), renewer, roots });
        Ok(leaf)
    }

    fn slot(&self, service: &str) -> Result<Arc<Slot>, api::Error> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= LEAVES_MAX && !slots.contains_key(service) {
            make_room(&mut slots);
        }
        if slots.len() >= LEAVES_MAX && !slots.contains_key(service) {
            return Err(api::Error::too_many(format!("this agent keeps leaves of at most {LEAVES_MAX} services")));
        }
        Ok(slots.entry(service.to_string()).or_default().clone())
    }

    async fn sign(&self, service: &str, before: Option<(u64, u64)>) -> Result<(Arc<LeafCert>, LeafInfo), api::Error> {
        let failed = |e: &dyn std::fmt::Display| api::Error::internal(format!("rpc error making call: {e}"));
        let bundle = self.identity.bundle();
        if bundle.trust_domain().is_empty() {
            return Err(failed(&"the servers have told of no certificate authority yet; try again"));
        }
        let name = LeafName::service(bundle.trust_domain(), &self.datacenter, service)
            .map_err(|e| api::Error::bad_request(e.to_string()))?;
        let csr = Csr::new(&name).map_err(|e| failed(&e))?;
        let (_, channel) = self.servers.first().map_err(|_| api::Error::no_servers())?;
        let request = SignRequest { csr_pem: csr.pem.clone(), node: self.node.clone() };
        let reply = match timeout(SIGN_TIMEOUT, MeshClient::new(channel).sign(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(refused(&status)),
            Err(_) => return Err(failed(&format!("no signature within {SIGN_TIMEOUT:?}"))),
        };
        let pem = csr.with_chain(reply.chain_pem);
        let info = Identity::new((*bundle).clone()).update_leaf(&pem).map_err(|e| failed(&e))?;
        // Grows from leaf to leaf, also over a restart: seconds since 1970, or one more than before.
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let index = before.map_or(now_s, |(_, modify)| now_s.max(modify + 1));
        let leaf = LeafCert {
            serial_number: info.serial.to_string(),
            cert_pem: pem.cert_chain_pem.clone(),
            private_key_pem: pem.key_pem.to_string(),
            service: service.to_string(),
            service_uri: info.name.id().to_string(),
            valid_after: rfc3339(info.not_before),
            valid_before: rfc3339(info.not_after),
            create_index: before.map_or(index, |(create, _)| create),
            modify_index: index,
        };
        Ok((Arc::new(leaf), info))
    }
}

/// Forgets what was refused, or else the leaf that is due first: whoever wants it gets another. Those that are being signed stay.
fn make_room(slots: &mut BTreeMap<String, Arc<Slot>>) {
    let idle = slots.iter().filter(|(_, slot)| Arc::strong_count(slot) == 1);
    let due = |slot: &Slot| slot.try_lock().ok().map(|held| held.as_ref().map(|held| held.renewer.due()));
    let first =
        idle.filter_map(|(service, slot)| Some((due(slot)?, service))).min().map(|(_, service)| service.clone());
    if let Some(service) = first {
        slots.remove(&service);
    }
}

/// A server says why not: this is the caller's business if the service is not on this node.
fn refused(status: &tonic::Status) -> api::Error {
    match status.code() {
        tonic::Code::PermissionDenied => api::Error::forbidden(format!("Permission denied: {}", status.message())),
        tonic::Code::InvalidArgument => api::Error::bad_request(status.message()),
        tonic::Code::ResourceExhausted => api::Error::too_many(status.message()),
        _ => api::Error::internal(format!("rpc error making call: {}", crate::error::reason(status))),
    }
}

/// A time as JSON has it, in whole seconds and UTC. (RFC 3339; days to dates as in "chrono-compatible low-level date algorithms".)
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(due_s: Option<u64>) -> Arc<Slot> {
        let held = |due_s| Held {
            leaf: Arc::default(),
            renewer: Renewer::new(UNIX_EPOCH + Duration::from_secs(due_s)),
            roots: 0,
        };
        Arc::new(Slot::new(due_s.map(held)))
    }

    #[test]
    fn room_is_made_by_what_was_refused_then_by_what_is_due_first() {
        let names = |slots: &BTreeMap<String, Arc<Slot>>| slots.keys().cloned().collect::<Vec<_>>().join(" ");
        let mut slots: BTreeMap<String, Arc<Slot>> =
            [("a", Some(30)), ("b", Some(20)), ("c", None), ("d", Some(10))].map(|(n, s)| (n.into(), slot(s))).into();
        let in_use = slots["d"].clone();
        make_room(&mut slots);
        assert_eq!(names(&slots), "a b d");
        make_room(&mut slots);
        assert_eq!(names(&slots), "a d");
        make_room(&mut slots);
        make_room(&mut slots);
        assert_eq!(names(&slots), "d", "somebody waits for it");
        drop(in_use);
    }

    #[test]
    fn times_are_rfc3339() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
