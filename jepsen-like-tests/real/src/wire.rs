//! Real sockets for the clients, each workload's on a thread and runtime of its own.

use std::net::SocketAddr;
use std::rc::Rc;

use jlt_workloads::{Stream, Wire, async_trait};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// The servers by number.
struct Sockets {
    servers: Vec<SocketAddr>,
}

#[async_trait(?Send)]
impl Wire for Sockets {
    async fn connect(&self, server: usize) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.servers[server]).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// Does this with real sockets, on this thread.
pub(crate) fn with_sockets<T>(servers: &[SocketAddr], work: impl AsyncFnOnce(&Rc<dyn Wire>) -> T) -> Result<T, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| format!("a runtime: {error}"))?;
    let wire: Rc<dyn Wire> = Rc::new(Sockets { servers: servers.to_vec() });
    Ok(LocalSet::new().block_on(&runtime, work(&wire)))
}
