//! A handshake in memory between two configurations, and stand-ins for peers that obey no rules.

use std::sync::Arc;

use identity::{Refused, provider};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::forge::Forged;

/// Both ends after a handshake, with what each of them thinks of it.
#[derive(Debug)]
pub(crate) struct Shaken {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_result: Result<(), rustls::Error>,
    pub(crate) server_result: Result<(), rustls::Error>,
}

impl Shaken {
    pub(crate) fn is_ok(&self) -> bool {
        self.client_result.is_ok() && self.server_result.is_ok()
    }

    /// Why the client refused the server.
    pub(crate) fn client_refused(&self) -> Option<Refused> {
        self.client_result.as_ref().err().and_then(|e| Refused::find(e).cloned())
    }

    /// Why the server refused the client.
    pub(crate) fn server_refused(&self) -> Option<Refused> {
        self.server_result.as_ref().err().and_then(|e| Refused::find(e).cloned())
    }
}

pub(crate) fn shake(client: ClientConfig, server: ServerConfig) -> Shaken {
    shake_as(&Arc::new(client), &Arc::new(server), ServerName::try_from("web.test").unwrap())
}

pub(crate) fn shake_as(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, sni: ServerName<'static>) -> Shaken {
    let mut client = ClientConnection::new(client.clone(), sni).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let (mut client_result, mut server_result) = (Ok(()), Ok(()));
    for _ in 0..20 {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        feed(&to_server, &mut server_result, |mut bytes| {
            server.read_tls(&mut bytes).unwrap();
            (bytes.len(), server.process_new_packets().map(drop))
        });
        let mut to_client = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        feed(&to_client, &mut client_result, |mut bytes| {
            client.read_tls(&mut bytes).unwrap();
            (bytes.len(), client.process_new_packets().map(drop))
        });
        if to_server.is_empty() && to_client.is_empty() {
            break;
        }
    }
    let settled = !client.is_handshaking() && !server.is_handshaking();
    assert!(settled || client_result.is_err() || server_result.is_err(), "the handshake hangs");
    Shaken { client, server, client_result, server_result }
}

/// Feeds bytes until they are used up or refused; keeps the first error.
fn feed(
    mut bytes: &[u8],
    result: &mut Result<(), rustls::Error>,
    mut read: impl FnMut(&[u8]) -> (usize, Result<(), rustls::Error>),
) {
    while !bytes.is_empty() && result.is_ok() {
        let (left, outcome) = read(bytes);
        bytes = &bytes[bytes.len() - left..];
        *result = outcome;
    }
}

/// A client that shows whatever it likes and takes any server.
pub(crate) fn rogue_client(shows: Option<&Forged>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAll));
    match shows {
        Some(forged) => builder.with_client_cert_resolver(Arc::new(Shows(forged.certified()))),
        None => builder.with_no_client_auth(),
    }
}

/// A server that shows whatever it likes and asks no client for anything.
pub(crate) fn rogue_server(shows: &Forged) -> ServerConfig {
    ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(shows.certified())))
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct TakesAll;

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
