//! Applications and their callers, each on a host of its own, with mutual TLS from end to end as between sidecars: gateways see nothing but the server's name.
//!
//! A caller sends its call's number and bytes that follow from it. The application says who it is and sends the bytes back.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use identity::Identity;
use jlt_core::rng::Rng;
use model::SpiffeId;
use model::proxy_config::service_sni;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};
use turmoil::net::{TcpListener, TcpStream};

use super::judge::{Call, End, Heard, History, Sent, Served};
use super::{APP_PORT, DATACENTERS, GATEWAY_PORT, NOWHERE, SERVICES, TRUST_DOMAIN};

/// A call that takes longer is given up.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Calls of one caller at a time.
const TASKS: u64 = 3;
const CHUNK_BYTES_MAX: usize = 12 * 1024;
const PAUSE_MS_MAX: u64 = 300;
/// Of a thousand, so many write or read with pauses.
const SLOW_PER_MILLE: u32 = 300;
/// How long an application waits for the last of a connection that it has ended.
const LINGER: Duration = Duration::from_secs(5);
/// Of a thousand connections, while applications are told to: so many end in the midst.
const DROPS_PER_MILLE: u32 = 400;

/// What all of them share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) seed: u64,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) now_ms: Rc<Cell<u64>>,
    /// Callers make no more calls.
    pub(crate) is_over: Rc<Cell<bool>>,
    /// Applications drop connections.
    pub(crate) drops: Rc<Cell<bool>>,
    /// How often they did.
    pub(crate) dropped: Rc<Cell<u64>>,
}

/// An application: what it is called, and how it proves it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) shared: Shared,
}

impl App {
    /// Serves for ever.
    pub(crate) async fn run(self) -> turmoil::Result {
        let acceptor = TlsAcceptor::from(Arc::new(self.identity.server_config(&[])?));
        let listener = TcpListener::bind(("0.0.0.0", APP_PORT)).await?;
        for number in 0.. {
            let (tcp, _) = listener.accept().await?;
            let (app, acceptor) = (self.clone(), acceptor.clone());
            tokio::task::spawn_local(async move {
                match acceptor.accept(tcp).await {
                    Ok(tls) => app.serve(tls, number).await,
                    Err(error) => app.refuse(&error),
                }
            });
        }
        Ok(())
    }

    async fn serve(&self, mut tls: TlsStream<TcpStream>, connection: u64) {
        let Some(call) = self.number(&mut tls).await else { return };
        let place = {
            let mut history = self.shared.history.borrow_mut();
            history.served.push(Served { call, by: self.name.clone(), ..Served::default() });
            history.served.len() - 1
        };
        let mut rng = Rng::new(self.shared.seed ^ connection, 701);
        let drops_at = (self.shared.drops.get() && rng.chance(DROPS_PER_MILLE)).then(|| rng.below(60_000) as u64);
        let pause = rng.chance(SLOW_PER_MILLE).then(|| rng.between_ms(1, 100));
        let end = self.echo(&mut tls, (call, place), drops_at, pause).await;
        self.shared.history.borrow_mut().served[place].heard.end = end.unwrap_or_else(|error| failure(&error));
    }

    /// Whoever does not come to the end of the handshake has not called; but nobody comes with what cannot be read.
    fn refuse(&self, error: &io::Error) {
        if let End::Wrong(why) = failure(error) {
            self.shared.history.borrow_mut().strange.push(format!("{}: {why}", self.name));
        }
    }

    /// The number with which a call begins; none if it breaks off before.
    async fn number(&self, tls: &mut TlsStream<TcpStream>) -> Option<usize> {
        let mut number = [0; 8];
        let mut length = 0;
        while length < number.len() {
            match tls.read(&mut number[length..]).await {
                Ok(0) => {
                    let what = format!("{} got a stream that ended well before it began", self.name);
                    self.shared.history.borrow_mut().strange.push(what);
                    return None;
                }
                Ok(count) => length += count,
                Err(error) => {
                    self.refuse(&error);
                    return None;
                }
            }
        }
        usize::try_from(u64::from_be_bytes(number)).ok()
    }

    /// Sends back what comes; says how it ended for us as its reader.
    async fn echo(
        &self,
        tls: &mut TlsStream<TcpStream>,
        (call, place): (usize, usize),
        drops_at: Option<u64>,
        pause: Option<Duration>,
    ) -> io::Result<End> {
        let served = |change: &dyn Fn(&mut Served)| change(&mut self.shared.history.borrow_mut().served[place]);
        let name = self.name.as_bytes();
        tls.write_all(&[u8::try_from(name.len()).map_err(io::Error::other)?]).await?;
        tls.write_all(name).await?;
        tls.flush().await?;
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let mut at = 0;
        loop {
            let count = tls.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            if let Some(wrong) = wrong(self.shared.seed, call, at, &buffer[..count]) {
                return Ok(wrong);
            }
            at += count as u64;
            served(&|served| (served.heard.bytes, served.sent.bytes) = (at, at));
            if drops_at.is_some_and(|drops_at| at > drops_at) {
                self.shared.dropped.set(self.shared.dropped.get() + 1);
                return Ok(End::Failed("dropped".to_owned()));
            }
            tls.write_all(&buffer[..count]).await?;
            tls.flush().await?;
            tokio::time::sleep(pause.unwrap_or_default()).await;
        }
        served(&|served| (served.heard.end, served.sent.closed) = (End::Well, true));
        // What fails from here on is for the caller to know.
        if tls.shutdown().await.is_ok() {
            let tcp = tls.get_mut().0;
            let _ = tokio::time::timeout(LINGER, tcp.read(&mut buffer)).await;
        }
        Ok(End::Well)
    }
}

/// Somebody who calls applications of both datacenters through the gateway of its own.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) dc: usize,
    pub(crate) gateway: IpAddr,
    pub(crate) identity: Identity,
    pub(crate) shared: Shared,
}

impl Caller {
    /// Calls until all is over.
    pub(crate) async fn run(self) -> turmoil::Result {
        // Whoever answers is taken, so that the judge sees it, and not TLS, if it is somebody else.
        let anybody = SERVICES.iter().enumerate().flat_map(|(dc, names)| {
            names.iter().map(move |name| SpiffeId::service(TRUST_DOMAIN, DATACENTERS[dc], name))
        });
        let connector = TlsConnector::from(Arc::new(self.identity.client_config(anybody, &[])?));
        for task in 0..TASKS {
            let (caller, connector) = (self.clone(), connector.clone());
            tokio::task::spawn_local(caller.calls(connector, 710 + task));
        }
        std::future::pending().await
    }

    async fn calls(self, connector: TlsConnector, stream: u64) {
        let mut rng = Rng::new(self.shared.seed ^ self.dc as u64, stream);
        while !self.shared.is_over.get() {
            tokio::time::sleep(rng.between_ms(1, PAUSE_MS_MAX)).await;
            let (service, dc, exists) = self.target(&mut rng);
            let number = self.begin(service, dc, exists);
            let name = service_sni(service, DATACENTERS[dc], TRUST_DOMAIN);
            let talk = self.talk(&connector, name, number, &mut rng);
            let end = match tokio::time::timeout(CALL_TIMEOUT, talk).await {
                Ok(Ok(())) => End::Well,
                Ok(Err(error)) => failure(&error),
                Err(_) => End::Failed("given up".to_owned()),
            };
            let mut history = self.shared.history.borrow_mut();
            let call = &mut history.calls[number];
            call.end_ms = Some(self.shared.now_ms.get());
            if call.heard.end == End::Open {
                call.heard.end = end;
            }
        }
    }

    /// Mostly an application of the other datacenter; sometimes one of ours, or none.
    fn target(&self, rng: &mut Rng) -> (&'static str, usize, bool) {
        let other = 1 - self.dc;
        match rng.below(20) {
            0 => (NOWHERE[other], other, false),
            1 | 2 => (*rng.pick(&SERVICES[self.dc]), self.dc, true),
            _ => (*rng.pick(&SERVICES[other]), other, true),
        }
    }

    fn begin(&self, service: &str, dc: usize, exists: bool) -> usize {
        let mut history = self.shared.history.borrow_mut();
        let to = format!("{service}@{}", DATACENTERS[dc]);
        let start_ms = self.shared.now_ms.get();
        history.calls.push(Call { to, exists, from_dc: self.dc, start_ms, ..Call::default() });
        history.calls.len() - 1
    }

    async fn talk(&self, connector: &TlsConnector, name: String, call: usize, rng: &mut Rng) -> io::Result<()> {
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(SocketAddr::new(self.gateway, GATEWAY_PORT)).await?;
        let tls = connector.connect(name, tcp).await?;
        let (read, write) = tokio::io::split(tls);
        tokio::try_join!(self.send(write, call, rng), self.hear(read, call)).map(|_| ())
    }

    async fn send(&self, mut write: impl AsyncWrite + Unpin, call: usize, rng: &mut Rng) -> io::Result<()> {
        let length = match rng.below(10) {
            0 => 0,
            1 => rng.below(400_000) as u64,
            _ => rng.below(60_000) as u64,
        };
        let is_slow = rng.chance(SLOW_PER_MILLE);
        let sent = |sent| self.shared.history.borrow_mut().calls[call].sent = sent;
        write.write_all(&(call as u64).to_be_bytes()).await?;
        let mut at = 0;
        while at < length {
            let chunk = (1 + rng.below(CHUNK_BYTES_MAX) as u64).min(length - at);
            let bytes: Vec<u8> = (at..at + chunk).map(|at| byte(self.shared.seed, call, at)).collect();
            at += chunk;
            sent(Sent { bytes: at, closed: false });
            write.write_all(&bytes).await?;
            write.flush().await?;
            if is_slow {
                tokio::time::sleep(rng.between_ms(1, PAUSE_MS_MAX)).await;
            }
        }
        sent(Sent { bytes: at, closed: true });
        write.shutdown().await
    }

    async fn hear(&self, mut read: impl AsyncRead + Unpin, call: usize) -> io::Result<()> {
        let heard = |heard| self.shared.history.borrow_mut().calls[call].heard = heard;
        let mut length = [0];
        if read.read(&mut length).await? == 0 {
            heard(Heard { bytes: 0, end: End::Wrong("an end that looks good before an answer".to_owned()) });
            return Ok(());
        }
        let mut name = vec![0; length[0].into()];
        read.read_exact(&mut name).await?;
        self.shared.history.borrow_mut().calls[call].answered_by = Some(String::from_utf8_lossy(&name).into_owned());
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let mut at = 0;
        loop {
            let count = read.read(&mut buffer).await?;
            let end = match count {
                0 => End::Well,
                _ => wrong(self.shared.seed, call, at, &buffer[..count]).unwrap_or_default(),
            };
            at += count as u64;
            let is_open = end == End::Open;
            heard(Heard { bytes: at, end });
            if !is_open {
                return Ok(());
            }
        }
    }
}

/// The byte of a call's stream at a place: the same there and back.
fn byte(seed: u64, call: usize, at: u64) -> u8 {
    let mixed = (seed ^ (call as u64).rotate_left(32) ^ (at / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed.to_le_bytes()[(at % 8) as usize]
}

fn wrong(seed: u64, call: usize, at: u64, bytes: &[u8]) -> Option<End> {
    let first = bytes.iter().zip(at..).find(|(got, at)| **got != byte(seed, call, *at));
    first.map(|(_, at)| End::Wrong(format!("another byte at {at}")))
}

/// Connections may break off. But what TLS cannot read was changed, doubled, lost or moved on the way, which neither TCP nor QUIC may do.
fn failure(error: &io::Error) -> End {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(wrong) => End::Wrong(format!("TLS cannot read it: {wrong}")),
        None => End::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_lost_doubled_moved_or_of_another_call_is_seen() {
        let bytes: Vec<u8> = (0..4_000).map(|at| byte(7, 3, at)).collect();
        assert_eq!(wrong(7, 3, 0, &bytes), None);
        assert_eq!(wrong(7, 3, 1_000, &bytes[1_000..]), None);
        let lost = [&bytes[..100], &bytes[101..]].concat();
        let doubled = [&bytes[..100], &bytes[99..]].concat();
        let moved = [&bytes[..100], &bytes[200..300], &bytes[100..200]].concat();
        for other in [lost, doubled, moved] {
            assert!(matches!(wrong(7, 3, 0, &other), Some(End::Wrong(_))));
        }
        assert!(wrong(7, 4, 0, &bytes).is_some() && wrong(8, 3, 0, &bytes).is_some());
    }

    #[test]
    fn what_tls_cannot_read_is_wrong_and_what_breaks_off_has_failed() {
        let garbled = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert!(matches!(failure(&garbled), End::Wrong(_)));
        assert!(matches!(failure(&io::ErrorKind::UnexpectedEof.into()), End::Failed(_)));
    }
}
