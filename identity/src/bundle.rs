//! The trust bundle: whose signatures a node trusts, and what has been revoked since.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use model::SpiffeId;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::cert;
use crate::error::{Error, Refused};
use crate::name::JOIN_TRUST_DOMAIN;
use crate::serial::Serial;

/// The roots of one trust domain and what has been revoked. A value: swap it with [`crate::Identity::update_bundle`].
#[derive(Debug, Clone, Default)]
pub struct TrustBundle {
    trust_domain: String,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    roots_hash: u64,
    revoked_serials: BTreeSet<Serial>,
    revoked_ids: BTreeSet<SpiffeId>,
}

impl TrustBundle {
    /// A bundle of a trust domain (`<uuid>.consul`) and the PEM of its roots; each text may hold several.
    pub fn new<P: AsRef<str>>(trust_domain: &str, roots_pem: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        if trust_domain == JOIN_TRUST_DOMAIN || trust_domain.is_empty() {
            return Err(Error::Name { name: trust_domain.into(), why: "it cannot be the trust domain of a mesh" });
        }
        let mut bundle = TrustBundle { trust_domain: trust_domain.to_ascii_lowercase(), ..TrustBundle::default() };
        for pem in roots_pem {
            for root in cert::from_pem("root certificate", pem.as_ref())? {
                let anchor = webpki::anchor_from_trusted_cert(&root)
                    .map_err(|e| Error::malformed("root certificate", e))?
                    .to_owned();
                bundle.anchors.push(anchor);
                bundle.roots.push(root);
            }
        }
        let mut hasher = DefaultHasher::new();
        bundle.roots.hash(&mut hasher);
        bundle.roots_hash = hasher.finish();
        Ok(bundle)
    }

    /// The bundle of a node that has not joined yet: trusts nobody.
    pub fn empty() -> Self {
        TrustBundle::default()
    }

    /// The same roots, with these certificates and holders revoked (instead of the ones before).
    #[must_use]
    pub fn with_revoked(
        mut self,
        serials: impl IntoIterator<Item = Serial>,
        ids: impl IntoIterator<Item = SpiffeId>,
    ) -> Self {
        self.revoked_serials = serials.into_iter().collect();
        self.revoked_ids = ids.into_iter().collect();
        self
    }

    /// `<uuid>.consul`; empty before the node has joined.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The roots, each in PEM.
    pub fn roots_pem(&self) -> Vec<String> {
        self.roots.iter().map(cert::to_pem).collect()
    }

    /// Tells these roots from others, in this process; so that nobody must keep roots to see that they have changed.
    pub fn roots_hash(&self) -> u64 {
        self.roots_hash
    }

    /// Whether it trusts nobody at all.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn check_serial(&self, serial: &Serial) -> Result<(), Refused> {
        if self.revoked_serials.contains(serial) { Err(Refused::RevokedSerial(serial.clone())) } else { Ok(()) }
    }

    pub(crate) fn check_id(&self, id: &SpiffeId) -> Result<(), Refused> {
        if self.revoked_ids.contains(id) { Err(Refused::RevokedId(id.clone())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Ca;

    #[test]
    fn other_roots_are_told_from_the_same_with_something_revoked() {
        let root = || Ca::new_root("td.consul", SystemTime::now()).expect("a root").cert_pem();
        let (one, other) = (root(), root());
        let hash = |roots: &[&String]| TrustBundle::new("td.consul", roots).expect("a bundle").roots_hash();
        assert_eq!(hash(&[&one]), hash(&[&one]));
        assert_ne!(hash(&[&one]), hash(&[&other]));
        assert_ne!(hash(&[&one]), hash(&[&one, &other]));
        let bundle = TrustBundle::new("td.consul", [&one]).expect("a bundle");
        assert_eq!(bundle.with_revoked(["0a".parse().expect("a serial")], []).roots_hash(), hash(&[&one]));
    }
}
