//! Where the facts come from: the one thing that this crate asks of the program around it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::records::{Endpoints, NodeRecord};

/// Where the facts come from: the catalog in memory on a server, watched views on a plain agent.
///
/// The listeners' threads call it for each question and block meanwhile, so an answer must be at hand; what has to be
/// fetched first is a [`Found::Wait`]. Names arrive in lower case, as DNS knows no case: compare them without case.
pub trait Lookup: Send + Sync + 'static {
    /// The instances of a service with whatever health (this crate leaves out the unhealthy ones).
    fn service(&self, query: &ServiceQuery<'_>) -> Found<Arc<Endpoints>>;
    /// A node. No datacenter means the local one, which is never given by its name.
    fn node(&self, datacenter: Option<&str>, name: &str) -> Found<Arc<NodeRecord>>;
    /// Who has this address: a node first, else a service.
    fn node_by_address(&self, address: IpAddr) -> Found<ReverseName>;
    /// The servers of the local datacenter, for `NS` records.
    fn name_servers(&self) -> Vec<Arc<NodeRecord>>;
    /// The local datacenter.
    fn datacenter(&self) -> &str;
}

/// Which instances a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceQuery<'a> {
    /// As in the question, in lower case; none means the local one. A [`Lookup`] never gets the local one by its name.
    pub datacenter: Option<&'a str>,
    /// The service's name in lower case.
    pub service: &'a str,
    /// Only instances that have this tag, in lower case.
    pub tag: Option<&'a str>,
    /// Which sort of endpoint.
    pub kind: LookupKind,
}

/// The kind word in a service question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LookupKind {
    /// `.service`: the instances themselves.
    Service,
    /// `.connect`: what speaks the mesh's mutual TLS for them: sidecars, or native instances.
    Connect,
    /// `.ingress`: ingress gateways that expose the service.
    Ingress,
}

/// The outcome of a look-up.
pub enum Found<T> {
    /// Here it is.
    Ready(T),
    /// There is none of this name: NXDOMAIN.
    NoSuchName,
    /// There is no such datacenter: NXDOMAIN.
    NoSuchDatacenter,
    /// Not known now, for instance because the datacenter is out of reach: SERVFAIL, so that clients ask elsewhere.
    Unavailable,
    /// Known soon. Waited for up to [`Config::wait_timeout`](crate::Config::wait_timeout), on the runtime. A `Wait` that
    /// comes out of it counts as `Unavailable`.
    Wait(Pin<Box<dyn Future<Output = Found<T>> + Send>>),
}

impl<T: 'static> Found<T> {
    /// The same outcome with something made of what was found.
    pub fn map<U>(self, make: impl FnOnce(T) -> U + Send + 'static) -> Found<U> {
        match self {
            Self::Ready(value) => Found::Ready(make(value)),
            Self::NoSuchName => Found::NoSuchName,
            Self::NoSuchDatacenter => Found::NoSuchDatacenter,
            Self::Unavailable => Found::Unavailable,
            Self::Wait(later) => Found::Wait(Box::pin(async move { later.await.map(make) })),
        }
    }
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReverseName {
    /// A node has it: `<name>.node.<datacenter>.<domain>`.
    Node {
        /// The node's name.
        name: String,
        /// Its datacenter.
        datacenter: String,
    },
    /// A service has it: `<name>.service.<datacenter>.<domain>`.
    Service {
        /// The service's name.
        name: String,
        /// Its datacenter.
        datacenter: String,
    },
}
