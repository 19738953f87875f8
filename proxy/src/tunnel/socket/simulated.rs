//! QUIC on the simulated network's UDP: one packet at a time, and always room for the next, which the network may lose.

use crate::upstream::lock;
use api::transport::net::{UdpSocket, at_once};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio_util::sync::ReusableBoxFuture;

/// Largest packet that is read.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Takes the port.
pub(in crate::tunnel) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    at_once(UdpSocket::bind(address))
}

/// QUIC on it. tokio's timers go by simulated time, and what quinn asks of `rand` is the seed's.
pub(in crate::tunnel) fn endpoint(server: ServerConfig, socket: UdpSocket) -> io::Result<Endpoint> {
    let socket = Arc::new(socket);
    let next = Mutex::new(ReusableBoxFuture::new(receive(socket.clone())));
    let socket = Arc::new(Socket { socket, next });
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
}

type Received = io::Result<(Vec<u8>, SocketAddr)>;

async fn receive(socket: Arc<UdpSocket>) -> Received {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let (length, from) = socket.recv_from(&mut packet).await?;
    packet.truncate(length);
    Ok((packet, from))
}

#[derive(Debug)]
struct Socket {
    socket: Arc<UdpSocket>,
    /// The packet that is waited for.
    next: Mutex<ReusableBoxFuture<'static, Received>>,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysRoom)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send_to(transmit.contents, transmit.destination).map(|_| ())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), metas.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut next = lock(&self.next);
        let received = ready!(next.poll(cx));
        next.set(receive(self.socket.clone()));
        let (packet, from) = received?;
        let length = packet.len().min(buffer.len());
        buffer[..length].copy_from_slice(&packet[..length]);
        *meta = RecvMeta { addr: from, len: length, stride: length, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// As on Linux, so that the path's packet size is searched for.
    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysRoom;

impl UdpPoller for AlwaysRoom {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
