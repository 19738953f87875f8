//! Joining: how a node that has no certificate yet proves that it knows the shared secret, without ever sending it.
//!
//! From the secret each node derives the same P-256 key, that of the *join CA*, and signs a short-lived certificate for itself
//! with it. Two nodes that know the same secret thereby have the same root: their first connection is ordinary mutual TLS.
//! The join CA has no certificate, only a name and a key, so there is nothing to distribute (docs/adr/0006-joining.md).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, TrustAnchor};
use zeroize::Zeroizing;

use crate::ca::{BACKDATE, backdated, leaf_params};
use crate::cert;
use crate::error::Error;
use crate::key::CaKey;
use crate::name::JoinName;
use crate::serial::Serial;
use crate::tls;

/// How long a join certificate is valid.
pub const JOIN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The shared secret that lets nodes join (Consul's `encrypt`). Wiped from memory when dropped; never printed.
#[derive(Clone)]
pub struct JoinSecret {
    bytes: Zeroizing<Vec<u8>>,
    open: bool,
}

impl JoinSecret {
    /// Reads base64 of 16, 24 or 32 bytes.
    pub fn parse(base64: &str) -> Result<Self, Error> {
        let bytes = Zeroizing::new(STANDARD.decode(base64.trim()).map_err(|e| Error::JoinSecret(e.to_string()))?);
        if ![16, 24, 32].contains(&bytes.len()) {
            return Err(Error::JoinSecret(format!("it has {} bytes", bytes.len())));
        }
        Ok(JoinSecret { bytes, open: false })
    }

    /// A fresh secret in base64, for `tribune keygen`.
    pub fn generate() -> Result<Zeroizing<String>, Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(Error::crypto)?;
        Ok(Zeroizing::new(STANDARD.encode(*bytes)))
    }

    /// The secret that everybody knows, for when none is configured: whoever reaches the port may join. Warn about it.
    pub fn open() -> Self {
        JoinSecret { bytes: Zeroizing::new(b"tribune: this mesh is open to all".to_vec()), open: true }
    }

    /// Whether it is the one that everybody knows.
    pub fn is_open(&self) -> bool {
        self.open
    }
}

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.open { "JoinSecret(open)" } else { "JoinSecret(secret)" })
    }
}

/// The key that a secret stands for, and the trust anchor that it makes.
#[derive(Debug)]
pub(crate) struct JoinCa {
    key: CaKey,
    anchor: TrustAnchor<'static>,
}

impl JoinCa {
    pub(crate) fn new(secret: &JoinSecret) -> Result<Self, Error> {
        let key = CaKey::from_pair(derive_key(&secret.bytes)?);
        // Only the subject and the public key of this certificate are used, so it may differ from node to node.
        let cert = ca_params().self_signed(key.pair()).map_err(Error::crypto)?;
        let anchor = webpki::anchor_from_trusted_cert(cert.der()).map_err(Error::crypto)?.to_owned();
        Ok(JoinCa { key, anchor })
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    /// A certificate with a fresh key.
    pub(crate) fn mint(&self, name: &JoinName, now: SystemTime) -> Result<CertifiedKey, Error> {
        let key = CaKey::generate()?;
        let mut params = leaf_params(&Serial::random()?, backdated(now, BACKDATE), now + JOIN_TTL);
        params.subject_alt_names = vec![SanType::URI(name.to_string().try_into().map_err(Error::crypto)?)];
        let issuer = Issuer::new(ca_params(), self.key.pair());
        let leaf = params.signed_by(key.pair(), &issuer).map_err(Error::crypto)?;
        let key = Zeroizing::new(key.pair().serialize_der());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
        let key = tls::provider().key_provider.load_private_key(key).map_err(Error::crypto)?;
        Ok(CertifiedKey::new(vec![leaf.der().clone()], key))
    }
}

/// A node's own join certificate, made anew before it runs out.
#[derive(Debug)]
pub(crate) struct Joiner {
    ca: JoinCa,
    name: JoinName,
    time: Arc<dyn TimeProvider>,
    current: ArcSwapOption<Minted>,
}

#[derive(Debug)]
struct Minted {
    certified: Arc<CertifiedKey>,
    at: SystemTime,
}

impl Minted {
    /// One that was made by a clock that was ahead, and has been set back since, is not.
    fn is_fresh(&self, now: SystemTime) -> bool {
        now.duration_since(self.at).is_ok_and(|age| age < JOIN_TTL / 2)
    }
}

impl Joiner {
    pub(crate) fn new(secret: &JoinSecret, name: JoinName) -> Result<Self, Error> {
        if name.to_string().parse().as_ref() != Ok(&name) {
            return Err(Error::Name {
                name: name.to_string(),
                why: "its names must be of letters, digits, '-', '_' and '.'",
            });
        }
        Ok(Joiner {
            ca: JoinCa::new(secret)?,
            name,
            time: Arc::new(DefaultTimeProvider),
            current: ArcSwapOption::empty(),
        })
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        self.ca.anchor()
    }

    /// The certificate of the moment. Two handshakes at once may make two: both are good.
    pub(crate) fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let now = cert::from_unix_time(self.time.current_time()?);
        if let Some(minted) = self.current.load().as_ref().filter(|minted| minted.is_fresh(now)) {
            return Some(minted.certified.clone());
        }
        match self.ca.mint(&self.name, now) {
            Ok(certified) => {
                let certified = Arc::new(certified);
                self.current.store(Some(Arc::new(Minted { certified: certified.clone(), at: now })));
                Some(certified)
            }
            Err(error) => {
                tracing::error!(%error, "cannot make a join certificate; the handshake will fail");
                None
            }
        }
    }
}

/// HKDF-SHA256 (RFC 5869) of the secret. The datacenter plays no part: one secret joins a whole federation.
fn derive_key(secret: &[u8]) -> Result<KeyPair, Error> {
    /// A candidate is outside of the curve's order once in 2^32 times; then the next one is taken.
    const CANDIDATES_MAX: u8 = 8;
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tribune join CA v1").extract(secret);
    for candidate in 0..CANDIDATES_MAX {
        let mut scalar = Zeroizing::new([0; 32]);
        let info: [&[u8]; 2] = [b"P-256 private key", &[candidate]];
        let okm = extracted.expand(&info, hkdf::HKDF_SHA256).map_err(Error::crypto)?;
        okm.fill(&mut *scalar).map_err(Error::crypto)?;
        let sec1 = PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(sec1_der(&scalar)));
        if let Ok(key) = KeyPair::from_der_and_sign_algo(&sec1, &PKCS_ECDSA_P256_SHA256) {
            return Ok(key);
        }
    }
    Err(Error::crypto("no P-256 key can be derived from the join secret"))
}

/// RFC 5915 `ECPrivateKey` of P-256, without the public key, which follows from the scalar.
fn sec1_der(scalar: &[u8; 32]) -> Vec<u8> {
    const VERSION_1_AND_OCTETS: [u8; 7] = [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
    const CURVE_P256: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    [&VERSION_1_AND_OCTETS[..], scalar, &CURVE_P256].concat()
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Tribune join CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::name::Role;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Computed by another implementation of RFC 5869 and P-256. If this changes, a mixed cluster cannot be joined any more.
    #[test]
    fn the_key_of_a_secret_is_the_same_for_ever() {
        let counting: Vec<u8> = (0..32).collect();
        for (secret, public) in [
            (
                JoinSecret::parse(&STANDARD.encode(counting)).expect("32 bytes"),
                "04e8884acccd2f62066f98796847dfecba5de0caf6377b1d38997583c087f4766d10d95810671b90e699c488dd550b4e0211bfdcc292e8adce10596a1c3fe2865d",
            ),
            (
                JoinSecret::open(),
                "043784b417b7e9327c45e02bdf3f1cc7ab428c563a38ae9dcfca76f4fda122ae49ed8d31ddb11697a4c371f5fc392593784616768a1ecc9d7bc52bb515ed0b6015",
            ),
        ] {
            assert_eq!(hex(derive_key(&secret.bytes).expect("a key").public_key_raw()), public);
            let (one, other) = (JoinCa::new(&secret).expect("a CA"), JoinCa::new(&secret).expect("a CA"));
            assert_eq!(
                (&one.anchor.subject, &one.anchor.subject_public_key_info),
                (&other.anchor.subject, &other.anchor.subject_public_key_info)
            );
        }
    }

    #[test]
    fn secrets_are_16_24_or_32_bytes_in_base64() {
        for bytes in [16, 24, 32] {
            let secret = JoinSecret::parse(&format!(" {}\n", STANDARD.encode(vec![7; bytes]))).expect("good");
            assert!(!secret.is_open());
        }
        for bad in
            ["", "x", "not base64!", &STANDARD.encode([7; 15]), &STANDARD.encode([7; 33]), &STANDARD.encode([7; 64])]
        {
            let error = JoinSecret::parse(bad).expect_err(bad);
            assert!(matches!(error, Error::JoinSecret(_)) && error.to_string().contains("tribune keygen"), "{error}");
        }
        let fresh = [JoinSecret::generate().expect("randomness"), JoinSecret::generate().expect("randomness")];
        assert!(JoinSecret::parse(&fresh[0]).is_ok() && fresh[0] != fresh[1]);
        assert!(JoinSecret::open().is_open());
        assert_eq!(
            format!("{:?} {:?}", JoinSecret::open(), JoinSecret::parse(&fresh[0])),
            "JoinSecret(open) Ok(JoinSecret(secret))"
        );
    }

    #[derive(Debug, Default)]
    struct Clock(AtomicU64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
        }
    }

    #[test]
    fn a_join_certificate_is_made_anew_at_half_of_its_life() {
        let name = JoinName { role: Role::Client, dc: "dc1".into(), node: "n1".into() };
        let clock = Arc::new(Clock(AtomicU64::new(2_000_000_000)));
        let mut joiner = Joiner::new(&JoinSecret::open(), name).expect("a joiner");
        joiner.time = clock.clone();
        let first = joiner.certified().expect("a certificate");
        clock.0.fetch_add(JOIN_TTL.as_secs() / 2 - 1, Ordering::Relaxed);
        assert!(Arc::ptr_eq(&first, &joiner.certified().expect("a certificate")));
        clock.0.fetch_add(1, Ordering::Relaxed);
        let second = joiner.certified().expect("a certificate");
        assert_ne!(first.cert, second.cert);
        let read = cert::LeafCert::read(&second.cert[0]).expect("readable");
        let now = cert::from_unix_time(clock.current_time().expect("a time"));
        assert_eq!((read.not_before, read.not_after), (now - BACKDATE, now + JOIN_TTL));
        clock.0.fetch_sub(1, Ordering::Relaxed);
        assert_ne!(second.cert, joiner.certified().expect("a certificate").cert, "the clock was set back");
    }

    /// A machine whose clock was never set begins in 1970, and no verifier reads a certificate from before.
    #[test]
    fn a_join_certificate_is_never_from_before_1970() {
        let name = JoinName { role: Role::Client, dc: "dc1".into(), node: "n1".into() };
        let mut joiner = Joiner::new(&JoinSecret::open(), name).expect("a joiner");
        joiner.time = Arc::new(Clock(AtomicU64::new(5)));
        let certified = joiner.certified().expect("a certificate");
        let read = cert::LeafCert::read(&certified.cert[0]).expect("readable");
        assert_eq!(read.not_before, SystemTime::UNIX_EPOCH);
    }
}
