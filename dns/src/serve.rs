//! Setting the listeners up, and taking them down.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::counters::Counters;
use crate::error::Error;
use crate::lookup::Lookup;
use crate::shared::Shared;
use crate::tcp;
use crate::udp::UdpListener;
use crate::zone::Zone;

/// Connections that the kernel holds for us until they are accepted.
const TCP_BACKLOG: i32 = 256;
/// With port 0 the UDP port that the system picks may be taken for TCP: how often to pick again.
const PORT_PICKS_MAX: usize = 16;

/// DNS that is being served.
pub struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

impl Handle {
    /// Where questions are answered, over UDP and TCP alike. Tells the port when it was asked for as 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Answers by other settings from the next question on. The numbers of threads, connections and waiting questions stay
    /// as they were at the start. Fails as [`Zone::new`]; then nothing has changed.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        self.shared.set_zone(Zone::new(config)?);
        Ok(())
    }

    /// Returns when the listeners are gone: after `shutdown` of [`serve`], when the questions at hand are answered.
    pub async fn stopped(self) {
        // It ends in an error only if the runtime ends first, and then the listeners are gone as well.
        let _ = self.supervisor.await;
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Serves DNS on `address` over UDP and TCP until `shutdown` completes, whether or not the handle is kept. Must be called on
/// a tokio runtime. Port 0 lets the system choose; the [`Handle`] tells.
///
/// Fails with [`Error`], whose texts are for the operator; then nothing is left open, and one may try again.
pub async fn serve(
    config: Config,
    address: SocketAddr,
    lookup: Arc<dyn Lookup>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Handle, Error> {
    let zone = Zone::new(config)?;
    let sockets = Sockets::bind(address, zone.config.udp_threads.max(1))?;
    let shared = Arc::new(Shared::new(zone, lookup));
    let address = sockets.address;
    let tcp = tokio::net::TcpListener::from_std(sockets.tcp).map_err(Error::NoResources)?;
    let (mut threads, mut wakers) = (Vec::new(), Vec::new());
    for socket in sockets.udp {
        let (waker, wake) = UnixStream::pair().map_err(Error::NoResources)?;
        let listener =
            UdpListener::new(socket, wake, shared.clone(), Runtime::current()).map_err(Error::NoResources)?;
        let name = format!("dns-udp-{}", threads.len());
        threads.push(thread::Builder::new().name(name).spawn(|| listener.run()).map_err(Error::NoResources)?);
        wakers.push(waker);
    }
    let (stop, stopping) = watch::channel(false);
    let connections = tokio::spawn(tcp::run(tcp, shared.clone(), stopping));
    let supervisor = tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // A thread stops when its waker is closed.
        drop(wakers);
        let _ = connections.await;
        let _ = tokio::task::spawn_blocking(|| {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        })
        .await;
    });
    Ok(Handle { address, shared, supervisor })
}

/// Sockets on one port: several for UDP, between which the kernel spreads the clients, and one for TCP.
struct Sockets {
    address: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    fn bind(address: SocketAddr, udp_sockets: usize) -> Result<Self, Error> {
        for _ in 1..PORT_PICKS_MAX {
            match Self::bind_once(address, udp_sockets) {
                Err(Error::PortInUse { protocol: "tcp", .. }) if address.port() == 0 => {}
                bound => return bound,
            }
        }
        Self::bind_once(address, udp_sockets)
    }

    fn bind_once(address: SocketAddr, udp_sockets: usize) -> Result<Self, Error> {
        // The first socket is bound alone, and shares the port only then: so a second program finds out that it is taken,
        // instead of getting a part of the questions.
        let cannot = |source| cannot_listen(address, "udp", source);
        let first = open(address, Type::DGRAM, Protocol::UDP).map_err(cannot)?;
        first.bind(&address.into()).map_err(cannot)?;
        first.set_reuse_port(true).map_err(cannot)?;
        let first = UdpSocket::from(first);
        let address = first.local_addr().map_err(cannot)?;
        let tcp = listen(address).map_err(|source| cannot_listen(address, "tcp", source))?;
        let mut udp = vec![first];
        while udp.len() < udp_sockets {
            let socket = open(address, Type::DGRAM, Protocol::UDP).map_err(cannot)?;
            socket.set_reuse_port(true).map_err(cannot)?;
            socket.bind(&address.into()).map_err(cannot)?;
            udp.push(socket.into());
        }
        Ok(Self { address, udp, tcp })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    // Connections of a former run that are still winding down do not keep us from listening.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), kind, Some(protocol))
}

fn cannot_listen(address: SocketAddr, protocol: &'static str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse { address, protocol },
        _ => Error::CannotListen { address, protocol, source },
    }
}
