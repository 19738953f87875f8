//! TLS between agents and servers: one server configuration for those who join and those who have joined.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::ServerName;

use crate::check::Expect;
use crate::error::Error;
use crate::join::{JoinSecret, Joiner};
use crate::live::Identity;
use crate::name::{JOIN_TRUST_DOMAIN, JoinName, Role};
use crate::tls;

/// The TLS of the RPC port (8300): this node's identity, plus what it needs to join or to let others join.
#[derive(Debug, Clone)]
pub struct RpcIdentity {
    identity: Identity,
    joiner: Arc<Joiner>,
}

impl RpcIdentity {
    /// For this node. `identity` may still be without leaf and bundle; fill them in when the node has joined.
    pub fn new(identity: Identity, secret: &JoinSecret, role: Role, dc: &str, node: &str) -> Result<Self, Error> {
        let name = JoinName { role, dc: dc.to_string(), node: node.to_string() };
        Ok(RpcIdentity { identity, joiner: Arc::new(Joiner::new(secret, name)?) })
    }

    /// The identity that it was made with.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For the RPC port: takes members of the mesh and joiners. [`crate::peer`] tells which; a joiner may do nothing but ask for
    /// its certificate.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
        let decider = self.identity.decider(Expect::MemberOrJoiner, Some(self.joiner.anchor().clone()));
        tls::server_config(decider, Arc::new(BySni(self.clone())), alpn)
    }

    /// To ask a server for a certificate: proves the secret both ways. Dial with [`RpcIdentity::join_server_name`].
    pub fn join_client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
        let decider = self.identity.decider(Expect::JoinServer, Some(self.joiner.anchor().clone()));
        tls::client_config(decider, Arc::new(JoinCert(self.joiner.clone())), alpn)
    }

    /// To speak with the servers of a datacenter as a member. Dial with [`RpcIdentity::server_name`].
    pub fn client_config(&self, dc: &str, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
        let decider = self.identity.decider(Expect::Server { dc: dc.to_string() }, None);
        tls::client_config(decider, Arc::new(self.identity.resolver()), alpn)
    }

    /// The SNI that asks for the join certificate.
    pub fn join_server_name() -> ServerName<'static> {
        // Invariant: the constant is a DNS name.
        ServerName::try_from(JOIN_TRUST_DOMAIN).expect("a DNS name")
    }

    /// The SNI of a datacenter's servers: `server.<dc>.<domain>`. It routes; it proves nothing.
    pub fn server_name(dc: &str, domain: &str) -> Result<ServerName<'static>, Error> {
        let name = format!("server.{dc}.{}", domain.trim_matches('.'));
        ServerName::try_from(name.clone()).map_err(|_| Error::Name { name, why: "it is not a DNS name" })
    }
}

/// The join certificate for those who ask for it, and for all while there is no other.
#[derive(Debug)]
struct BySni(RpcIdentity);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let real = if hello.server_name() == Some(JOIN_TRUST_DOMAIN) { None } else { self.0.identity.certified() };
        real.or_else(|| self.0.joiner.certified())
    }
}

/// Always the join certificate.
#[derive(Debug)]
struct JoinCert(Arc<Joiner>);

impl ResolvesClientCert for JoinCert {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
