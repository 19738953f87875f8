//! An HTTP/1.1 connection to the next hop that is driven by whoever uses it. It has no task of its own.
//!
//! The usual way is to spawn hyper's connection and talk to it through channels: two tasks wake each other for each message.
//! Here the task of the client's connection polls both. A link that rests in a pool is polled by nobody; whether it still
//! lives is looked at when it is taken out.

use crate::limits::{HTTP1_BUFFER_BYTES_MAX, HTTP1_HEAD_BYTES_MAX, HTTP1_HEADERS_MAX};
use crate::stream::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// hyper does not name the type of a connection that may be upgraded.
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// One connection, and the right to send requests on it.
pub(crate) struct Link {
    sender: SendRequest<Incoming>,
    connection: Connection,
    ended: bool,
    /// Since when it has been in a pool.
    pub(crate) resting_since: Instant,
}

/// Why there is no response.
pub(crate) enum SendError {
    /// Nothing of the request has gone out: it may be sent elsewhere.
    NotSent(Box<Request<Incoming>>),
    /// Some of it may have been seen.
    Broken(hyper::Error),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Link {
    /// Speaks HTTP/1.1 on a new connection.
    pub(crate) async fn open(stream: Stream) -> hyper::Result<Box<Self>> {
        let mut http = http1::Builder::new();
        http.max_buf_size(HTTP1_BUFFER_BYTES_MAX).max_header_size(HTTP1_HEAD_BYTES_MAX).max_headers(HTTP1_HEADERS_MAX);
        let (sender, connection) = http.handshake(TokioIo::new(stream)).await?;
        Ok(Box::new(Link {
            sender,
            connection: Box::pin(connection.with_upgrades()),
            ended: false,
            resting_since: Instant::now(),
        }))
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>, SendError> {
        let mut response = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response);
            }
            if !self.ended {
                self.ended = self.connection.as_mut().poll(cx).is_ready();
            }
            response.as_mut().poll(cx)
        })
        .await
        .map_err(|mut error| match error.take_message() {
            Some(request) => SendError::NotSent(Box::new(request)),
            None => SendError::Broken(error.into_error()),
        })
    }

    /// Moves bytes. Must be called whenever somebody waits for something from this connection.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.ended {
            self.ended = self.connection.as_mut().poll(cx).is_ready();
        }
    }

    /// Whether it can take a request now. Wakes nobody later.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.ended && self.sender.is_ready()
    }

    /// Drives it to its end: after an upgrade, the bytes belong to whoever asked for it.
    pub(crate) async fn finish(mut self: Box<Self>) {
        poll_fn(|cx| {
            self.drive(cx);
            if self.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
