//! Questions about other domains: asked of the recursors in turn, over UDP, and over TCP when the answer is too long for that.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::config::Config;
use crate::request::HEADER_BYTES;

const FLAG_TRUNCATED: u8 = 0x02;
/// Records of an alias that are handed on to a client without EDNS, as in Consul.
const PLAIN_RECORDS_MAX: usize = 5;
/// A recursor's answer over UDP cannot be longer.
const DATAGRAM_BYTES_MAX: usize = u16::MAX as usize;

/// Hands `packet`, a whole question, to the recursors in their order and returns the first usable answer, with the
/// question's own id: one that says NOERROR or NXDOMAIN. None when nobody has one.
pub(crate) async fn ask(config: &Config, packet: &[u8]) -> Option<Vec<u8>> {
    for recursor in &config.recursors {
        match timeout(config.recursor_timeout, ask_one(*recursor, packet)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%recursor, %error, "a recursor has no answer"),
            Err(_) => tracing::debug!(%recursor, "a recursor is silent"),
        }
    }
    None
}

/// Asks the recursors for what `alias` stands for, and adds it to `partial`, an answer that ends with a `CNAME` to it. None
/// when nobody knows, or when it does not fit: then the `CNAME` alone is the answer.
pub(crate) async fn follow(config: &Config, alias: &Name, partial: &[u8], limit_bytes: usize) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(partial).ok()?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(alias.clone(), message.queries.first()?.query_type));
    let answer = ask(config, &question.to_vec().ok()?).await?;
    let records_max = if message.edns.is_some() { usize::MAX } else { PLAIN_RECORDS_MAX };
    message.add_answers(Message::from_vec(&answer).ok()?.answers.into_iter().take(records_max));
    message.to_vec().ok().filter(|whole| whole.len() <= limit_bytes)
}

async fn ask_one(recursor: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    // A fresh id and a fresh port for each question: both must be guessed by whoever forges an answer (RFC 5452).
    let mut question = packet.to_vec();
    question[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    let mut answer = ask_udp(recursor, &question).await?;
    if answer[2] & FLAG_TRUNCATED != 0 {
        answer = ask_tcp(recursor, &question).await?;
    }
    answer[..2].copy_from_slice(&packet[..2]);
    Ok(answer)
}

async fn ask_udp(recursor: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let local: SocketAddr = match recursor {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(recursor).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything that does not fit is noise or forged; the true answer may still come.
        if let Some(code) = answer_code(question, &buffer[..length]) {
            return usable(code, buffer[..length].to_vec());
        }
    }
}

async fn ask_tcp(recursor: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(recursor).await?;
    let mut message = Vec::with_capacity(question.len() + 2);
    message.extend_from_slice(&u16::try_from(question.len()).map_err(io::Error::other)?.to_be_bytes());
    message.extend_from_slice(question);
    stream.write_all(&message).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match answer_code(question, &answer) {
        Some(code) => usable(code, answer),
        None => Err(io::Error::other("it answered another question")),
    }
}

/// Another recursor may know better than one that failed or refused.
fn usable(code: ResponseCode, answer: Vec<u8>) -> io::Result<Vec<u8>> {
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(io::Error::other(format!("it answered: {code}"))),
    }
}

/// The code of an answer, if it answers this question: same id, same question. An answer that was cut off inside a record
/// still counts when it says that it was.
fn answer_code(question: &[u8], answer: &[u8]) -> Option<ResponseCode> {
    if answer.len() < HEADER_BYTES || answer[..2] != question[..2] {
        return None;
    }
    let asked = Message::from_vec(question).ok()?;
    let message = Message::from_vec(answer).ok()?;
    let fits = message.metadata.message_type == MessageType::Response && message.queries == asked.queries;
    fits.then_some(message.metadata.response_code)
}
