//! What can go wrong, and whose fault it is: [`Error`] for operations, [`Refused`] for a peer's certificate.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use model::SpiffeId;
use model::spiffe::InvalidSpiffeId;
use rustls::{AlertDescription, CertificateError, OtherError};

use crate::serial::Serial;

/// Why an operation of this crate failed. Nothing was changed or signed in any of the cases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fault of whoever gave us the file or message. Give a correct one.
    #[error("the {what} cannot be read: {why}")]
    Malformed {
        /// Which input.
        what: &'static str,
        /// What the parser said.
        why: String,
    },
    /// The fault of whoever gave us the pair. Give the key that the certificate was made for.
    #[error("the private key does not belong to the certificate of {0}")]
    KeyMismatch(String),
    /// The operator's fault. `tribune keygen` makes a correct one.
    #[error("the join secret (`encrypt`) must be base64 of 16, 24 or 32 random bytes: {0}; `tribune keygen` makes one")]
    JoinSecret(String),
    /// The requester's fault: its certificate signing request asks for something else than it may have.
    #[error("the certificate signing request is refused: {0}")]
    Csr(String),
    /// The caller's fault: this name cannot be in a certificate of this CA.
    #[error("this CA does not sign for {name}: {why}")]
    Name {
        /// The name asked for.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// The CA certificate has run out (or the clock is wrong). Rotate the root, or mend the clock; then retry.
    #[error(
        "the CA certificate is not valid now: check the clock, or rotate the root with `tribune connect ca set-config`"
    )]
    CaNotValidNow,
    /// The certificate that we were given for ourselves would be refused by every peer.
    #[error("the certificate is not fit for use: {0}")]
    Unfit(#[from] Refused),
    /// The disk's or the operator's fault; may be retried.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cryptographic library failed: a bug, or a machine without randomness.
    #[error("cryptography failed: {0}")]
    Crypto(String),
}

impl Error {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Error::Malformed { what, why: why.to_string() }
    }

    pub(crate) fn crypto(why: impl ToString) -> Self {
        Error::Crypto(why.to_string())
    }
}

/// Why the peer's certificate was refused. The handshake is over; retrying helps only where it is said.
///
/// It travels through rustls inside [`CertificateError::Other`]; [`Refused::find`] gets it out again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The peer's fault: not X.509 as RFC 5280 has it.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// The peer's fault: far larger than any certificate of a mesh.
    #[error("the certificate chain is too large: {0}")]
    TooLarge(&'static str),
    /// The peer's fault: a mesh certificate names exactly one holder.
    #[error("the certificate has {0} URI names; exactly one SPIFFE id is needed")]
    NotOneUri(usize),
    /// The peer's fault: the only URI is none of the forms of a mesh.
    #[error(transparent)]
    NotSpiffe(#[from] InvalidSpiffeId),
    /// A server's certificate must name its node in one DNS name.
    #[error("the server certificate does not name its node as <node>.server.{0}.consul")]
    NoServerNode(String),
    /// Certificates of another mesh, or another mesh's address was dialled.
    #[error("the peer is of the trust domain {found:?}, not of {expected:?}: is it another cluster?")]
    ForeignTrustDomain {
        /// The peer's.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Not signed by any root that we trust.
    #[error("the certificate was not signed by a root that this node trusts")]
    UnknownIssuer,
    /// The peer did not renew, or one of the clocks is wrong.
    #[error("the certificate has expired: did the peer fail to renew it, or is a clock wrong?")]
    Expired,
    /// One of the clocks is wrong. May be retried later.
    #[error("the certificate is not valid yet: a clock is wrong on this node or the peer's")]
    NotYetValid,
    /// Meant for something else than TLS between services.
    #[error("the certificate is not meant for this use: {0}")]
    WrongUsage(&'static str),
    /// The chain breaks a rule of RFC 5280.
    #[error("the certificate chain is not valid: {0}")]
    Chain(String),
    /// An operator has revoked it.
    #[error("the certificate with serial {0} has been revoked")]
    RevokedSerial(Serial),
    /// An operator has revoked every certificate of this holder.
    #[error("{0} has been revoked")]
    RevokedId(SpiffeId),
    /// An intermediate CA of one datacenter signed for another one.
    #[error("the CA of datacenter {ca:?} has signed for datacenter {leaf:?}")]
    ForeignDatacenter {
        /// The intermediate's datacenter.
        ca: String,
        /// The leaf's datacenter.
        leaf: String,
    },
    /// A true certificate, but of somebody else than we meant to speak to.
    #[error("the peer is {found}, but {expected} was meant")]
    Unexpected {
        /// Who answered.
        found: String,
        /// Who was meant.
        expected: String,
    },
    /// The join certificate was made from another secret.
    #[error("the join secrets differ: is `encrypt` the same on both?")]
    JoinSecretsDiffer,
    /// A join certificate where only real certificates are taken.
    #[error("a join certificate is not taken here: the peer must first get its certificate from a server")]
    JoinerNotTaken,
    /// We have not joined yet. Retry when this node has its trust bundle.
    #[error("this node has no trust bundle yet, so it can trust nobody: wait until it has joined")]
    NoBundle,
    /// The peer showed no certificate at all.
    #[error("the peer has shown no certificate")]
    NoCertificate,
}

impl Refused {
    /// The refusal inside an error of rustls, tokio-rustls, hyper or tonic, if that is what it was. (quinn keeps only its text.)
    pub fn find<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e Refused> {
        /// Errors nest a few levels deep; a cycle must not hang us.
        const DEPTH_MAX: usize = 16;
        let mut next = Some(error);
        for _ in 0..DEPTH_MAX {
            let error = next?;
            if let Some(refused) = error.downcast_ref::<Refused>() {
                return Some(refused);
            }
            next = match (error.downcast_ref::<rustls::Error>(), error.downcast_ref::<io::Error>()) {
                (Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))), _) => {
                    Some(&**inner)
                }
                (_, Some(io)) => io.get_ref().map(|inner| inner as _),
                _ => error.source(),
            };
        }
        None
    }

    /// Whether the error says that the *peer* refused *our* certificate: the reason is in the peer's log.
    pub fn was_by_peer(error: &rustls::Error) -> bool {
        use AlertDescription as A;
        let refusals = [
            A::CertificateUnknown,
            A::BadCertificate,
            A::UnknownCA,
            A::CertificateExpired,
            A::CertificateRevoked,
            A::AccessDenied,
        ];
        matches!(error, rustls::Error::AlertReceived(alert) if refusals.contains(alert))
    }
}

impl From<Refused> for rustls::Error {
    fn from(refused: Refused) -> Self {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}
