//! The tunnels' UDP: the system's, or in a simulation (feature `sim`) that of the simulated network. Nothing else knows which.

#[cfg(feature = "sim")]
mod simulated;

#[cfg(feature = "sim")]
pub(super) use simulated::{bind, endpoint};
#[cfg(not(feature = "sim"))]
pub(super) use system::{bind, endpoint};

#[cfg(not(feature = "sim"))]
mod system {
    use crate::limits::TUNNEL_SOCKET_BUFFER_BYTES;
    use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
    use socket2::{Domain, Protocol, Socket, Type};
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Arc;

    /// Takes the port.
    pub(in crate::tunnel) fn bind(address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The system may grant less; that costs speed, not correctness.
        let _ = socket.set_recv_buffer_size(TUNNEL_SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(TUNNEL_SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Ok(socket)
    }

    /// QUIC on it.
    pub(in crate::tunnel) fn endpoint(server: ServerConfig, socket: Socket) -> io::Result<Endpoint> {
        Endpoint::new(EndpointConfig::default(), Some(server), socket.into(), Arc::new(TokioRuntime))
    }
}
