//! DNS on the simulated network: the product's answers. Its listeners, which are threads on the system's sockets, are not here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dns::answer::{self, Outcome, Scratch, Transport};
use dns::{Config, Found, Lookup, Zone};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

/// Where nodes answer DNS.
pub(crate) const PORT: u16 = 8600;

/// How long a question may wait for what it needs, as in the product.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// No question is longer.
const QUESTION_BYTES_MAX: usize = 2048;

/// What all questions to a node share.
struct Responder {
    zone: Zone,
    lookup: Arc<dyn Lookup>,
}

/// Answers questions by UDP and TCP until the host is ended.
pub(crate) async fn serve(address: SocketAddr, lookup: Arc<dyn Lookup>) -> turmoil::Result {
    let responder = Arc::new(Responder { zone: Zone::new(Config::default())?, lookup });
    let (udp, tcp) = (UdpSocket::bind(address).await?, TcpListener::bind(address).await?);
    tokio::spawn(serve_udp(udp, Arc::clone(&responder)));
    tokio::spawn(serve_tcp(tcp, responder));
    Ok(())
}

async fn serve_udp(socket: UdpSocket, responder: Arc<Responder>) {
    let socket = Arc::new(socket);
    let mut packet = [0; QUESTION_BYTES_MAX];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        let (socket, responder, question) = (Arc::clone(&socket), Arc::clone(&responder), packet[..length].to_vec());
        tokio::spawn(async move {
            let answer = responder.answer(&question, Transport::Udp).await;
            // Who asked may be out of reach, and asks again.
            socket.send_to(&answer, from).await.ok();
        });
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) {
    while let Ok((stream, _)) = listener.accept().await {
        let responder = Arc::clone(&responder);
        // It ends with the asker's end of it.
        tokio::spawn(async move { responder.serve_stream(stream).await.ok() });
    }
}

impl Responder {
    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut question = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut question).await?;
            let answer = self.answer(&question, Transport::Tcp).await;
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
        }
    }

    /// The answer to a question; empty for what is none.
    async fn answer(&self, question: &[u8], transport: Transport) -> Vec<u8> {
        let (mut scratch, mut out) = (Scratch::new(rand::random()), Vec::new());
        let outcome = answer::answer(&self.zone, &*self.lookup, question, transport, &mut scratch, &mut out);
        if let Outcome::Wait(facts) = outcome {
            let found = tokio::time::timeout(WAIT_TIMEOUT, facts).await.unwrap_or(Found::Unavailable);
            answer::complete(&self.zone, &*self.lookup, found, question, transport, &mut scratch, &mut out);
        }
        out
    }
}
