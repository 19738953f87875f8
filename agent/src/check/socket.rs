//! Checks by TCP and UDP.

use super::Finding;
use api::transport::net::TcpStream;
use std::io;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Passing if a connection can be made.
pub(crate) async fn tcp(address: &str) -> Finding {
    match TcpStream::connect(address).await {
        Ok(_) => Finding::passing(format!("TCP connect {address}: Success")),
        Err(error) => Finding::critical(format!("TCP connect {address}: {error}")),
    }
}

/// Critical if the system says that nobody is there. Silence is no answer, and passes.
pub(crate) async fn udp(address: &str, limit: Duration) -> Finding {
    match timeout(limit, ask(address)).await {
        Ok(Err(error)) => Finding::critical(format!("UDP connect {address}: {error}")),
        Ok(Ok(())) | Err(_) => Finding::passing(format!("UDP connect {address}: Success")),
    }
}

async fn ask(address: &str) -> io::Result<()> {
    let remote = tokio::net::lookup_host(address).await?.next().ok_or_else(|| io::Error::other("no address"))?;
    let any = if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(remote).await?;
    socket.send(&[]).await?;
    socket.recv(&mut [0; 64]).await.map(drop)
}
