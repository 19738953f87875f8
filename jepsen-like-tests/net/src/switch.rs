//! The switch: one thread that reads the frames of all machines from their TAP devices and writes each to where it is meant to go, when its time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::SyncDevice;

use crate::shape::{Fates, Links, Shaper};

/// Longer than any frame of an Ethernet with the usual MTU.
const FRAME_BYTES_MAX: usize = 2048;

/// Frames on their way. More are dropped, as a switch does.
const WAITING_MAX: usize = 100_000;

/// Frames that are read from one machine before the others have their turn.
const FRAMES_PER_TURN_MAX: usize = 64;

/// How soon the thread notices that it should end.
const IDLE: Duration = Duration::from_millis(50);

/// The running switch; dropped, it ends, and the machines keep devices that lead nowhere.
pub(crate) struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    links: Mutex<Links>,
    fates: Mutex<Fates>,
}

/// What the thread owns.
struct Loop {
    shared: Arc<Shared>,
    devices: Vec<SyncDevice>,
    shaper: Shaper,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Numbers the frames, so that those of one moment keep their order.
    count: u64,
}

/// A frame on its way: when it arrives, its number, where to, and its bytes.
type Waiting = (Instant, u64, usize, Vec<u8>);

/// The hardware address of a machine; its last byte says which.
pub(crate) fn mac_of(machine: usize) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, machine as u8]
}

impl Switch {
    /// Joins the machines that own these devices, with perfect wires at first.
    pub(crate) fn start(devices: Vec<SyncDevice>, seed: u64) -> io::Result<Self> {
        let machines = devices.len();
        for device in &devices {
            device.set_nonblocking(true)?;
        }
        let links = Mutex::new(Links::perfect(machines));
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), links, fates: Mutex::default() });
        let inner = Loop {
            shared: Arc::clone(&shared),
            devices,
            shaper: Shaper::new(machines, seed),
            waiting: BinaryHeap::new(),
            count: 0,
        };
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(move || inner.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn set(&self, links: Links) {
        *self.shared.links.lock().unwrap_or_else(PoisonError::into_inner) = links;
    }

    pub(crate) fn fates(&self) -> Fates {
        *self.shared.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed, and the network is dead anyway.
            thread.join().ok();
        }
    }
}

impl Loop {
    fn run(mut self) {
        let mut frame = [0; FRAME_BYTES_MAX];
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.deliver_due();
            for from in self.wait_readable() {
                for _ in 0..FRAMES_PER_TURN_MAX {
                    let Ok(length) = self.devices[from].recv(&mut frame) else { break };
                    self.take(from, &frame[..length]);
                }
            }
            *self.shared.fates.lock().unwrap_or_else(PoisonError::into_inner) = self.shaper.fates;
        }
    }

    /// Who has sent something, at the latest when the next frame is due.
    fn wait_readable(&self) -> Vec<usize> {
        let next = self.waiting.peek().map(|Reverse(frame)| frame.0.saturating_duration_since(Instant::now()));
        let wait = next.map_or(IDLE, |next| next.min(IDLE));
        // Rounded up: a turn too late is better than a busy wait.
        let wait = PollTimeout::try_from(wait.as_micros().div_ceil(1000) as i32).unwrap_or(PollTimeout::ZERO);
        let mut polled: Vec<PollFd<'_>> =
            self.devices.iter().map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN)).collect();
        // An interrupted wait is a short wait.
        poll(&mut polled, wait).ok();
        let is_readable = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
        polled.iter().enumerate().filter(|(_, polled)| is_readable(polled)).map(|(machine, _)| machine).collect()
    }

    /// A frame was sent: to the machine whose address it bears, or to all.
    fn take(&mut self, from: usize, frame: &[u8]) {
        let Some(destination) = frame.get(..6) else { return };
        let is_for_all = destination[0] & 1 == 1;
        let links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Instant::now();
        for to in 0..self.devices.len() {
            if to == from || !(is_for_all || destination == mac_of(to)) {
                continue;
            }
            for at in self.shaper.arrivals(&links, from, to, now) {
                self.send_at(at, now, to, frame);
            }
        }
    }

    fn send_at(&mut self, at: Instant, now: Instant, to: usize, frame: &[u8]) {
        if at <= now {
            // A device that is full or down drops the frame, as a network card does.
            self.devices[to].send(frame).ok();
        } else if self.waiting.len() < WAITING_MAX {
            self.count += 1;
            self.waiting.push(Reverse((at, self.count, to, frame.to_vec())));
        }
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|Reverse(frame)| frame.0 <= now) {
            if let Some(Reverse((_, _, to, frame))) = self.waiting.pop() {
                self.devices[to].send(&frame).ok();
            }
        }
    }
}
