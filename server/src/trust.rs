//! This server's own certificate and trust bundle, as the catalog has them now.
//!
//! Each server holds the CA's record, so it signs its own leaf as soon as the record is there. What it had when it stopped is
//! kept in `<data-dir>/identity/`, so that it can speak with the others before its catalog is up to date.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::proto;
use catalog::query::ca;
use catalog::{CaState, View};
use identity::{Csr, Error, Identity, LOOK_AGAIN, LeafName, LeafPem, Renewer, RpcIdentity, Serial, write_private};
use model::{Index, SpiffeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::Core;

/// What this server knows of certificates; others wait for changes of it.
pub(crate) struct Trust {
    pub(crate) rpc: RpcIdentity,
    folder: PathBuf,
    /// The bundle as it is sent to agents. Without a trust domain: there is none yet.
    bundle: watch::Sender<proto::TrustBundle>,
    /// Whether this server is a member of a mesh: then joiners may do no more than join.
    is_member: watch::Sender<bool>,
}

/// What is kept besides the leaf.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Kept {
    trust_domain: String,
    roots_pem: Vec<String>,
}

impl Trust {
    /// What was kept in the data folder, if anything.
    pub(crate) fn open(rpc: RpcIdentity, data_dir: &Path) -> Result<Self, Error> {
        let folder = data_dir.join("identity");
        std::fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        let trust = Trust { rpc, folder, bundle: watch::Sender::default(), is_member: watch::Sender::new(false) };
        if let Some(bundle) = trust.kept_bundle() {
            trust.identity().update_bundle(bundle);
            trust.use_kept_leaf();
        }
        Ok(trust)
    }

    /// One that cannot be read is left aside: the server enrolls again, and the catalog has the bundle.
    fn kept_bundle(&self) -> Option<identity::TrustBundle> {
        let file = self.bundle_file();
        let bytes = std::fs::read(&file).ok()?;
        let bundle = api::mp::decode::<Kept>(&bytes).map_err(|error| error.to_string()).and_then(|kept| {
            identity::TrustBundle::new(&kept.trust_domain, &kept.roots_pem).map_err(|error| error.to_string())
        });
        if let Err(error) = &bundle {
            tracing::warn!(file = %file.display(), error, "the kept trust bundle is damaged and left aside: this server enrolls again");
        }
        bundle.ok()
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.rpc.identity()
    }

    pub(crate) fn bundle(&self) -> watch::Receiver<proto::TrustBundle> {
        self.bundle.subscribe()
    }

    pub(crate) fn is_member(&self) -> bool {
        *self.is_member.borrow()
    }

    pub(crate) fn member(&self) -> watch::Receiver<bool> {
        self.is_member.subscribe()
    }

    /// Takes what a server of the mesh has signed for this one.
    pub(crate) fn enrolled(&self, leaf: &LeafPem, bundle: &proto::TrustBundle, is_local: bool) -> Result<(), Error> {
        self.identity().update_bundle(identity::TrustBundle::new(&bundle.trust_domain, &bundle.roots_pem)?);
        self.identity().update_leaf(leaf)?;
        if is_local {
            self.keep(leaf, &bundle.trust_domain, &bundle.roots_pem)?;
            self.is_member.send_replace(true);
        }
        Ok(())
    }

    /// A leaf that has run out (a server that was away for days), or that a clock has signed which was far ahead, is left aside:
    /// the server enrolls again.
    fn use_kept_leaf(&self) {
        let Ok(leaf) = LeafPem::load(&self.leaf_file()) else { return };
        let is_good = matches!(self.identity().update_leaf(&leaf), Ok(info) if info.is_valid_at(SystemTime::now()));
        self.is_member.send_replace(is_good);
    }

    fn keep(&self, leaf: &LeafPem, trust_domain: &str, roots_pem: &[String]) -> Result<(), Error> {
        leaf.save(&self.leaf_file())?;
        let kept = Kept { trust_domain: trust_domain.into(), roots_pem: roots_pem.into() };
        write_private(&self.bundle_file(), &api::mp::encode(&kept))
    }

    fn leaf_file(&self) -> PathBuf {
        self.folder.join("server.pem")
    }

    fn bundle_file(&self) -> PathBuf {
        self.folder.join("bundle")
    }

    /// Trusts whom the catalog says, and takes back whom it has revoked.
    fn take_bundle(&self, known: &Known, index: Index) -> Result<(), Error> {
        let roots: Vec<String> = known.state.roots.iter().map(|root| root.root_cert.clone()).collect();
        let serials = known.revoked_serials.iter().filter_map(|serial| serial.parse::<Serial>().ok());
        let ids = known.revoked_ids.iter().filter_map(|id| id.parse::<SpiffeId>().ok());
        let bundle = identity::TrustBundle::new(&known.state.trust_domain, &roots)?.with_revoked(serials, ids);
        self.identity().update_bundle(bundle);
        self.bundle.send_replace(proto::TrustBundle {
            trust_domain: known.state.trust_domain.clone(),
            roots_pem: roots,
            revoked_serials: known.revoked_serials.clone(),
            revoked_ids: known.revoked_ids.clone(),
            index,
        });
        Ok(())
    }
}

/// What the catalog says about trust.
#[derive(Clone, PartialEq)]
struct Known {
    state: CaState,
    revoked_serials: Vec<String>,
    revoked_ids: Vec<String>,
}

fn known(view: &View<'_>) -> Option<Known> {
    let state = ca::ca(view)?.value.clone();
    let (serials, ids) = ca::revoked(view);
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
    Some(Known { state, revoked_serials: owned(serials), revoked_ids: owned(ids) })
}

/// Follows the catalog until this server closes: bundle, own leaf, renewal.
pub(crate) async fn follow(core: Arc<Core>) {
    let mut seen = 0;
    let mut wait = Duration::ZERO;
    let mut renewer = Renewer::new(SystemTime::now());
    let mut signed_for = None;
    while !core.closing.is_cancelled() {
        let (known, index) = core.watch.query(seen, Instant::now() + wait, known).await;
        seen = index;
        wait = LOOK_AGAIN;
        let Some(known) = known else { continue };
        if let Err(error) = core.trust.take_bundle(&known, index) {
            tracing::error!(%error, "the catalog's roots cannot be used");
            continue;
        }
        let is_other_ca = signed_for.as_ref() != Some(&known.state.secret);
        if is_other_ca || renewer.is_due(SystemTime::now()) {
            match sign_own_leaf(&core, &known.state) {
                Ok((not_before, not_after)) => {
                    renewer.renewed(SystemTime::now(), not_before, not_after, rand::random());
                    signed_for = Some(known.state.secret.clone());
                }
                Err(error) => {
                    tracing::error!(%error, "cannot renew this server's certificate");
                    renewer.failed(SystemTime::now(), rand::random());
                }
            }
        }
        wait = renewer.wait(SystemTime::now());
    }
}

fn sign_own_leaf(core: &Core, state: &CaState) -> Result<(SystemTime, SystemTime), Error> {
    let name = LeafName::server(&state.trust_domain, &core.config.datacenter, &core.config.node_name)?;
    let csr = Csr::new(&name)?;
    let signed = crate::ca::sign(state, &csr.pem, &name)?;
    let leaf = csr.with_chain(signed.cert_chain_pem);
    core.trust.identity().update_leaf(&leaf)?;
    let roots: Vec<String> = state.roots.iter().map(|root| root.root_cert.clone()).collect();
    core.trust.keep(&leaf, &state.trust_domain, &roots)?;
    core.trust.is_member.send_replace(true);
    tracing::info!(until = crate::time::rfc3339(signed.not_after), "this server has a new certificate");
    Ok((signed.not_before, signed.not_after))
}
