//! A small HTTP/1.1 client: one request on one connection, with a deadline, and an error that says whether the server can have acted.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The longest reply that we read.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// How long a connection may take. On the loopback it takes microseconds, or is refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The status line and the headers, in small letters.
    head: String,
}

impl Reply {
    /// The value of a header, whose name is given in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// No connection was made: the server cannot have seen the request.
    NotSent(String),
    /// The request may have been carried out, or not.
    Unknown(String),
}

/// Sends one request and reads the whole reply within `timeout`.
pub(crate) fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
    timeout: Duration,
) -> Result<Reply, HttpError> {
    let deadline = Instant::now() + timeout;
    let connect_timeout = CONNECT_TIMEOUT.min(timeout);
    let mut stream =
        TcpStream::connect_timeout(&to, connect_timeout).map_err(|error| HttpError::NotSent(error.to_string()))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let unknown = |error: std::io::Error| HttpError::Unknown(error.to_string());
    stream.set_write_timeout(Some(timeout)).map_err(unknown)?;
    stream.write_all(&[head.as_bytes(), body].concat()).map_err(unknown)?;
    let bytes = read_to_end(&mut stream, deadline).map_err(unknown)?;
    parse(&bytes).map_err(HttpError::Unknown)
}

fn read_to_end(stream: &mut TcpStream, deadline: Instant) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
        if bytes.len() > REPLY_BYTES_MAX {
            return Err(std::io::Error::other("the reply is too long"));
        }
    }
}

/// Parses a reply that was read to the end of its connection. A reply that was cut off is an error, never a shorter body.
fn parse(bytes: &[u8]) -> Result<Reply, String> {
    let end = find(bytes, b"\r\n\r\n").ok_or("the reply ends within its head")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("the reply has no status")?;
    if header(&head, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        return Ok(Reply { status, body: join_chunks(body)?, head });
    }
    let length = match header(&head, "content-length") {
        Some(length) => length.parse().map_err(|_| "the reply's length is no number")?,
        None => body.len(),
    };
    if body.len() != length {
        return Err(format!("the reply has {} bytes of {length}", body.len()));
    }
    Ok(Reply { status, body: body.to_vec(), head })
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// RFC 9112, section 7.1.
fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n").ok_or("the reply ends before its last chunk")?;
        let size = String::from_utf8_lossy(&rest[..end]);
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("{size:?} is no chunk size"))?;
        if size == 0 {
            return Ok(body);
        }
        let after = end + 2 + size;
        let chunk = rest.get(end + 2..after).ok_or("the reply ends within a chunk")?;
        body.extend_from_slice(chunk);
        rest = rest.get(after + 2..).ok_or("the reply ends within a chunk")?;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn replies_parse() {
        let cases: [(&str, u16, &str); 4] = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue", 200, "true"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404, ""),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
                200,
                "abc0123456789",
            ),
            ("HTTP/1.0 200 OK\r\n\r\nto the end", 200, "to the end"),
        ];
        for (text, status, body) in cases {
            let reply = parse(text.as_bytes()).unwrap();
            assert_eq!((reply.status, reply.body), (status, body.as_bytes().to_vec()), "{text}");
        }
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let reply = parse(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 12\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!(reply.header("x-consul-index"), Some("12"));
        assert_eq!(reply.header("x-consul"), None);
    }

    #[test]
    fn replies_that_were_cut_off_are_errors() {
        let cases = [
            "",
            "HTTP/1.1 200 OK\r\nContent-",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntru",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\ntrue",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1\r\n\r\n",
        ];
        for text in cases {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_refused_connection_is_known_not_to_have_acted_and_a_lost_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let lost = request(address, "PUT", "/", b"x", Duration::from_secs(10));
        assert!(matches!(lost, Err(HttpError::Unknown(_))), "{lost:?}");
        server.join().unwrap();
        let refused = request(address, "PUT", "/", b"x", Duration::from_secs(10));
        assert!(matches!(refused, Err(HttpError::NotSent(_))), "{refused:?}");
    }

    #[test]
    fn a_silent_server_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = request(listener.local_addr().unwrap(), "GET", "/", b"", Duration::from_millis(50));
        assert!(matches!(silent, Err(HttpError::Unknown(_))), "{silent:?}");
    }
}
