//! Reading one certificate: its only name, serial number, validity and purposes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::error::{Error, Refused};
use crate::name::CertName;
use crate::serial::Serial;

/// Largest certificate that we take, in bytes. A leaf of ours has about 600.
pub const CERT_BYTES_MAX: usize = 16 * 1024;
/// Most certificates in a chain that we take. Ours have at most 3 (leaf, intermediate, cross-signed root).
pub const CHAIN_CERTS_MAX: usize = 8;

/// What we read from a leaf certificate. Nothing in it is verified by reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeafCert {
    pub(crate) name: CertName,
    pub(crate) serial: Serial,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl LeafCert {
    /// Reads a leaf strictly: exactly one URI, in a form that we know; made for TLS on both sides or one of them.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Refused> {
        let cert = parse(der)?;
        let (uris, dns) = names(&cert)?;
        let [uri] = uris[..] else {
            return Err(Refused::NotOneUri(uris.len()));
        };
        check_key_usage(&cert)?;
        Ok(LeafCert {
            name: CertName::parse(uri, &dns)?,
            serial: Serial::from_bytes(cert.raw_serial()),
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
        })
    }
}

/// Parses X.509, and nothing but one certificate.
pub(crate) fn parse<'d>(der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, Refused> {
    if der.len() > CERT_BYTES_MAX {
        return Err(Refused::TooLarge("a certificate has more than 16 KiB"));
    }
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(Refused::Malformed("bytes follow the certificate".into())),
        Err(error) => Err(Refused::Malformed(error.to_string())),
    }
}

/// The URI and DNS names. Refuses names that cannot be read, so that nothing can hide behind them.
pub(crate) fn names<'c>(cert: &'c X509Certificate<'_>) -> Result<(Vec<&'c str>, Vec<&'c str>), Refused> {
    let malformed = |why: &str| Refused::Malformed(why.to_string());
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    let san = cert.subject_alternative_name().map_err(|e| malformed(&e.to_string()))?;
    for name in san.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => dns.push(*name),
            GeneralName::Invalid(..) => {
                return Err(malformed("a subject alternative name is not text"));
            }
            _ => {} // Addresses and mail names grant nothing here.
        }
    }
    Ok((uris, dns))
}

/// The subject key id, if it has one.
pub(crate) fn subject_key_id<'c>(cert: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    cert.iter_extensions().find_map(|ext| match ext.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn from_unix_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// RFC 3339 in UTC, to the second, as Consul's JSON has it.
pub(crate) fn rfc3339(time: ASN1Time) -> String {
    let t = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// PEM of one certificate.
pub(crate) fn to_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Every certificate in a PEM text, in order; at least one.
pub(crate) fn from_pem(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    use rustls_pki_types::pem::PemObject;
    let certs = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::malformed(what, e))?;
    if certs.is_empty() {
        return Err(Error::malformed(what, "there is no `-----BEGIN CERTIFICATE-----` in it"));
    }
    Ok(certs)
}

/// webpki looks at extended key usage only if it is there, and never at key usage; a mesh leaf must have the one
/// (which webpki then checks) and must not sign certificates (SPIFFE X509-SVID 4.3).
fn check_key_usage(cert: &X509Certificate<'_>) -> Result<(), Refused> {
    let malformed = |e: x509_parser::error::X509Error| Refused::Malformed(e.to_string());
    if cert.extended_key_usage().map_err(malformed)?.is_none() {
        return Err(Refused::WrongUsage("it has no extended key usage"));
    }
    match cert.key_usage().map_err(malformed)? {
        Some(usage) if !usage.value.digital_signature() => Err(Refused::WrongUsage("its key may not sign handshakes")),
        Some(usage) if usage.value.key_cert_sign() => Err(Refused::WrongUsage("its key may sign certificates")),
        Some(_) | None => Ok(()),
    }
}
