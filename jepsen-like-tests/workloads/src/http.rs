//! A small HTTP/1.1 client: one kept connection to each server, a deadline, and an error that says whether the server can have acted.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// The longest reply that we read.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a world reaches its servers: the one thing in which worlds differ.
#[async_trait(?Send)]
pub trait Wire {
    /// Opens a connection to the HTTP port of a server.
    async fn connect(&self, server: usize) -> std::io::Result<Box<dyn Stream>>;

    /// Opens a connection to another place.
    async fn connect_to(&self, place: Place) -> std::io::Result<Box<dyn Stream>> {
        Err(missing(place))
    }

    /// Sends a datagram, and waits for one from there.
    async fn exchange(&self, place: Place, _datagram: &[u8]) -> std::io::Result<Vec<u8>> {
        Err(missing(place))
    }
}

/// Where else than at a server's HTTP port something is to be asked. Not every world has all places: see [`crate::Need`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The DNS port of a server.
    Dns(usize),
}

fn missing(place: Place) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::Unsupported, format!("this world has no {place:?}"))
}

/// What a connection is.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
    headers: HeaderMap,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// The server cannot have seen the request.
    NotSent(String),
    /// The request may have been carried out, or not.
    Unknown(String),
}

type Sender = SendRequest<Full<Bytes>>;

/// The connections of one client. It must be used in a `LocalSet`.
pub(crate) struct Http {
    wire: Rc<dyn Wire>,
    kept: Vec<Option<Sender>>,
}

impl Http {
    pub(crate) fn new(wire: Rc<dyn Wire>, servers: usize) -> Self {
        Self { wire, kept: (0..servers).map(|_| None).collect() }
    }

    pub(crate) fn hang_up(&mut self, server: usize) {
        self.kept[server] = None;
    }

    pub(crate) fn wire(&self) -> Rc<dyn Wire> {
        Rc::clone(&self.wire)
    }

    /// Sends one request and reads the whole reply.
    pub(crate) async fn request(
        &mut self,
        server: usize,
        method: &str,
        path: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Reply, HttpError> {
        let request = Request::builder().method(method).uri(path).header("host", "jlt").body(Full::new(body.into()));
        let request = request.map_err(|error| HttpError::NotSent(error.to_string()))?;
        let mut sender = self.open(server).await?;
        match timeout(patience, exchange(&mut sender, request)).await {
            Ok(Ok(reply)) => {
                self.kept[server] = Some(sender);
                Ok(reply)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(HttpError::Unknown(format!("no answer within {patience:?}"))),
        }
    }

    /// The kept connection, if the server has not closed it; or a new one.
    async fn open(&mut self, server: usize) -> Result<Sender, HttpError> {
        if let Some(mut sender) = self.kept[server].take() {
            // The task of the connection has its turn, and learns of an end that has come meanwhile.
            tokio::task::yield_now().await;
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let not_sent = |why: String| HttpError::NotSent(why);
        let stream = match timeout(CONNECT_TIMEOUT, self.wire.connect(server)).await {
            Ok(stream) => stream.map_err(|error| not_sent(error.to_string()))?,
            Err(_) => return Err(not_sent("no connection in time".to_owned())),
        };
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| not_sent(error.to_string()))?;
        // How the connection ends is seen by the request that it carries.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }
}

async fn exchange(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Reply, HttpError> {
    let unknown = |why: String| HttpError::Unknown(why);
    let response = sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
        Some(_) => HttpError::NotSent(error.error().to_string()),
        None => unknown(describe(error.error())),
    })?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(|error| unknown(error.to_string()))?;
    Ok(Reply { status: parts.status.as_u16(), body: body.to_bytes(), headers: parts.headers })
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use tokio::net::TcpStream;

    pub(crate) struct Loopback(pub(crate) SocketAddr);

    #[async_trait(?Send)]
    impl Wire for Loopback {
        async fn connect(&self, _server: usize) -> std::io::Result<Box<dyn Stream>> {
            Ok(Box::new(TcpStream::connect(self.0).await?))
        }
    }

    /// A server that reads one request on each connection and answers with the next of the texts; after the last it is gone.
    pub(crate) fn serve(answers: &'static [&'static str]) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Http::new(Rc::new(Loopback(address)), 1)
    }

    /// Runs a client on a runtime of its own.
    pub(crate) fn run<T>(client: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, client)
    }

    const TRUE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Consul-Index: 12\r\n\r\ntrue";

    async fn ask(http: &mut Http) -> Result<Reply, HttpError> {
        http.request(0, "PUT", "/v1/kv/k", b"1".to_vec(), Duration::from_secs(10)).await
    }

    #[test]
    fn a_closed_connection_is_not_used_again() {
        let mut http = serve(&[TRUE, TRUE, TRUE]);
        run(async {
            for _ in 0..3 {
                let reply = ask(&mut http).await.unwrap();
                assert_eq!(
                    (reply.status, &reply.body[..], reply.header("x-consul-index")),
                    (200, &b"true"[..], Some("12"))
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    #[test]
    fn a_refused_connection_is_known_not_to_have_acted_and_a_lost_one_is_not() {
        let mut http = serve(&[""]);
        run(async {
            let lost = ask(&mut http).await;
            assert!(matches!(lost, Err(HttpError::Unknown(_))), "{lost:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let refused = ask(&mut http).await;
            assert!(matches!(refused, Err(HttpError::NotSent(_))), "{refused:?}");
        });
    }

    #[test]
    fn replies_that_are_cut_off_are_unknown() {
        let cases: [&'static [&'static str]; 3] =
            [&["HTTP/1.1 200 OK\r\nContent-"], &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntru"], &["nonsense"]];
        for texts in cases {
            let mut http = serve(texts);
            let cut = run(async { ask(&mut http).await });
            assert!(matches!(cut, Err(HttpError::Unknown(_))), "{texts:?}: {cut:?}");
        }
    }

    #[test]
    fn a_silent_server_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut http = Http::new(Rc::new(Loopback(listener.local_addr().unwrap())), 1);
        let silent = run(async { http.request(0, "GET", "/", Vec::new(), Duration::from_millis(50)).await });
        assert!(matches!(silent, Err(HttpError::Unknown(_))), "{silent:?}");
    }
}
