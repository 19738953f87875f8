//! What can go wrong when the listeners are set up. A question never ends in an error of this kind: it has a response code.

use std::io;
use std::net::SocketAddr;

/// Why DNS is not served. Nothing is left open in any of these cases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's fault: another program has the port.
    #[error(
        "cannot serve DNS on {address}/{protocol}: another program is listening there. Stop it (`ss -lpn sport = :{port}` tells \
         which it is) or choose another port with ports.dns (-dns-port); -1 turns DNS off",
        port = address.port()
    )]
    PortInUse {
        /// Where.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
    },
    /// The operator's fault: this address is not one of this machine's, or the port is a privileged one.
    #[error(
        "cannot serve DNS on {address}/{protocol}: {source}. Check that client_addr (-client) is an address of this machine, \
         and that the process may use the port (below 1024 it needs CAP_NET_BIND_SERVICE)"
    )]
    CannotListen {
        /// Where.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no thread or file descriptor left for a listener. One may try again.
    #[error("cannot start a DNS listener: {0}. The limits on threads and open files (ulimit -u, -n) may be too low")]
    NoResources(#[source] io::Error),
    /// The operator's fault.
    #[error("the domain {domain:?} cannot be served: it must be 1 to 50 characters, in labels of 1 to 63 between dots")]
    BadDomain {
        /// As it was set.
        domain: String,
    },
    /// The operator's fault.
    #[error("dns_config: {reason}")]
    BadSetting {
        /// What is wrong, and what would be right.
        reason: String,
    },
}
