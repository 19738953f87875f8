//! [`Identity`]: the current leaf and trust bundle of one holder, swapped under living TLS configurations.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use model::SpiffeId;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};

use crate::bundle::TrustBundle;
use crate::cert::{self, LeafCert};
use crate::check::{Expect, Side, Trust};
use crate::error::{Error, Refused};
use crate::name::{CertName, LeafName, Peer};
use crate::pem::LeafPem;
use crate::serial::Serial;
use crate::tls::{self, Decide};

/// Who we are and whom we trust, as of now. Cheap to clone; all clones are the same identity.
///
/// Configurations made from it need not be made anew: each handshake uses the newest leaf and the newest bundle.
/// Connections that stand are not cut by a change; ask [`Identity::recheck_chain`] about them.
#[derive(Debug, Clone)]
pub struct Identity {
    live: Arc<Live>,
}

/// What we know about our own leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafInfo {
    /// Whom it is for.
    pub name: LeafName,
    /// Its serial number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

impl LeafInfo {
    /// Reads the first certificate of a chain, which must be a leaf of a member of a mesh. Verifies nothing.
    pub fn of_chain(cert_chain_pem: &str) -> Result<Self, Error> {
        Self::of(&cert::from_pem("leaf certificate", cert_chain_pem)?[0])
    }

    /// Whether a peer whose clock shows `now` would take it, as far as time is concerned.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    fn of(leaf: &CertificateDer<'_>) -> Result<Self, Error> {
        let LeafCert { name, serial, not_before, not_after } = LeafCert::read(leaf)?;
        match name {
            CertName::Member(name) => Ok(LeafInfo { name, serial, not_before, not_after }),
            CertName::Joiner(_) => Err(Refused::JoinerNotTaken.into()),
        }
    }
}

#[derive(Debug, Default)]
struct Live {
    leaf: ArcSwapOption<Leaf>,
    bundle: ArcSwap<TrustBundle>,
}

#[derive(Debug)]
struct Leaf {
    certified: Arc<CertifiedKey>,
    info: LeafInfo,
}

impl Identity {
    /// An identity without a leaf yet: it can be configured, and handshakes fail until it has one.
    pub fn new(bundle: TrustBundle) -> Self {
        let identity = Identity { live: Arc::default() };
        identity.update_bundle(bundle);
        identity
    }

    /// Uses this leaf for every handshake from now on. On error the one before stays.
    pub fn update_leaf(&self, leaf: &LeafPem) -> Result<LeafInfo, Error> {
        let chain = cert::from_pem("leaf certificate", &leaf.cert_chain_pem)?;
        let info = LeafInfo::of(&chain[0])?;
        let key =
            PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).map_err(|e| Error::malformed("private key", e))?;
        let key = tls::provider().key_provider.load_private_key(key).map_err(|e| Error::malformed("private key", e))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| Error::KeyMismatch(info.name.to_string()))?;
        self.live.leaf.store(Some(Arc::new(Leaf { certified: Arc::new(certified), info: info.clone() })));
        Ok(info)
    }

    /// Trusts this bundle, and only this, from now on.
    pub fn update_bundle(&self, bundle: TrustBundle) {
        self.live.bundle.store(Arc::new(bundle));
    }

    /// The current bundle.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.live.bundle.load_full()
    }

    /// The current leaf, if there is one.
    pub fn leaf(&self) -> Option<LeafInfo> {
        self.live.leaf.load().as_ref().map(|leaf| leaf.info.clone())
    }

    /// For connections to the holders of these ids, and to nobody else. SNI is the caller's choice and proves nothing.
    pub fn client_config(
        &self,
        expected: impl IntoIterator<Item = SpiffeId>,
        alpn: &[&[u8]],
    ) -> Result<ClientConfig, Error> {
        let expect = Expect::Ids(expected.into_iter().collect());
        tls::client_config(self.decider(expect, None), Arc::new(self.resolver()), alpn)
    }

    /// For connections from any member of the trust domain; [`peer_id`] tells which. Clients must show a certificate.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
        tls::server_config(self.decider(Expect::Member, None), Arc::new(self.resolver()), alpn)
    }

    /// Whether the client at the other end of a standing connection would be taken with the bundle of today; if not, cut it.
    /// `now` is the time to judge by: with the time at which the connection was made, a leaf that has merely expired since
    /// then does not cut it.
    pub fn recheck_client(&self, conn: &rustls::CommonState, now: SystemTime) -> Result<Peer, Refused> {
        self.recheck(conn.peer_certificates().unwrap_or_default(), Side::Client, now)
    }

    /// The same for the server at the other end.
    pub fn recheck_server(&self, conn: &rustls::CommonState, now: SystemTime) -> Result<Peer, Refused> {
        self.recheck(conn.peer_certificates().unwrap_or_default(), Side::Server, now)
    }

    /// The same for a chain that the caller has kept (quinn hands out chains, not connections), of a client or a server.
    pub fn recheck_chain(&self, chain: &[CertificateDer<'_>], client: bool, now: SystemTime) -> Result<Peer, Refused> {
        self.recheck(chain, if client { Side::Client } else { Side::Server }, now)
    }

    pub(crate) fn decider(&self, expect: Expect, join: Option<TrustAnchor<'static>>) -> Decider {
        Decider { live: self.live.clone(), expect, join }
    }

    pub(crate) fn resolver(&self) -> Resolver {
        Resolver { live: self.live.clone() }
    }

    pub(crate) fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.live.certified()
    }

    fn recheck(&self, chain: &[CertificateDer<'_>], side: Side, now: SystemTime) -> Result<Peer, Refused> {
        let (leaf, rest) = chain.split_first().ok_or(Refused::NoCertificate)?;
        let trust = Trust { bundle: &self.live.bundle.load(), join: None, expect: &Expect::Member };
        trust.check(leaf, rest, side, cert::unix_time(now)).map(CertName::into_peer)
    }
}

/// Who is at the other end of a connection that our verifiers have taken.
pub fn peer(conn: &rustls::CommonState) -> Result<Peer, Refused> {
    peer_of_chain(conn.peer_certificates().unwrap_or_default())
}

/// Who showed this chain. Only for chains that our verifiers have taken: quinn's `peer_identity`, for example.
pub fn peer_of_chain(chain: &[CertificateDer<'_>]) -> Result<Peer, Refused> {
    Ok(LeafCert::read(chain.first().ok_or(Refused::NoCertificate)?)?.name.into_peer())
}

/// The SPIFFE id at the other end of a connection that our verifiers have taken.
pub fn peer_id(conn: &rustls::CommonState) -> Result<SpiffeId, Refused> {
    peer_id_of_chain(conn.peer_certificates().unwrap_or_default())
}

/// The SPIFFE id in a chain that our verifiers have taken.
pub fn peer_id_of_chain(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Refused> {
    match LeafCert::read(chain.first().ok_or(Refused::NoCertificate)?)?.name {
        CertName::Member(name) => Ok(name.id().clone()),
        CertName::Joiner(_) => Err(Refused::JoinerNotTaken),
    }
}

impl Live {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.leaf.load().as_ref().map(|leaf| leaf.certified.clone())
    }
}

/// Decides with the bundle of the moment.
#[derive(Debug)]
pub(crate) struct Decider {
    live: Arc<Live>,
    expect: Expect,
    join: Option<TrustAnchor<'static>>,
}

impl Decide for Decider {
    fn decide(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<(), Refused> {
        let trust = Trust { bundle: &self.live.bundle.load(), join: self.join.as_ref(), expect: &self.expect };
        trust.check(leaf, chain, side, now).map(drop)
    }
}

/// Shows the leaf of the moment.
#[derive(Debug)]
pub(crate) struct Resolver {
    live: Arc<Live>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.live.certified()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.live.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
