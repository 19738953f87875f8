//! What a proxy counts. Atomics that nobody waits for; [`Snapshot`] is what others see.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of one direction of the proxy, counted as they pass. L4 only: HTTP is counted in requests.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

/// Counters of one listener: the inbound one, one upstream, or one side of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) traffic: Traffic,
    connections: AtomicU64,
    connections_refused: AtomicU64,
    connections_cut: AtomicU64,
    handshakes_failed: AtomicU64,
    connects_failed: AtomicU64,
    denied: AtomicU64,
    requests: AtomicU64,
    requests_failed: AtomicU64,
    retries: AtomicU64,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection was taken.
    Connection,
    /// One too many, or nobody to pass it on to.
    ConnectionRefused,
    /// A change of the rules cut it.
    ConnectionCut,
    /// A client's TLS handshake failed.
    HandshakeFailed,
    /// An endpoint could not be reached.
    ConnectFailed,
    /// An intention forbade it: a connection at L4, a request at L7.
    Denied,
    /// A request came.
    Request,
    /// We answered it ourselves, because nobody else did.
    RequestFailed,
    /// It was tried again elsewhere.
    Retry,
}

impl Counters {
    pub(crate) fn count(&self, event: Event) {
        let counter = match event {
            Event::Connection => &self.connections,
            Event::ConnectionRefused => &self.connections_refused,
            Event::ConnectionCut => &self.connections_cut,
            Event::HandshakeFailed => &self.handshakes_failed,
            Event::ConnectFailed => &self.connects_failed,
            Event::Denied => &self.denied,
            Event::Request => &self.requests,
            Event::RequestFailed => &self.requests_failed,
            Event::Retry => &self.retries,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self, connections_open: usize) -> ListenerSnapshot {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        ListenerSnapshot {
            connections_open,
            connections: read(&self.connections),
            connections_refused: read(&self.connections_refused),
            connections_cut: read(&self.connections_cut),
            handshakes_failed: read(&self.handshakes_failed),
            connects_failed: read(&self.connects_failed),
            denied: read(&self.denied),
            requests: read(&self.requests),
            requests_failed: read(&self.requests_failed),
            retries: read(&self.retries),
            bytes_sent: read(&self.traffic.sent),
            bytes_received: read(&self.traffic.received),
        }
    }
}

/// What a proxy has done since it was started, and has in hand now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Snapshot {
    /// The mutual-TLS side of a sidecar.
    pub inbound: Option<ListenerSnapshot>,
    /// The application's side, by upstream.
    pub upstreams: BTreeMap<String, ListenerSnapshot>,
    /// A gateway's two sides.
    pub gateway: Option<GatewaySnapshot>,
}

/// What a gateway has done and has in hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GatewaySnapshot {
    /// Connections of this datacenter's sidecars.
    pub local: ListenerSnapshot,
    /// Streams from other datacenters' gateways.
    pub remote: ListenerSnapshot,
    /// QUIC connections that stand, to each other datacenter.
    pub tunnels: BTreeMap<String, usize>,
}

/// Counters of one listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListenerSnapshot {
    /// Connections that stand now.
    pub connections_open: usize,
    /// Connections taken.
    pub connections: u64,
    /// Connections refused: one too many, or nobody to pass them on to.
    pub connections_refused: u64,
    /// Connections cut by a change of intentions or by a revocation.
    pub connections_cut: u64,
    /// TLS handshakes of clients that failed.
    pub handshakes_failed: u64,
    /// Endpoints that could not be reached.
    pub connects_failed: u64,
    /// Connections (L4) or requests (L7) that an intention forbade.
    pub denied: u64,
    /// HTTP requests.
    pub requests: u64,
    /// HTTP requests that this proxy had to answer with an error of its own.
    pub requests_failed: u64,
    /// HTTP requests and connections that were tried again elsewhere.
    pub retries: u64,
    /// Bytes from the client, L4 only.
    pub bytes_sent: u64,
    /// Bytes to the client, L4 only.
    pub bytes_received: u64,
}
