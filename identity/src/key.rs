//! Private keys of CAs, and of those who ask them for a certificate.

use std::fmt;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::{Zeroize, Zeroizing};

use crate::error::Error;

/// The private key of a CA. Wiped from memory when dropped; never printed.
pub struct CaKey(KeyPair);

impl CaKey {
    /// A fresh P-256 key.
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(CaKey).map_err(Error::crypto)
    }

    /// From PEM (PKCS #8 or SEC 1).
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        KeyPair::from_pem(pem).map(CaKey).map_err(|e| Error::malformed("CA key", e))
    }

    /// PKCS #8 in PEM. The text is wiped when dropped: put it only where a secret belongs.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    pub(crate) fn from_pair(pair: KeyPair) -> Self {
        CaKey(pair)
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey(secret)")
    }
}
