//! The bad-certificate factory: a mesh with its CA, and certificates that break one rule each.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Ca, CaKey, Csr, Identity, LeafName, LeafPem, TrustBundle, provider};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(crate) const TD: &str = "11111111-2222-3333-4444-555555555555.consul";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A mesh: its root, and the intermediate of `dc2`.
pub(crate) struct Mesh {
    pub(crate) root: Ca,
    pub(crate) dc2: Ca,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let root = Ca::new_root(TD, SystemTime::now()).unwrap();
        let dc2 = intermediate(&root, "dc2");
        Mesh { root, dc2 }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(TD, [self.root.cert_pem()]).unwrap()
    }

    /// An identity of `dc1` that everybody in the mesh takes.
    pub(crate) fn identity(&self, name: &LeafName) -> Identity {
        let identity = Identity::new(self.bundle());
        identity.update_leaf(&leaf(&self.root, name)).unwrap();
        identity
    }
}

/// A leaf as the product makes it.
pub(crate) fn leaf(ca: &Ca, name: &LeafName) -> LeafPem {
    let csr = Csr::new(name).unwrap();
    let signed = ca.sign_leaf(&csr.pem, name, 72 * HOUR, SystemTime::now()).unwrap();
    csr.with_chain(signed.cert_chain_pem)
}

pub(crate) fn intermediate(root: &Ca, dc: &str) -> Ca {
    let csr = Csr::intermediate(root.trust_domain(), dc).unwrap();
    let pem = root.sign_intermediate(&csr.pem, dc, SystemTime::now()).unwrap();
    Ca::load::<&str>(CaKey::from_pem(&csr.key_pem).unwrap(), &pem, []).unwrap()
}

pub(crate) fn service(name: &str) -> LeafName {
    LeafName::service(TD, "dc1", name).unwrap()
}

/// What a rogue peer shows: any chain, and a key that may or may not belong to it.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

impl Forged {
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        Arc::new(CertifiedKey::new(self.chain.clone(), provider().key_provider.load_private_key(key).unwrap()))
    }

    pub(crate) fn of_pem(leaf: &LeafPem) -> Self {
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        Forged { chain: ders(&leaf.cert_chain_pem), key: key.secret_der().to_vec() }
    }
}

/// Something that signs without asking: a CA's key in the wrong hands, or a stranger's CA.
pub(crate) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Signer {
    pub(crate) fn of(ca: &Ca) -> Self {
        let key = KeyPair::from_pem(&ca.key().to_pem()).unwrap();
        let chain = if ca.dc().is_some() { ders(&ca.cert_pem()) } else { vec![] };
        Signer { issuer: Issuer::from_ca_cert_pem(&ca.cert_pem(), key).unwrap(), chain }
    }

    /// Signs whatever it is asked to sign.
    pub(crate) fn leaf(&self, params: &CertificateParams) -> Forged {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Forged { chain, key: key.serialize_der() }
    }

    /// A CA below this one.
    pub(crate) fn below(&self, params: CertificateParams) -> Signer {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![cert.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Signer { issuer: Issuer::new(params, key), chain }
    }

    /// A stranger with a self-signed root of this name.
    pub(crate) fn stranger(common_name: &str) -> Signer {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, common_name);
        let cert = params.self_signed(&key).unwrap();
        Signer { chain: vec![cert.der().clone()], issuer: Issuer::new(params, key) }
    }

    pub(crate) fn without_chain(mut self) -> Self {
        self.chain.clear();
        self
    }
}

/// A flawless leaf with these URIs.
pub(crate) fn good(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

pub(crate) fn ca_params(path: BasicConstraints) -> CertificateParams {
    let mut params = good(&[]);
    params.is_ca = IsCa::Ca(path);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages.clear();
    params
}

/// A subject alternative name extension with exactly these bytes in it.
pub(crate) fn raw_san(names: &[u8]) -> CustomExtension {
    assert!(names.len() < 120, "short form of the length");
    let mut content = vec![0x30, u8::try_from(names.len()).unwrap()];
    content.extend_from_slice(names);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], content)
}

/// One name of a subject alternative name extension, with its context tag.
pub(crate) fn raw_name(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[0x80 | tag, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

pub(crate) fn ders(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}
