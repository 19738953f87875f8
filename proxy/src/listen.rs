//! Listening: one way to bind, to accept, and to set the options of a socket.

use crate::Error;
use crate::limits::{LISTEN_BACKLOG, TCP_KEEPALIVE};
use socket2::{SockRef, TcpKeepalive};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

/// Listens on `ip:port`. `what` tells the operator whose listener it is.
pub(crate) fn bind(what: &str, address: &str) -> Result<TcpListener, Error> {
    let failed =
        |source| Error::Listen { what: what.to_string(), address: address.to_string(), source: Arc::new(source) };
    let parsed: SocketAddr = address.parse().map_err(|_| failed(std::io::Error::other("not of the form ip:port")))?;
    let socket = if parsed.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    socket.set_reuseaddr(true).and_then(|()| socket.bind(parsed)).map_err(failed)?;
    socket.listen(LISTEN_BACKLOG).map_err(failed)
}

/// Hands each connection to `take`, until `stop` is cancelled; then the port is free.
pub(crate) async fn accept(listener: TcpListener, stop: CancellationToken, take: impl Fn(TcpStream)) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, _)) => {
                tune(&tcp);
                take(tcp);
            }
            // The client has gone, or we have no file descriptors left; the latter passes only when others close theirs.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Small writes go out at once, and a peer that has vanished is found.
pub(crate) fn tune(tcp: &TcpStream) {
    // A socket that refuses these works all the same, a little worse.
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(tcp)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE / 3));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let held = bind("inbound", "127.0.0.1:0").expect("a free port");
        let address = held.local_addr().expect("address").to_string();
        let error = bind("upstream \"db\"", &address).expect_err("in use").to_string();
        assert!(error.starts_with(&format!("cannot listen on {address} for upstream \"db\": ")), "{error}");
        assert!(error.ends_with("choose another address, or stop what uses it"), "{error}");
        assert!(bind("x", "localhost").expect_err("no port").to_string().contains("not of the form ip:port"));
    }

    #[tokio::test]
    async fn a_stopped_listener_frees_its_port() {
        let listener = bind("x", "127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("address").to_string();
        let stop = CancellationToken::new();
        stop.cancel();
        accept(listener, stop, drop).await;
        bind("y", &address).expect("free again");
    }
}
