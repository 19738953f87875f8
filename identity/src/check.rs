//! The one decision whether a certificate chain is taken: pure, and used by every verifier.

use std::collections::BTreeSet;

use model::SpiffeId;
use model::spiffe::Subject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::bundle::TrustBundle;
use crate::cert::{self, CHAIN_CERTS_MAX, LeafCert};
use crate::error::Refused;
use crate::name::{CertName, LeafName, Role};
use crate::serial::Serial;
use crate::tls;

/// Whom a connection is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// One of these ids: what a proxy dials.
    Ids(BTreeSet<SpiffeId>),
    /// A server of this datacenter: what agents and servers dial.
    Server { dc: String },
    /// Anybody of our trust domain: what a proxy takes; intentions decide further.
    Member,
    /// A member, or somebody who knows the join secret: what a server's RPC port takes.
    MemberOrJoiner,
    /// A server that knows the join secret: what a joining node dials.
    JoinServer,
}

/// What a verifier knows when a certificate comes.
pub(crate) struct Trust<'t> {
    pub(crate) bundle: &'t TrustBundle,
    pub(crate) join: Option<&'t TrustAnchor<'static>>,
    pub(crate) expect: &'t Expect,
}

/// Which side of the handshake the peer is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Trust<'_> {
    /// Takes or refuses the peer's chain.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<CertName, Refused> {
        if chain.len() >= CHAIN_CERTS_MAX {
            return Err(Refused::TooLarge("it has more than 8 certificates"));
        }
        if chain.iter().any(|cert| cert.len() > cert::CERT_BYTES_MAX) {
            return Err(Refused::TooLarge("a certificate has more than 16 KiB"));
        }
        let cert = LeafCert::read(leaf)?;
        match &cert.name {
            CertName::Joiner(_) => self.check_joiner(leaf, side, now)?,
            CertName::Member(name) => {
                self.check_member(name, &cert.serial, leaf, chain, side, now)?;
            }
        }
        self.check_expected(&cert.name)?;
        Ok(cert.name)
    }

    /// A joiner's leaf is signed by the join CA itself; there are no intermediates.
    fn check_joiner(&self, leaf: &CertificateDer<'_>, side: Side, now: UnixTime) -> Result<(), Refused> {
        let anchor = self.join.ok_or(Refused::JoinerNotTaken)?;
        check_path(leaf, std::slice::from_ref(anchor), &[], side, now, |_| Ok(())).map_err(|refused| match refused {
            // The join CA's name is the same everywhere, its key is made from the secret.
            Refused::UnknownIssuer => Refused::JoinSecretsDiffer,
            other => other,
        })
    }

    fn check_member(
        &self,
        name: &LeafName,
        serial: &Serial,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<(), Refused> {
        if self.bundle.is_empty() {
            return Err(Refused::NoBundle);
        }
        if name.id().trust_domain != self.bundle.trust_domain() {
            let (found, expected) = (name.id().trust_domain.clone(), self.bundle.trust_domain().to_string());
            return Err(Refused::ForeignTrustDomain { found, expected });
        }
        self.bundle.check_id(name.id())?;
        self.bundle.check_serial(serial)?;
        check_path(leaf, self.bundle.anchors(), chain, side, now, |path| self.check_intermediates(path, name))
    }

    /// An intermediate may be revoked like a leaf, and signs only for its own datacenter.
    fn check_intermediates(&self, path: &VerifiedPath<'_>, name: &LeafName) -> Result<(), Refused> {
        for intermediate in path.intermediate_certificates() {
            self.bundle.check_serial(&Serial::from_bytes(intermediate.serial()))?;
            let ca = ca_datacenter(&intermediate.der())?;
            if let Some(ca) = ca.filter(|ca| ca != name.dc()) {
                return Err(Refused::ForeignDatacenter { ca, leaf: name.dc().to_string() });
            }
        }
        Ok(())
    }

    fn check_expected(&self, name: &CertName) -> Result<(), Refused> {
        let taken = match (self.expect, name) {
            (Expect::Ids(ids), CertName::Member(name)) => ids.contains(name.id()),
            (Expect::Server { dc }, CertName::Member(name)) => {
                matches!(&name.id().subject, Subject::Server { dc: found } if found == dc)
            }
            (Expect::Member | Expect::MemberOrJoiner, CertName::Member(_)) => true,
            (Expect::MemberOrJoiner, CertName::Joiner(_)) => true,
            (Expect::JoinServer, CertName::Joiner(name)) => name.role == Role::Server,
            (Expect::JoinServer, CertName::Member(_)) => false,
            (Expect::Ids(_) | Expect::Server { .. } | Expect::Member, CertName::Joiner(_)) => {
                return Err(Refused::JoinerNotTaken);
            }
        };
        if taken {
            Ok(())
        } else {
            Err(Refused::Unexpected { found: name.to_string(), expected: self.expect.describe() })
        }
    }
}

impl Expect {
    fn describe(&self) -> String {
        /// More names than that help nobody.
        const IDS_SHOWN_MAX: usize = 4;
        match self {
            Expect::Ids(ids) => {
                let mut shown: Vec<String> = ids.iter().take(IDS_SHOWN_MAX).map(SpiffeId::to_string).collect();
                if ids.len() > IDS_SHOWN_MAX {
                    shown.push(format!("{} more", ids.len() - IDS_SHOWN_MAX));
                }
                shown.join(" or ")
            }
            Expect::Server { dc } => format!("a server of datacenter {dc:?}"),
            Expect::Member => "a member of the mesh".into(),
            Expect::MemberOrJoiner => "a member of the mesh or a joining node".into(),
            Expect::JoinServer => "a server that knows the join secret".into(),
        }
    }
}

/// The datacenter that an intermediate is bound to: the organizational unit in its subject (see `ca.rs`).
pub(crate) fn ca_datacenter(der: &CertificateDer<'_>) -> Result<Option<String>, Refused> {
    let cert = cert::parse(der)?;
    let unit = cert.subject().iter_organizational_unit().next();
    unit.map(|unit| unit.as_str().map(str::to_string).map_err(|e| Refused::Malformed(e.to_string()))).transpose()
}

fn check_path(
    leaf: &CertificateDer<'_>,
    anchors: &[TrustAnchor<'static>],
    chain: &[CertificateDer<'_>],
    side: Side,
    now: UnixTime,
    also: impl FnOnce(&VerifiedPath<'_>) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(refusal)?;
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let path = leaf.verify_for_usage(algorithms, anchors, chain, now, usage, None, None).map_err(refusal)?;
    also(&path)
}

fn refusal(error: webpki::Error) -> Refused {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => Refused::Expired,
        E::CertNotValidYet { .. } => Refused::NotYetValid,
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => Refused::UnknownIssuer,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            Refused::WrongUsage("its extended key usage is another")
        }
        E::BadDer | E::BadDerTime | E::TrailingData(_) | E::UnsupportedCertVersion | E::MalformedExtensions => {
            Refused::Malformed(error.to_string())
        }
        _ => Refused::Chain(error.to_string()),
    }
}
