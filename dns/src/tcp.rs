//! TCP: questions behind each other on one connection (RFC 7766), answered in their order.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::{Scratch, Transport};
use crate::shared::Shared;

/// No question is longer; who says otherwise speaks something else.
const QUESTION_BYTES_MAX: usize = 4096;
/// Answers are sent on when they are this many bytes, even if there are more questions at hand.
const OUTBOX_BYTES: usize = 64 * 1024;
/// Pause after a failure to accept, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to send their last answers when we stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// Accepts connections until `stop` says so (or its sender is gone), then lets the open ones finish.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(shared.zone().config.tcp_connections_max));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                shared.counters.count_connection();
                let connection = Connection::new(stream, shared.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    connection.run().await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a DNS connection could not be accepted; if files ran out, raise ulimit -n");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let _ = timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    idle_timeout: Duration,
    /// When the next whole question must be here. Bytes alone do not put it off: they may trickle in for ever.
    deadline: Instant,
    scratch: Scratch,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

/// The connection is to be closed.
struct Close;

impl Connection {
    fn new(stream: TcpStream, shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Self {
        let idle_timeout = shared.zone().config.tcp_idle_timeout;
        let scratch = Scratch::new(rand::random());
        Self {
            stream,
            shared,
            stop,
            idle_timeout,
            deadline: Instant::now() + idle_timeout,
            scratch,
            inbox: Vec::new(),
            outbox: Vec::new(),
        }
    }

    async fn run(mut self) {
        // Only a delay is lost if this fails.
        let _ = self.stream.set_nodelay(true);
        while let Ok(()) = self.serve().await {}
    }

    /// One round: read what is there, answer it, send.
    async fn serve(&mut self) -> Result<(), Close> {
        self.read().await?;
        let mut at = 0;
        let zone = self.shared.zone();
        let mut answer = Vec::new();
        let mut verdict = Ok(());
        while let Some(length) = question_bytes(&self.inbox[at..]) {
            let start = at + 2;
            if length > QUESTION_BYTES_MAX {
                verdict = Err(Close);
                break;
            }
            let Some(packet) = self.inbox.get(start..start + length) else {
                break;
            };
            let deferred = self.shared.answer(&zone, packet, Transport::Tcp, &mut self.scratch, &mut answer);
            if let Some(deferred) = deferred {
                self.shared.settle(deferred, &mut self.scratch, &mut answer).await;
            }
            at = start + length;
            let Ok(bytes) = u16::try_from(answer.len()) else {
                return Err(Close);
            };
            if bytes == 0 {
                // Not a question: nothing that follows can be trusted to be one.
                verdict = Err(Close);
                break;
            }
            self.outbox.extend_from_slice(&bytes.to_be_bytes());
            self.outbox.extend_from_slice(&answer);
            if self.outbox.len() >= OUTBOX_BYTES {
                self.flush().await?;
            }
        }
        self.inbox.drain(..at);
        if at > 0 {
            self.deadline = Instant::now() + self.idle_timeout;
        }
        self.flush().await?;
        verdict
    }

    /// Reads at least a byte. No question for too long, the client's end, and our stop are all the end.
    async fn read(&mut self) -> Result<(), Close> {
        self.inbox.reserve(QUESTION_BYTES_MAX);
        let read = timeout_at(self.deadline, self.stream.read_buf(&mut self.inbox));
        tokio::select! {
            read = read => match read {
                Ok(Ok(1..)) => Ok(()),
                Ok(Ok(_) | Err(_)) | Err(_) => Err(Close),
            },
            _ = self.stop.wait_for(|stop| *stop) => Err(Close),
        }
    }

    async fn flush(&mut self) -> Result<(), Close> {
        let sent = timeout(self.idle_timeout, self.stream.write_all(&self.outbox)).await;
        self.outbox.clear();
        matches!(sent, Ok(Ok(()))).then_some(()).ok_or(Close)
    }
}

/// The length that stands before a question, if it is there yet.
fn question_bytes(inbox: &[u8]) -> Option<usize> {
    inbox.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)))
}
