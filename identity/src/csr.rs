//! Certificate signing requests: made where the key is made, and read with suspicion where they are signed.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::key::CaKey;
use crate::name::LeafName;
use crate::pem::LeafPem;

/// Largest request that is read, in bytes of PEM.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// A request and the fresh private key that it was made with. The request travels, the key does not.
#[derive(Clone)]
pub struct Csr {
    /// What to send to the CA.
    pub pem: String,
    /// What to keep: PKCS #8.
    pub key_pem: Zeroizing<String>,
}

impl Csr {
    /// A request for a leaf, with a fresh P-256 key.
    pub fn new(name: &LeafName) -> Result<Self, Error> {
        Self::make(vec![], sans(name)?)
    }

    /// A request of a secondary datacenter for its intermediate CA, with a fresh P-256 key.
    pub fn intermediate(trust_domain: &str, dc: &str) -> Result<Self, Error> {
        Self::make(vec![(DnType::OrganizationalUnitName, dc)], vec![ca_uri(trust_domain)?])
    }

    /// The leaf that the CA has made of this request: its chain, with the key that has stayed here.
    pub fn with_chain(self, cert_chain_pem: String) -> LeafPem {
        LeafPem { cert_chain_pem, key_pem: self.key_pem }
    }

    fn make(subject: Vec<(DnType, &str)>, names: Vec<SanType>) -> Result<Self, Error> {
        let key = CaKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        subject.into_iter().for_each(|(kind, text)| params.distinguished_name.push(kind, text));
        params.subject_alt_names = names;
        let request = params.serialize_request(key.pair()).map_err(Error::crypto)?;
        Ok(Csr { pem: request.pem().map_err(Error::crypto)?, key_pem: key.to_pem() })
    }
}

/// The only SPIFFE id that a request asks for, so that the CA's keeper can decide whether the sender may have it. Signing
/// checks the rest.
pub fn requested_id(csr_pem: &str) -> Result<model::SpiffeId, Error> {
    let request = Request::parse(csr_pem)?;
    let [uri] = &request.uris[..] else {
        return Err(Error::Csr(format!("it must have one URI, but has {:?}", request.uris)));
    };
    uri.parse().map_err(|error: model::spiffe::InvalidSpiffeId| Error::Csr(error.to_string()))
}

impl std::fmt::Debug for Csr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Csr").field("pem", &self.pem).finish_non_exhaustive()
    }
}

/// What a request asks for. Only the public key of it is ever copied into a certificate.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) key: SubjectPublicKeyInfo,
    uris: Vec<String>,
    dns: Vec<String>,
    /// Addresses, mail names and the like.
    other_names: usize,
    /// The subject's attributes, as text.
    subject: Vec<String>,
    wants_ca: bool,
}

impl Request {
    /// Reads a request and checks that its sender holds the private key.
    pub(crate) fn parse(pem: &str) -> Result<Self, Error> {
        if pem.len() > CSR_BYTES_MAX {
            return Err(Error::Csr(format!("it is larger than {CSR_BYTES_MAX} bytes")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| Error::malformed("certificate signing request", e))?;
        let (rest, csr) =
            X509CertificationRequest::from_der(&der).map_err(|e| Error::malformed("certificate signing request", e))?;
        if !rest.is_empty() {
            return Err(Error::malformed("certificate signing request", "bytes follow it"));
        }
        let info = &csr.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| bad_key())?;
        if *key.algorithm() != PKCS_ECDSA_P256_SHA256 && *key.algorithm() != PKCS_ED25519 {
            return Err(bad_key());
        }
        csr.verify_signature()
            .map_err(|_| Error::Csr("its signature does not prove that the sender holds the private key".into()))?;
        let subject = info.subject.iter_attributes().map(|a| a.as_str().unwrap_or("?").to_string()).collect();
        let mut request = Request { key, uris: vec![], dns: vec![], other_names: 0, subject, wants_ca: false };
        for attribute in info.iter_attributes() {
            if let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() {
                requested.extensions.iter().for_each(|extension| request.note(extension.parsed_extension()));
            }
        }
        Ok(request)
    }

    /// That it asks for this leaf and for nothing else.
    pub(crate) fn check_leaf(&self, name: &LeafName) -> Result<(), Error> {
        if !self.subject.is_empty() {
            return Err(Error::Csr(format!("its subject must be empty, but is {:?}", self.subject)));
        }
        self.check_names(&name.id().to_string(), name.dns())?;
        if self.wants_ca {
            return Err(Error::Csr("it asks for a CA certificate".into()));
        }
        Ok(())
    }

    /// That it asks for the intermediate CA of this datacenter.
    pub(crate) fn check_intermediate(&self, trust_domain: &str, dc: &str) -> Result<(), Error> {
        if self.subject != [dc] {
            return Err(Error::Csr(format!("its subject must be the datacenter {dc:?}, but is {:?}", self.subject)));
        }
        self.check_names(&format!("spiffe://{trust_domain}"), None)
    }

    fn check_names(&self, uri: &str, dns: Option<String>) -> Result<(), Error> {
        let uris: Vec<&str> = self.uris.iter().map(String::as_str).collect();
        if uris != [uri] {
            return Err(Error::Csr(format!("it must have the one URI {uri:?}, but has {uris:?}")));
        }
        if self.dns != dns.as_slice() || self.other_names > 0 {
            return Err(Error::Csr(format!(
                "its DNS names must be {dns:?}, but are {:?} and {} others",
                self.dns, self.other_names
            )));
        }
        Ok(())
    }

    fn note(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::SubjectAlternativeName(san) => {
                for name in &san.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_string()),
                        GeneralName::DNSName(dns) => self.dns.push((*dns).to_string()),
                        _ => self.other_names += 1,
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => self.wants_ca |= constraints.ca,
            _ => {} // Ignored, and not copied.
        }
    }
}

/// The names of a leaf.
pub(crate) fn sans(name: &LeafName) -> Result<Vec<SanType>, Error> {
    let uri = SanType::URI(name.id().to_string().try_into().map_err(Error::crypto)?);
    let dns = name.dns().map(|dns| dns.try_into().map(SanType::DnsName)).transpose().map_err(Error::crypto)?;
    Ok([Some(uri), dns].into_iter().flatten().collect())
}

/// The name of every CA of a mesh: its trust domain (SPIFFE-ID 4.2.1).
pub(crate) fn ca_uri(trust_domain: &str) -> Result<SanType, Error> {
    Ok(SanType::URI(format!("spiffe://{trust_domain}").try_into().map_err(Error::crypto)?))
}

fn bad_key() -> Error {
    Error::Csr("its key must be ECDSA P-256 or Ed25519".into())
}
