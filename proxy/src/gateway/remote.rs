//! The remote side of a gateway: tunnels that other gateways make to us, and the streams in them.

use super::Shared;
use crate::limits::{CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, TUNNELS_MAX};
use crate::metrics::Event;
use crate::tunnel;
use model::spiffe::Subject;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

impl Shared {
    /// Takes tunnels that other gateways make to us.
    pub(super) async fn accept_tunnels(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let incoming = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            if self.tunnels.len() >= TUNNELS_MAX {
                incoming.refuse();
                continue;
            }
            let shared = self.clone();
            self.tunnels.spawn(|connection| async move {
                let Ok(Ok(tunnel)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(incoming.into_future())).await
                else {
                    shared.remote.counters.count(Event::HandshakeFailed);
                    return;
                };
                let Some(caller) = shared.tunnels.caller(&tunnel::peer_chain(&tunnel)) else {
                    return;
                };
                connection.identify(caller.clone());
                connection.allow(true);
                // Any member of the mesh can make the handshake; only gateways may make tunnels.
                if !matches!(caller.id.subject, Subject::Gateway { .. }) || !caller.is_trusted(&shared.identity, true) {
                    shared.remote.counters.count(Event::Denied);
                    tunnel.close(1u8.into(), b"not a gateway");
                    return;
                }
                let _closing = CloseOnDrop(tunnel.clone());
                while let Ok((send, receive)) = tunnel.accept_bi().await {
                    shared.take_stream(send, receive);
                }
            });
        }
    }

    /// Takes a stream out of a tunnel, unless there are too many.
    fn take_stream(self: &Arc<Self>, mut send: quinn::SendStream, receive: quinn::RecvStream) {
        if !self.remote.live.admits(&self.remote.counters, CONNECTIONS_MAX) {
            let _ = send.reset(1u8.into());
            return;
        }
        let shared = self.clone();
        self.remote.live.spawn(|_| async move {
            if !shared.run_remote(send, receive).await {
                shared.remote.counters.count(Event::ConnectionRefused);
            }
        });
    }

    /// One stream out of a tunnel.
    pub(super) async fn run_remote(&self, mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> bool {
        let service = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tunnel::read_header(&mut receive)).await {
            Ok(Ok(name)) => self.routes.load().services.get(&name).cloned(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(service) = service else {
            let _ = send.reset(2u8.into());
            return false;
        };
        let mut near = tokio::io::join(receive, send);
        let passed = self.to_sidecar(&mut near, &[], &service, &self.remote.counters).await;
        if !passed {
            let _ = near.writer_mut().reset(0u8.into());
        }
        passed
    }
}

/// Ends a tunnel when its task is cut.
struct CloseOnDrop(quinn::Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(0u8.into(), b"closed");
    }
}
