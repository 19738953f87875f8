//! A bare HTTP client on the simulated network: one connection for each request.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use turmoil::net::TcpStream;

/// Where the servers serve HTTP.
pub(crate) const PORT: u16 = 8500;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no answer, and what that proves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    /// Nothing was sent.
    Unsent,
    /// It may have been carried out.
    Unknown,
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request and takes the answer, within `timeout`.
pub(crate) async fn request(
    to: IpAddr,
    method: Method,
    target: &str,
    body: String,
    timeout: Duration,
) -> Result<Reply, Failure> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((to, PORT))).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) | Err(_) => return Err(Failure::Unsent),
    };
    match tokio::time::timeout(timeout, exchange(stream, to, method, target, body)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) | Err(_) => Err(Failure::Unknown),
    }
}

async fn exchange(
    stream: TcpStream,
    to: IpAddr,
    method: Method,
    target: &str,
    body: String,
) -> Result<Reply, Box<dyn std::error::Error>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder().method(method).uri(target).header("host", to.to_string());
    let request = request.body(Full::new(Bytes::from(body)))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(Reply { status, body })
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => Ok(answer?),
        ended = connection => {
            ended?;
            // The answer may have come with the end.
            Ok(answer.await?)
        }
    }
}
