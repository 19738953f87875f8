//! The certificate authority's record in the catalog, and the CA that can be made of it.

use std::time::SystemTime;

use catalog::CaState;
use identity::{Ca, CaKey, Csr, Error, LEAF_TTL, LeafName, SignedLeaf, describe_root};
use serde::{Deserialize, Serialize};

/// What only servers see: the signing key and certificate. It is in the Raft log and in snapshots (docs/adr/0004-root-key.md).
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Secret {
    key_pem: String,
    /// The root, or this datacenter's intermediate.
    cert_pem: String,
    /// Cross-signed roots that leaves are sent with during a rotation.
    bridges_pem: Vec<String>,
}

/// The record of a new root.
pub(crate) fn first_root(trust_domain: &str) -> Result<CaState, Error> {
    let ca = Ca::new_root(trust_domain, SystemTime::now())?;
    Ok(CaState {
        trust_domain: trust_domain.into(),
        roots: vec![ca.describe(true)?],
        secret: seal(&ca, Vec::new()),
        ..CaState::default()
    })
}

/// The record with a new root, cross-signed by the old one; both are trusted.
pub(crate) fn rotate(state: &CaState) -> Result<CaState, Error> {
    let (old, now) = (load(state)?, SystemTime::now());
    let new = Ca::new_root(&state.trust_domain, now)?;
    let bridge = old.cross_sign(&new.cert_pem(), now)?;
    let mut roots = vec![new.describe(true)?];
    roots.extend(state.roots.iter().cloned().map(|root| model::ca::CaRoot { active: false, ..root }));
    Ok(CaState { roots, secret: seal(&new, vec![bridge]), ..state.clone() })
}

/// The record of a datacenter whose intermediate the primary has signed.
pub(crate) fn secondary(
    trust_domain: &str,
    roots_pem: &[String],
    request: Csr,
    intermediate_pem: String,
) -> Result<CaState, Error> {
    // That key and certificate belong together is checked before anybody depends on it.
    Ca::load(CaKey::from_pem(&request.key_pem)?, &intermediate_pem, Vec::<String>::new())?;
    let intermediates = [intermediate_pem.as_str()];
    let roots = roots_pem.iter().enumerate().map(|(at, root)| match at {
        0 => describe_root(root, &intermediates, true),
        _ => describe_root::<&str>(root, &[], false),
    });
    let roots = roots.collect::<Result<Vec<_>, _>>()?;
    let secret = Secret { key_pem: request.key_pem.to_string(), cert_pem: intermediate_pem, bridges_pem: Vec::new() };
    Ok(CaState { trust_domain: trust_domain.into(), roots, secret: api::mp::encode(&secret), ..CaState::default() })
}

/// The CA that signs for this datacenter.
pub(crate) fn load(state: &CaState) -> Result<Ca, Error> {
    let secret: Secret = api::mp::decode(&state.secret)
        .map_err(|error| Error::Malformed { what: "CA record", why: error.to_string() })?;
    Ca::load(CaKey::from_pem(&secret.key_pem)?, &secret.cert_pem, &secret.bridges_pem)
}

/// Signs a leaf with the lifetime that all leaves have.
pub(crate) fn sign(state: &CaState, csr_pem: &str, name: &LeafName) -> Result<SignedLeaf, Error> {
    load(state)?.sign_leaf(csr_pem, name, LEAF_TTL, SystemTime::now())
}

fn seal(ca: &Ca, bridges_pem: Vec<String>) -> bytes::Bytes {
    api::mp::encode(&Secret { key_pem: ca.key().to_pem().to_string(), cert_pem: ca.cert_pem(), bridges_pem })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

    #[test]
    fn the_record_can_sign_after_a_round_trip() {
        let state = first_root(DOMAIN).expect("a root");
        let name = LeafName::service(DOMAIN, "dc1", "web").expect("name");
        let csr = Csr::new(&name).expect("CSR");
        let leaf = sign(&state, &csr.pem, &name).expect("signed");
        assert!(leaf.cert_chain_pem.contains("BEGIN CERTIFICATE"));
        assert_eq!(state.roots.len(), 1);
    }

    #[test]
    fn a_rotation_keeps_the_old_root_trusted() {
        let state = first_root(DOMAIN).expect("a root");
        let rotated = rotate(&state).expect("rotated");
        assert_eq!(rotated.roots.iter().map(|root| root.active).collect::<Vec<_>>(), [true, false]);
        assert_eq!(rotated.roots[1].id, state.roots[0].id);
        assert!(load(&rotated).is_ok());
    }

    #[test]
    fn a_secondary_signs_with_its_intermediate() {
        let primary = first_root(DOMAIN).expect("a root");
        let request = Csr::intermediate(DOMAIN, "dc2").expect("CSR");
        let signed =
            load(&primary).expect("CA").sign_intermediate(&request.pem, "dc2", SystemTime::now()).expect("signed");
        let state = secondary(DOMAIN, &[primary.roots[0].root_cert.clone()], request, signed).expect("record");
        assert_eq!(load(&state).expect("CA").dc(), Some("dc2"));
        assert_eq!(state.roots[0].intermediate_certs.as_ref().map(Vec::len), Some(1));
        let name = LeafName::service(DOMAIN, "dc2", "web").expect("name");
        assert!(sign(&state, &Csr::new(&name).expect("CSR").pem, &name).is_ok());
    }
}
