//! What is public about the certificate authority.

use serde::{Deserialize, Serialize};

/// A root certificate as clients see it. (Consul: `structs.CARoot`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaRoot {
    /// Hex SHA-1 fingerprint of the certificate, with colons.
    #[serde(rename = "ID")]
    pub id: String,
    /// Display name.
    pub name: String,
    /// The certificate's serial number, shortened to 64 bits as Consul does.
    pub serial_number: u64,
    /// Key id of the certificate that signs leaves.
    #[serde(rename = "SigningKeyID")]
    pub signing_key_id: String,
    /// The trust domain, when it is not the cluster's own.
    pub external_trust_domain: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// PEM.
    pub root_cert: String,
    /// PEM of the intermediates that leaves are sent with.
    pub intermediate_certs: Option<Vec<String>>,
    /// Whether new leaves chain to it.
    pub active: bool,
    /// `ec`.
    pub private_key_type: String,
    /// 256.
    pub private_key_bits: u32,
}
