//! TCP: the system's, or in a simulation (feature `sim`) that of the simulated network. Nothing else knows which.

use std::io;
use std::net::SocketAddr;

#[cfg(not(feature = "sim"))]
pub use tokio::net::{TcpListener, TcpStream, lookup_host};
#[cfg(feature = "sim")]
pub use turmoil::net::{TcpListener, TcpStream, UdpSocket, lookup_host};

#[cfg(all(feature = "sim", not(tokio_unstable)))]
compile_error!("the feature `sim` is for the simulation alone, which is built with `--cfg tokio_unstable`");

#[cfg(not(feature = "sim"))]
const BACKLOG: u32 = 1024;

/// Listens. A process that starts again takes its port back at once.
#[cfg(not(feature = "sim"))]
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address, BACKLOG)
}

/// Listens, with a backlog of so many.
#[cfg(not(feature = "sim"))]
pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Listens.
#[cfg(feature = "sim")]
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Listens.
#[cfg(feature = "sim")]
pub fn bind(address: SocketAddr, _backlog: u32) -> io::Result<TcpListener> {
    at_once(TcpListener::bind(address))
}

/// The simulated network's functions are `async` as the system's are, but never wait to bind.
#[cfg(feature = "sim")]
pub fn at_once<T>(binding: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(binding).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(bound) => bound,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Looks at the first bytes and leaves them there.
pub async fn peek(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    stream.peek(into).await
}
