//! A network namespace: a machine's interfaces, addresses and ports, apart from all others. It has no name, so nothing has to be tidied up:
//! the kernel removes it when the last process in it has ended and the last handle is closed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// A handle that keeps the namespace.
pub struct Namespace(File);

impl Namespace {
    /// Makes an empty one whose loopback is up. Needs root.
    pub fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            raise_loopback()?;
            File::open("/proc/thread-self/ns/net")
        });
        made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that made a namespace panicked"))).map(Self)
    }

    /// Runs something in a thread that lives in the namespace: a process or socket that is made there stays there.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let done = scope.spawn(|| {
                self.enter()?;
                run()
            });
            done.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
        })
    }

    /// Moves the calling thread into the namespace for good, and with it the threads and processes that it will make.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Sets `lo` up: rtnetlink(7), RTM_NEWLINK with the flag IFF_UP for interface 1, which is always the loopback.
fn raise_loopback() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence number and sender
    message.extend([0; 4]); // family and type
    message.extend(1i32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // the flag
    message.extend(IFF_UP.to_ne_bytes()); // which flags are meant
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer[..length].get(16..20) {
        Some([0, 0, 0, 0]) => Ok(()),
        other => Err(io::Error::other(format!("the loopback does not come up: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn two_namespaces_do_not_see_each_other() {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let listener = one.inside(|| TcpListener::bind("127.0.0.1:7001")).unwrap();
        one.inside(|| TcpStream::connect("127.0.0.1:7001")).unwrap();
        assert!(other.inside(|| TcpStream::connect("127.0.0.1:7001")).is_err());
        drop(listener);
    }
}
