//! The certificate authority: a root in the primary datacenter, intermediates in the others, and the leaves they sign.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use model::ca::CaRoot;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::cert;
use crate::check::ca_datacenter;
use crate::csr::{self, Request};
use crate::error::Error;
use crate::key::CaKey;
use crate::name::{JOIN_TRUST_DOMAIN, LeafName};
use crate::serial::{Serial, hex_with_colons};

/// How long a root is valid (Consul: `RootCertTTL` 87600h).
pub const ROOT_TTL: Duration = Duration::from_secs(87_600 * 3600);
/// How long an intermediate is valid (Consul: `IntermediateCertTTL` 8760h).
pub const INTERMEDIATE_TTL: Duration = Duration::from_secs(8_760 * 3600);
/// How long a leaf is valid by default (Consul: `LeafCertTTL` 72h).
pub const LEAF_TTL: Duration = Duration::from_secs(72 * 3600);
/// Every certificate is valid from so long before it was made (Consul: 1 minute), for clocks differ: that of a server which signs
/// may be ahead and that of a peer which verifies behind, and what was signed while a clock was wrong outlives that. An hour
/// covers two clocks that are half an hour off in opposite directions. It gives nothing away: the key did not exist before.
pub const BACKDATE: Duration = Duration::from_secs(3600);

/// A CA that can sign: key, certificate, and what must be sent along with what it signs.
#[derive(Debug)]
pub struct Ca {
    key: CaKey,
    cert: CertificateDer<'static>,
    trust_domain: String,
    /// The datacenter that an intermediate is bound to; none for a root.
    dc: Option<String>,
    /// Cross-signed roots that peers may need to find their own root.
    bridges: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// A leaf that a CA has signed. The key is with whoever made the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLeaf {
    /// Leaf first, then what peers need to find the root.
    pub cert_chain_pem: String,
    /// Its serial number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

impl Ca {
    /// A fresh self-signed root of a trust domain (`<uuid>.consul`).
    pub fn new_root(trust_domain: &str, now: SystemTime) -> Result<Self, Error> {
        if trust_domain == JOIN_TRUST_DOMAIN || trust_domain.is_empty() {
            return Err(Error::Name { name: trust_domain.into(), why: "it cannot be the trust domain of a mesh" });
        }
        let key = CaKey::generate()?;
        let serial = Serial::random()?;
        let mut params = ca_params(trust_domain, &serial, BasicConstraints::Unconstrained, now, now + ROOT_TTL)?;
        params.distinguished_name.push(DnType::CommonName, common_name("pri", &serial, trust_domain));
        let cert = params.self_signed(key.pair()).map_err(Error::crypto)?;
        Ca::from_parts(key, cert.der().clone(), vec![])
    }

    /// A CA from its key and certificate in PEM. `bridges_pem` are cross-signed roots to send along during a rotation.
    pub fn load<P: AsRef<str>>(
        key: CaKey,
        cert_pem: &str,
        bridges_pem: impl IntoIterator<Item = P>,
    ) -> Result<Self, Error> {
        let cert = cert::from_pem("CA certificate", cert_pem)?.swap_remove(0);
        let mut bridges = Vec::new();
        for pem in bridges_pem {
            bridges.extend(cert::from_pem("cross-signed root", pem.as_ref())?);
        }
        Ca::from_parts(key, cert, bridges)
    }

    /// The CA's certificate.
    pub fn cert_pem(&self) -> String {
        cert::to_pem(&self.cert)
    }

    /// The key, to be kept where only servers can read it (docs/adr/0004-root-key.md).
    pub fn key(&self) -> &CaKey {
        &self.key
    }

    /// The trust domain that it signs for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The datacenter that it is bound to, if it is an intermediate.
    pub fn dc(&self) -> Option<&str> {
        self.dc.as_deref()
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it can sign when the clock shows `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Signs a leaf for exactly `name`, valid for `ttl` or as long as the CA itself, whichever is shorter.
    ///
    /// The request must prove the possession of a P-256 or Ed25519 key, have an empty subject, and ask for the id of `name` and
    /// nothing else. Only its public key gets into the certificate. Whether the requester may have this name is the caller's question.
    pub fn sign_leaf(
        &self,
        csr_pem: &str,
        name: &LeafName,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<SignedLeaf, Error> {
        self.check_may_name(name)?;
        self.check_valid_at(now)?;
        let request = Request::parse(csr_pem)?;
        request.check_leaf(name)?;
        let serial = Serial::random()?;
        let mut params = leaf_params(&serial, backdated(now, BACKDATE), self.not_after.min(now + ttl));
        params.subject_alt_names = csr::sans(name)?;
        let leaf = self.sign(&params, &request.key)?;
        let signed = cert::LeafCert::read(&leaf)?;
        let mut cert_chain_pem = cert::to_pem(&leaf);
        if self.dc.is_some() {
            cert_chain_pem.push_str(&cert::to_pem(&self.cert));
        }
        cert_chain_pem.extend(self.bridges.iter().map(cert::to_pem));
        Ok(SignedLeaf {
            cert_chain_pem,
            serial: signed.serial,
            not_before: signed.not_before,
            not_after: signed.not_after,
        })
    }

    /// Signs the intermediate of a secondary datacenter (made by [`crate::Csr::intermediate`]); returns its PEM.
    /// It can sign leaves of that datacenter, and no CA.
    pub fn sign_intermediate(&self, csr_pem: &str, dc: &str, now: SystemTime) -> Result<String, Error> {
        self.check_is_root()?;
        self.check_valid_at(now)?;
        if model::name::check_datacenter(dc).is_err() {
            return Err(Error::Name { name: dc.into(), why: "it is not the name of a datacenter" });
        }
        let request = Request::parse(csr_pem)?;
        request.check_intermediate(&self.trust_domain, dc)?;
        let serial = Serial::random()?;
        let until = self.not_after.min(now + INTERMEDIATE_TTL);
        let mut params = ca_params(&self.trust_domain, &serial, BasicConstraints::Constrained(0), now, until)?;
        params.distinguished_name.push(DnType::OrganizationalUnitName, dc);
        params.distinguished_name.push(DnType::CommonName, common_name("sec", &serial, &self.trust_domain));
        Ok(cert::to_pem(&self.sign(&params, &request.key)?))
    }

    /// Signs another root of the same trust domain with this one, so that peers which only know this one trust what
    /// the other signs. Returns the PEM of the bridge, which the other's leaves are then sent with.
    pub fn cross_sign(&self, new_root_pem: &str, now: SystemTime) -> Result<String, Error> {
        self.check_is_root()?;
        self.check_valid_at(now)?;
        let root = cert::from_pem("new root certificate", new_root_pem)?.swap_remove(0);
        let root = cert::parse(&root)?;
        if trust_domain_of(&root)? != self.trust_domain {
            return Err(Error::Name {
                name: root.subject().to_string(),
                why: "the new root is of another trust domain",
            });
        }
        let key = SubjectPublicKeyInfo::from_der(root.public_key().raw)
            .map_err(|e| Error::malformed("new root certificate", e))?;
        let until = self.not_after.min(cert::system_time(root.validity().not_after));
        let mut params =
            ca_params(&self.trust_domain, &Serial::random()?, BasicConstraints::Constrained(1), now, until)?;
        params.distinguished_name = common_name_only(&root)?;
        params.key_identifier_method = key_id(&root);
        Ok(cert::to_pem(&self.sign(&params, &key)?))
    }

    /// The root as Consul's `/v1/connect/ca/roots` shows it. For roots only; see [`describe_root`] for intermediates.
    pub fn describe(&self, active: bool) -> Result<CaRoot, Error> {
        self.check_is_root()?;
        describe_root::<&str>(&self.cert_pem(), &[], active)
    }

    fn from_parts(
        key: CaKey,
        der: CertificateDer<'static>,
        bridges: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let cert = cert::parse(&der)?;
        if !cert.is_ca() {
            return Err(Error::malformed("CA certificate", "it is not a CA's"));
        }
        if cert.public_key().raw != key.pair().subject_public_key_info() {
            return Err(Error::KeyMismatch(cert.subject().to_string()));
        }
        let trust_domain = trust_domain_of(&cert)?;
        let (not_before, not_after) = (cert.validity().not_before, cert.validity().not_after);
        let (not_before, not_after) = (cert::system_time(not_before), cert::system_time(not_after));
        let dc = ca_datacenter(&der)?;
        Ok(Ca { key, cert: der, trust_domain, dc, bridges, not_before, not_after })
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<CertificateDer<'static>, Error> {
        let issuer = Issuer::from_ca_cert_der(&self.cert, self.key.pair()).map_err(Error::crypto)?;
        Ok(params.signed_by(key, &issuer).map_err(Error::crypto)?.der().clone())
    }

    fn check_may_name(&self, name: &LeafName) -> Result<(), Error> {
        let refuse = |why| Err(Error::Name { name: name.to_string(), why });
        if name.id().trust_domain != self.trust_domain {
            return refuse("it is of another trust domain");
        }
        if self.dc.as_ref().is_some_and(|dc| dc != name.dc()) {
            return refuse("it is of another datacenter");
        }
        Ok(())
    }

    fn check_valid_at(&self, now: SystemTime) -> Result<(), Error> {
        if self.is_valid_at(now) { Ok(()) } else { Err(Error::CaNotValidNow) }
    }

    fn check_is_root(&self) -> Result<(), Error> {
        match &self.dc {
            None => Ok(()),
            Some(dc) => Err(Error::Name { name: dc.clone(), why: "only the primary datacenter's root can do that" }),
        }
    }
}

/// A root as Consul's clients see it (`structs.CARoot`). `intermediates_pem` are those of the datacenter that answers; the last
/// one signs its leaves. Without any, the root itself does.
pub fn describe_root<P: AsRef<str>>(root_pem: &str, intermediates_pem: &[P], active: bool) -> Result<CaRoot, Error> {
    let der = cert::from_pem("root certificate", root_pem)?.swap_remove(0);
    let root = cert::parse(&der)?;
    let signer = match intermediates_pem.last() {
        Some(pem) => cert::from_pem("intermediate certificate", pem.as_ref())?.swap_remove(0),
        None => der.clone(),
    };
    let signer = cert::parse(&signer)?;
    Ok(CaRoot {
        id: fingerprint(&der),
        name: "Tribune CA Primary Cert".into(),
        serial_number: Serial::from_bytes(root.raw_serial()).low_u64(),
        signing_key_id: cert::subject_key_id(&signer).map(hex_with_colons).unwrap_or_default(),
        external_trust_domain: trust_domain_of(&root)?.split('.').next().unwrap_or_default().to_string(),
        not_before: cert::rfc3339(root.validity().not_before),
        not_after: cert::rfc3339(root.validity().not_after),
        root_cert: root_pem.to_string(),
        intermediate_certs: (!intermediates_pem.is_empty())
            .then(|| intermediates_pem.iter().map(|p| p.as_ref().to_string()).collect()),
        active,
        private_key_type: "ec".into(),
        private_key_bits: 256,
    })
}

/// Hex SHA-1 with colons: what Consul takes as a root's ID. It identifies, it protects nothing.
fn fingerprint(der: &CertificateDer<'_>) -> String {
    hex_with_colons(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

/// What all CA certificates have in common. The subject is the caller's.
fn ca_params(
    trust_domain: &str,
    serial: &Serial,
    path: BasicConstraints,
    now: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.not_before = backdated(now, BACKDATE).into();
    params.not_after = until.into();
    params.subject_alt_names = vec![csr::ca_uri(trust_domain)?];
    params.is_ca = IsCa::Ca(path);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// So long before `now`, for clocks that are behind; but not before 1970, which verifiers do not read: a clock that was never
/// set begins there.
pub(crate) fn backdated(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_sub(by).map_or(SystemTime::UNIX_EPOCH, |then| then.max(SystemTime::UNIX_EPOCH))
}

/// What all leaves have in common: TLS on both sides, no subject, no CA.
pub(crate) fn leaf_params(serial: &Serial, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Unique for each CA, so that chains are found by name: `pri-<8 hex>.tribune.ca.<8 hex of the trust domain>.consul`.
fn common_name(kind: &str, serial: &Serial, trust_domain: &str) -> String {
    let unique: String = serial.as_bytes().iter().skip(1).take(4).map(|b| format!("{b:02x}")).collect();
    let domain: String = trust_domain.chars().take_while(char::is_ascii_alphanumeric).take(8).collect();
    format!("{kind}-{unique}.tribune.ca.{domain}.consul")
}

fn trust_domain_of(cert: &X509Certificate<'_>) -> Result<String, Error> {
    let (uris, _) = cert::names(cert)?;
    match uris[..] {
        [uri] => uri.strip_prefix("spiffe://").filter(|td| !td.contains('/')).map(str::to_string),
        _ => None,
    }
    .ok_or_else(|| Error::malformed("CA certificate", "its only URI must be spiffe://<trust domain>"))
}

/// The subject of a root of ours, which has a common name and nothing else.
fn common_name_only(root: &X509Certificate<'_>) -> Result<DistinguishedName, Error> {
    let unfit = || Error::malformed("new root certificate", "its subject must be one common name in UTF-8");
    let mut attributes = root.subject().iter_attributes();
    let (Some(name), None) = (root.subject().iter_common_name().next(), attributes.nth(1)) else {
        return Err(unfit());
    };
    if name.attr_value().tag() != x509_parser::der_parser::asn1_rs::Tag::Utf8String {
        return Err(unfit());
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.as_str().map_err(|_| unfit())?);
    Ok(subject)
}

fn key_id(cert: &X509Certificate<'_>) -> KeyIdMethod {
    cert::subject_key_id(cert).map_or(KeyIdMethod::Sha256, |id| KeyIdMethod::PreSpecified(id.to_vec()))
}
