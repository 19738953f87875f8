//! Copies bytes both ways between two streams, with half-close, and without a buffer while nothing moves.
//!
//! A connection that rests costs no memory here: bytes are read into a buffer that belongs to the thread, and only what the
//! other side does not take at once is kept for the connection.

use crate::limits::{COPY_BYTES, COPY_BYTES_SLOW, COPY_TURNS_MAX};
use crate::metrics::Traffic;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; COPY_BYTES]);
}

/// Copies until both sides have said that they are done, or one of them fails. `near` is our client, `far` whom we called for it.
///
/// When one side says that it is done, the other is told, and may go on talking. (TCP half-close.)
pub(crate) async fn pipe<N, F>(near: &mut N, far: &mut F, traffic: &Traffic) -> io::Result<()>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let mut there = Flow::default();
    let mut back = Flow::default();
    poll_fn(|cx| {
        let there = there.poll(cx, near, far, |count| traffic.sent(count))?;
        let back = back.poll(cx, far, near, |count| traffic.received(count))?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What was read and could not be written yet; `written` of it has gone since.
    rest: Vec<u8>,
    written: usize,
    /// Whether the last that was read went whole. Only then is much read at a time.
    flows: bool,
    stage: Stage,
    /// TLS and QUIC may hold back bytes until they are told to let them go.
    unflushed: bool,
}

#[derive(Default, PartialEq)]
enum Stage {
    #[default]
    Copying,
    Closing,
    Done,
}

impl Flow {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: impl Fn(usize),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..COPY_TURNS_MAX {
            ready!(self.poll_rest(cx, to))?;
            match self.stage {
                Stage::Copying => ready!(self.poll_turn(cx, from, to, &count))?,
                Stage::Closing => {
                    // A peer that has gone meanwhile need not be told: only a lost copy is an error.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
        // Others wait for this thread too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what was left over.
    fn poll_rest<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.rest.len() {
            self.written += ready!(write(cx, to, &self.rest[self.written..]))?;
        }
        if !self.rest.is_empty() {
            *self = Flow { stage: std::mem::take(&mut self.stage), unflushed: true, ..Flow::default() };
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as goes.
    fn poll_turn<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: impl Fn(usize),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let room = if self.flows { COPY_BYTES } else { COPY_BYTES_SLOW };
            let mut buffer = ReadBuf::new(&mut buffer[..room]);
            if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let mut bytes = buffer.filled();
            if bytes.is_empty() {
                self.stage = Stage::Closing;
            }
            count(bytes.len());
            self.flows = true;
            while !bytes.is_empty() {
                match write(cx, to, bytes)? {
                    Poll::Ready(gone) => bytes = &bytes[gone..],
                    Poll::Pending => {
                        self.rest = bytes.to_vec();
                        self.flows = false;
                        break;
                    }
                }
            }
            self.unflushed = true;
            Poll::Ready(Ok(()))
        })
    }
}

fn write<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        gone => Poll::Ready(Ok(gone)),
    }
}

#[cfg(test)]
mod tests;
