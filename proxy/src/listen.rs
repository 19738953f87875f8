//! Listening: one way to bind, to accept, and to set the options of a socket.

use crate::Error;
use crate::limits::LISTEN_BACKLOG;
use api::transport::net::{self, TcpListener, TcpStream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A listener at work. When it is dropped, its port becomes free.
pub(crate) struct Listening {
    listen: String,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
}

impl Listening {
    /// Listens on `ip:port` and hands each connection to `take`, until `drain` is cancelled.
    /// `what` tells the operator whose listener it is.
    pub(crate) fn start(
        what: &str,
        listen: &str,
        drain: &CancellationToken,
        take: impl Fn(TcpStream) + Send + 'static,
    ) -> Result<Self, Error> {
        Listening::over(bind(what, listen)?, what, listen, drain, take)
    }

    /// The same with a port that was taken before.
    pub(crate) fn over(
        listener: TcpListener,
        what: &str,
        listen: &str,
        drain: &CancellationToken,
        take: impl Fn(TcpStream) + Send + 'static,
    ) -> Result<Self, Error> {
        let address = listener.local_addr().map_err(|error| failed(what, listen, error))?;
        let stop = drain.child_token();
        tokio::spawn(accept(listener, stop.clone(), take));
        Ok(Listening { listen: listen.to_string(), address, stop })
    }

    /// Whether this is where it listens, as the configuration says it.
    pub(crate) fn is_on(&self, listen: &str) -> bool {
        self.listen == listen
    }

    /// Takes no more connections.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}

fn failed(what: &str, address: &str, source: std::io::Error) -> Error {
    Error::Listen { what: what.to_string(), address: address.to_string(), source: Arc::new(source) }
}

/// Listens on `ip:port`.
pub(crate) fn bind(what: &str, address: &str) -> Result<TcpListener, Error> {
    let failed = |source| failed(what, address, source);
    let parsed: SocketAddr = address.parse().map_err(|_| failed(std::io::Error::other("not of the form ip:port")))?;
    net::bind(parsed, LISTEN_BACKLOG).map_err(failed)
}

/// Hands each connection to `take`, until `stop` is cancelled; then the port is free.
async fn accept(listener: TcpListener, stop: CancellationToken, take: impl Fn(TcpStream)) {
    loop {
        let accepted = tokio::select! {
            // Whoever waits in the backlog is not taken any more.
            biased;
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
    keep_alive(tcp);
}

#[cfg(not(feature = "sim"))]
fn keep_alive(tcp: &TcpStream) {
    use crate::limits::TCP_KEEPALIVE;
    let keepalive = socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE / 3);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}

/// The simulated network has no such option.
#[cfg(feature = "sim")]
fn keep_alive(_tcp: &TcpStream) {}

/// Has an application's connection end with a reset when it is dropped: what broke off must not look like what came to its end.
#[cfg(not(feature = "sim"))]
pub(crate) fn break_off(tcp: &TcpStream) {
    // If the system refuses, it has gone already.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// The simulated network has no such option.
#[cfg(feature = "sim")]
pub(crate) fn break_off(_tcp: &TcpStream) {}

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
    async fn a_stopped_listener_leaves_its_backlog_alone() {
        // Each of them might be right by chance.
        for _ in 0..20 {
            let (drain, (taken, mut takes)) = (CancellationToken::new(), tokio::sync::mpsc::unbounded_channel());
            let stop = drain.clone();
            let listening = Listening::start("x", "127.0.0.1:0", &drain, move |_| {
                stop.cancel();
                let _ = taken.send(());
            })
            .expect("a free port");
            let connect = || std::net::TcpStream::connect(listening.address).expect("in the backlog");
            let _waiting = [connect(), connect(), connect()];
            let mut count = 0;
            while takes.recv().await.is_some() {
                count += 1;
            }
            assert_eq!(count, 1);
        }
    }

    #[tokio::test]
    async fn a_stopped_listener_frees_its_port() {
        let listening = Listening::start("x", "127.0.0.1:0", &CancellationToken::new(), drop).expect("a free port");
        let address = listening.address.to_string();
        bind("y", &address).expect_err("in use");
        drop(listening);
        // Its task sees to it a moment later.
        for _ in 0..1_000 {
            match bind("y", &address) {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("it is never free");
    }
}
