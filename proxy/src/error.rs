//! What can go wrong before bytes move: in options, files, listeners and at the agent.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a proxy cannot do what it was told. It goes on with what it had and tries again by itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operator's fault: the file cannot be read. Mend the path or its rights.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The operator's fault: the file is not a proxy configuration.
    #[error("{path} is not a proxy configuration: {why}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        why: String,
    },
    /// The operator's fault, mostly: another process has the port, or the address is not this machine's.
    #[error("cannot listen on {address} for {what}: {source}; choose another address, or stop what uses it")]
    Listen {
        /// Whose listener.
        what: String,
        /// Where.
        address: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The fault of whoever made the certificates.
    #[error("cannot use the certificates: {0}")]
    Identity(Arc<identity::Error>),
    /// The configuration contradicts itself: the control plane's or the file's fault.
    #[error("the configuration cannot be obeyed: {0}")]
    Config(String),
    /// The agent cannot be reached, or refuses. The proxy retries by itself; is the agent up, and the proxy registered?
    #[error("the agent at {address} does not serve this proxy: {why}")]
    Control {
        /// Where the agent should be.
        address: String,
        /// What it said, or the transport.
        why: String,
    },
    /// The proxy has been shut down.
    #[error("the proxy has been shut down")]
    Stopped,
}

impl From<identity::Error> for Error {
    fn from(error: identity::Error) -> Self {
        Error::Identity(Arc::new(error))
    }
}
