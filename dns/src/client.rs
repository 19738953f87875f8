//! One question to one server, for command lines and the demo.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// How long the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 4096;

/// A question had no answer. It may be asked again.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The caller's: no name, or no record type.
    #[error("{0:?} is no DNS name or record type")]
    Question(String),
    /// The network's, or nobody answers there.
    #[error("no answer from {server}: {source}")]
    Io {
        /// Who was asked.
        server: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// The server's: what it sent is no DNS message.
    #[error("{0} sent something that is no DNS message")]
    Malformed(SocketAddr),
}

/// Asks for the records of `name` (`web.service.consul.`) of a type (`A`, `SRV`…) over UDP; answers them as text, without names and
/// TTLs. No records is an empty list.
pub async fn ask(server: SocketAddr, name: &str, kind: &str) -> Result<Vec<String>, AskError> {
    let question = || AskError::Question(format!("{name} {kind}"));
    let query = Query::query(
        Name::from_str(name).map_err(|_| question())?,
        RecordType::from_str(kind).map_err(|_| question())?,
    );
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(query);
    let bytes = message.to_vec().map_err(|_| question())?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange(server, &bytes))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| AskError::Io { server, source })?;
    let answer = Message::from_vec(&answer).map_err(|_| AskError::Malformed(server))?;
    if answer.metadata.id != id {
        return Err(AskError::Malformed(server));
    }
    Ok(answer.answers.iter().map(|record| record.data.to_string()).collect())
}

async fn exchange(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    let received = socket.recv(&mut buffer).await?;
    buffer.truncate(received);
    Ok(buffer)
}
