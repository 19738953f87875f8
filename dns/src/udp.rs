//! UDP: one socket and one thread for each core, questions and answers in batches. No task and no allocation per question.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendmsg,
    setsockopt,
};
use tokio::runtime::Handle as Runtime;

use crate::answer::{Scratch, Transport};
use crate::shared::{Deferred, Shared};

/// Questions that are taken from the kernel at once.
const BATCH: usize = 32;
/// Longer datagrams are cut off, and then malformed: a question takes at most 271 bytes and its OPT record a few more.
const DATAGRAM_BYTES: usize = 2048;

/// Answers the questions of one socket until the other end of `wake` is closed.
pub(crate) struct UdpListener {
    socket: Arc<UdpSocket>,
    wake: UnixStream,
    shared: Arc<Shared>,
    runtime: Runtime,
}

/// What a listener's thread reuses from one batch to the next. Belongs to that thread: it holds the kernel's pointers.
struct Batch {
    scratch: Scratch,
    received: Vec<u8>,
    inbound: MultiHeaders<SockaddrStorage>,
    outbound: MultiHeaders<SockaddrStorage>,
    answers: Vec<Vec<u8>>,
}

/// The other end of a datagram, and the address of ours that it was sent to, when the socket listens on all of them: the
/// answer must come from where the question went.
#[derive(Clone, Copy)]
struct Path {
    peer: SockaddrStorage,
    local: Option<Local>,
}

#[derive(Clone, Copy)]
enum Local {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl UdpListener {
    pub(crate) fn new(
        socket: UdpSocket,
        wake: UnixStream,
        shared: Arc<Shared>,
        runtime: Runtime,
    ) -> std::io::Result<Self> {
        ask_for_local_address(&socket, socket.local_addr()?)?;
        Ok(Self { socket: Arc::new(socket), wake, shared, runtime })
    }

    /// Blocks while there is nothing to do.
    pub(crate) fn run(self) {
        let mut batch = Batch::new(self.socket.local_addr().ok());
        while self.wait() {
            // A full batch: there is likely more.
            while self.serve(&mut batch) == BATCH {}
        }
    }

    /// Waits for a question. False when it is time to stop.
    fn wait(&self) -> bool {
        let mut sources =
            [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) => sources[1].revents().is_none_or(|events| events.is_empty()),
            Err(Errno::EINTR) => true,
            Err(error) => {
                tracing::error!(%error, "a DNS listener stops: poll(2) failed");
                false
            }
        }
    }

    /// Takes what has come, answers it, and tells how many questions it was.
    fn serve(&self, batch: &mut Batch) -> usize {
        let mut taken: [Option<(usize, Path)>; BATCH] = [None; BATCH];
        let count = receive(self.socket.as_raw_fd(), &mut batch.inbound, &mut batch.received, &mut taken);
        if count == 0 {
            return 0;
        }
        let zone = self.shared.zone();
        let mut paths: [Option<Path>; BATCH] = [None; BATCH];
        let mut ready = 0;
        for (packet, taken) in batch.received.chunks_exact(DATAGRAM_BYTES).zip(taken) {
            let Some((length, path)) = taken else {
                continue;
            };
            let out = &mut batch.answers[ready];
            let deferred = self.shared.answer(&zone, &packet[..length], Transport::Udp, &mut batch.scratch, out);
            if let Some(deferred) = deferred {
                self.settle_later(deferred, path);
            } else if !out.is_empty() {
                paths[ready] = Some(path);
                ready += 1;
            }
        }
        batch.send(self.socket.as_raw_fd(), &paths[..ready]);
        count
    }

    fn settle_later(&self, deferred: Deferred, path: Path) {
        let (socket, shared) = (self.socket.clone(), self.shared.clone());
        self.runtime.spawn(async move {
            let (mut scratch, mut out) = (Scratch::new(rand::random()), Vec::new());
            shared.settle(deferred, &mut scratch, &mut out).await;
            if out.is_empty() {
                return;
            }
            let iov = [IoSlice::new(&out)];
            let control = path.local.as_ref().map(Local::control);
            if let Err(error) =
                sendmsg(socket.as_raw_fd(), &iov, control.as_slice(), MsgFlags::empty(), Some(&path.peer))
            {
                tracing::debug!(%error, "a late DNS answer could not be sent");
            }
        });
    }
}

impl Batch {
    fn new(local: Option<SocketAddr>) -> Self {
        Self {
            scratch: Scratch::new(rand::random()),
            received: vec![0; BATCH * DATAGRAM_BYTES],
            inbound: MultiHeaders::preallocate(BATCH, local.and_then(control_space)),
            outbound: MultiHeaders::preallocate(BATCH, local.and_then(control_space)),
            answers: vec![Vec::new(); BATCH],
        }
    }

    /// Sends the first answers, in runs that leave from the same address of ours.
    fn send(&mut self, socket: RawFd, paths: &[Option<Path>]) {
        let mut sent = 0;
        while sent < paths.len() {
            let local = local_of(paths[sent]);
            let end = sent + paths[sent..].iter().take_while(|path| is_same(local_of(**path), local)).count();
            let peers: [Option<SockaddrStorage>; BATCH] =
                std::array::from_fn(|place| paths.get(sent + place).copied().flatten().map(|path| path.peer));
            let done = send_run(socket, &mut self.outbound, &self.answers[sent..end], &peers, local);
            // The first one could not be sent (its network is gone, say): it is lost, as datagrams may be.
            sent += done.max(1);
        }
    }
}

impl Local {
    fn control(&self) -> ControlMessage<'_> {
        match self {
            Self::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Self::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        }
    }
}

/// A socket on one address always answers from it; one on all addresses has to be told.
fn ask_for_local_address(socket: &UdpSocket, local: SocketAddr) -> nix::Result<()> {
    match local {
        SocketAddr::V4(address) if address.ip().is_unspecified() => setsockopt(socket, Ipv4PacketInfo, &true),
        SocketAddr::V6(address) if address.ip().is_unspecified() => setsockopt(socket, Ipv6RecvPacketInfo, &true),
        SocketAddr::V4(_) | SocketAddr::V6(_) => Ok(()),
    }
}

/// Exactly as much as one message about the local address takes: the kernel refuses to send what does not add up.
fn control_space(local: SocketAddr) -> Option<Vec<u8>> {
    match local {
        SocketAddr::V4(address) => address.ip().is_unspecified().then(|| nix::cmsg_space!(libc::in_pktinfo)),
        SocketAddr::V6(address) => address.ip().is_unspecified().then(|| nix::cmsg_space!(libc::in6_pktinfo)),
    }
}

/// Takes up to a batch of datagrams without waiting. Fills `taken` with their lengths and ways, and tells how many came.
fn receive(
    socket: RawFd,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffer: &mut [u8],
    taken: &mut [Option<(usize, Path)>; BATCH],
) -> usize {
    let mut slots = buffer.chunks_exact_mut(DATAGRAM_BYTES);
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
        std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
    match recvmmsg(socket, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
        Ok(messages) => {
            let mut count = 0;
            for (place, message) in taken.iter_mut().zip(messages) {
                let local =
                    message.cmsgs().ok().and_then(|mut controls| controls.find_map(|control| local_from(&control)));
                *place = message.address.map(|peer| (message.bytes, Path { peer, local }));
                count += 1;
            }
            count
        }
        Err(Errno::EAGAIN | Errno::EINTR) => 0,
        Err(error) => {
            tracing::debug!(%error, "a DNS socket reports an error");
            0
        }
    }
}

/// The address that a datagram was sent to, as it has to be said when answering.
fn local_from(control: &ControlMessageOwned) -> Option<Local> {
    match control {
        // No interface: routing decides, the address is what matters.
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local::V4(libc::in_pktinfo { ipi_ifindex: 0, ..*info })),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Local::V6(*info)),
        _ => None,
    }
}

/// Sends answers that leave from one address; returns how many went.
fn send_run(
    socket: RawFd,
    headers: &mut MultiHeaders<SockaddrStorage>,
    answers: &[Vec<u8>],
    peers: &[Option<SockaddrStorage>; BATCH],
    local: Option<Local>,
) -> usize {
    let slices: [[IoSlice<'_>; 1]; BATCH] =
        std::array::from_fn(|place| [IoSlice::new(answers.get(place).map_or(&[], Vec::as_slice))]);
    let control = local.as_ref().map(Local::control);
    let count = answers.len();
    match sendmmsg(socket, headers, slices[..count].iter(), &peers[..count], control.as_slice(), MsgFlags::empty()) {
        Ok(sent) => sent.count(),
        Err(error) => {
            tracing::debug!(%error, "a DNS answer could not be sent");
            0
        }
    }
}

fn local_of(path: Option<Path>) -> Option<Local> {
    path.and_then(|path| path.local)
}

fn is_same(one: Option<Local>, other: Option<Local>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(Local::V4(one)), Some(Local::V4(other))) => one == other,
        (Some(Local::V6(one)), Some(Local::V6(other))) => one == other,
        _ => false,
    }
}
