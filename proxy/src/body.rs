//! The body of a response on its way to our client: what the next hop sends, or a few words of our own.

use crate::link::Link;
use crate::live::Connection;
use crate::upstream::Endpoint;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A response's body.
pub(crate) enum Body {
    /// Our own words.
    Text(Option<&'static str>),
    /// The next hop's.
    Passed(Passed),
}

/// A body that is being received from the next hop. When it is dropped, the exchange is over.
pub(crate) struct Passed {
    incoming: Incoming,
    ended: bool,
    /// Keeps the exchange in the endpoint's load until now.
    _exchange: Exchange,
    link: Option<Lease>,
}

/// A link that is in use, and the place to which it goes back if its exchange ends well.
pub(crate) struct Lease {
    pub(crate) link: Box<Link>,
    pub(crate) client: Arc<Connection>,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// One request at an endpoint.
pub(crate) struct Exchange(Arc<Endpoint>);

impl Exchange {
    pub(crate) fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.load.begin();
        Exchange(endpoint.clone())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.load.end();
    }
}

impl Body {
    pub(crate) fn passed(incoming: Incoming, exchange: Exchange, link: Option<Lease>) -> Self {
        Body::Passed(Passed { incoming, ended: false, _exchange: exchange, link })
    }
}

impl Passed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if let (Poll::Pending, Some(lease)) = (&frame, &mut self.link) {
            lease.link.drive(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        self.ended |= matches!(frame, Poll::Ready(None));
        frame
    }
}

impl Drop for Passed {
    /// A link whose exchange is complete can be used again; any other is closed, so that the next hop learns that nobody listens.
    fn drop(&mut self) {
        if let Some(mut lease) = self.link.take()
            && (self.ended || self.incoming.is_end_stream())
            && lease.link.is_usable()
        {
            lease.client.kept.put(lease.endpoint, lease.link);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Body::Text(text) => {
                Poll::Ready(text.take().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
            }
            Body::Passed(passed) => passed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Text(text) => text.is_none(),
            Body::Passed(passed) => passed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Text(text) => SizeHint::with_exact(text.map_or(0, str::len) as u64),
            Body::Passed(passed) => passed.incoming.size_hint(),
        }
    }
}
