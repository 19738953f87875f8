//! Real sockets for the clients, each workload's on a thread and runtime of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use jlt_workloads::{Place, Stream, Wire, async_trait};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Consul's DNS port, UDP and TCP.
const DNS_PORT: u16 = 8600;

/// The longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// The servers by number.
struct Sockets {
    servers: Vec<SocketAddr>,
}

impl Sockets {
    fn address(&self, place: Place) -> SocketAddr {
        match place {
            Place::Dns(server) => SocketAddr::new(self.servers[server].ip(), DNS_PORT),
        }
    }
}

#[async_trait(?Send)]
impl Wire for Sockets {
    async fn connect(&self, server: usize) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.servers[server]).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn connect_to(&self, place: Place) -> std::io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(self.address(place)).await?))
    }

    async fn exchange(&self, place: Place, datagram: &[u8]) -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(self.address(place)).await?;
        socket.send(datagram).await?;
        let mut answer = vec![0; DATAGRAM_BYTES_MAX];
        let length = socket.recv(&mut answer).await?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Does this with real sockets, on this thread.
pub(crate) fn with_sockets<T>(servers: &[SocketAddr], work: impl AsyncFnOnce(&Rc<dyn Wire>) -> T) -> Result<T, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| format!("a runtime: {error}"))?;
    let wire: Rc<dyn Wire> = Rc::new(Sockets { servers: servers.to_vec() });
    Ok(LocalSet::new().block_on(&runtime, work(&wire)))
}
