//! What this node keeps of its identity, and trust bundles as they come over the wire.

use identity::{Identity, LeafPem, Serial};
use model::SpiffeId;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use store::{Store, StoreError, Tree};

/// The one key of the tree.
const KEY: &str = "self";

/// What is kept between starts. The private key is in it: the folder belongs to the agent alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeptIdentity {
    /// The node that it is for.
    pub(crate) node: String,
    /// The leaf, then the intermediates.
    pub(crate) chain_pem: String,
    /// Its key.
    pub(crate) key_pem: String,
    /// Whom to trust.
    pub(crate) trust_domain: String,
    /// PEM.
    pub(crate) roots_pem: Vec<String>,
    /// Revoked certificates.
    pub(crate) revoked_serials: Vec<String>,
    /// Revoked holders.
    pub(crate) revoked_ids: Vec<String>,
    /// RPC addresses of the servers of this datacenter.
    pub(crate) servers: Vec<String>,
}

/// Where it is kept. What is told to it is in memory at once and on the disk soon after; only [`Keeper::open`] reads the disk.
#[derive(Clone)]
pub(crate) struct Keeper {
    store: Store,
    tree: Tree<KeptIdentity>,
    now: Arc<Mutex<KeptIdentity>>,
}

impl Keeper {
    pub(crate) fn open(store: Store) -> Result<Self, StoreError> {
        let tree: Tree<KeptIdentity> = store.tree("agent/identity")?;
        let now = Arc::new(Mutex::new(tree.get(KEY)?.unwrap_or_default()));
        Ok(Keeper { store, tree, now })
    }

    pub(crate) fn kept(&self) -> KeptIdentity {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is kept. Does not wait for the disk: it is called by tasks that others share their thread with.
    pub(crate) fn change(&self, change: impl FnOnce(&mut KeptIdentity)) {
        let mut kept = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut kept);
        // Under the lock, so that the last change is the last to be queued.
        match self.tree.queue(|batch| batch.insert(KEY, &*kept)) {
            Ok(()) => self.store.commit_then(|| {}),
            Err(error) => tracing::warn!(%error, "cannot keep this node's identity: after a restart it joins anew"),
        }
    }
}

impl KeptIdentity {
    /// Lets an identity have what was kept. A leaf that is of no use any more is left out: the node joins anew.
    pub(crate) fn restore(&self, identity: &Identity) {
        match bundle(&self.wire()) {
            Ok(bundle) => identity.update_bundle(bundle),
            Err(error) => return tracing::warn!(%error, "the trust bundle that was kept cannot be used; joining anew"),
        }
        let leaf = LeafPem { cert_chain_pem: self.chain_pem.clone(), key_pem: self.key_pem.clone().into() };
        if let Err(error) = identity.update_leaf(&leaf) {
            tracing::warn!(%error, "the certificate that was kept cannot be used; joining anew");
        }
    }

    /// Remembers a bundle.
    pub(crate) fn set_bundle(&mut self, bundle: &api::proto::TrustBundle) {
        self.trust_domain.clone_from(&bundle.trust_domain);
        self.roots_pem.clone_from(&bundle.roots_pem);
        self.revoked_serials.clone_from(&bundle.revoked_serials);
        self.revoked_ids.clone_from(&bundle.revoked_ids);
    }

    fn wire(&self) -> api::proto::TrustBundle {
        api::proto::TrustBundle {
            trust_domain: self.trust_domain.clone(),
            roots_pem: self.roots_pem.clone(),
            revoked_serials: self.revoked_serials.clone(),
            revoked_ids: self.revoked_ids.clone(),
            index: 0,
        }
    }
}

/// A bundle that a server has sent. What it revokes and we cannot read would stay trusted: then the whole is refused.
pub(crate) fn bundle(wire: &api::proto::TrustBundle) -> Result<identity::TrustBundle, String> {
    let bundle = identity::TrustBundle::new(&wire.trust_domain, &wire.roots_pem).map_err(|e| e.to_string())?;
    let serials: Result<Vec<Serial>, _> = wire.revoked_serials.iter().map(|s| s.parse()).collect();
    let ids: Result<Vec<SpiffeId>, _> = wire.revoked_ids.iter().map(|s| s.parse()).collect();
    Ok(bundle.with_revoked(serials.map_err(|e| e.to_string())?, ids.map_err(|e| e.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_wait_in_memory_and_are_kept_by_the_next_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        let keeper = Keeper::open(store.clone()).expect("a keeper");
        keeper.change(|kept| kept.node = "n1".into());
        keeper.change(|kept| kept.servers = vec!["10.0.0.1:8300".into()]);
        let expected =
            KeptIdentity { node: "n1".into(), servers: vec!["10.0.0.1:8300".into()], ..KeptIdentity::default() };
        assert_eq!(keeper.kept(), expected);
        store.commit();
        assert_eq!(Keeper::open(store).expect("a keeper").kept(), expected);
    }
}
