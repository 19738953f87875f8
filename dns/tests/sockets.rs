//! The listeners on real sockets: UDP in batches, TCP with questions behind each other, waiting, recursors, start and stop.

mod zone;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dns::{Config, Error, Handle, serve};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::timeout;
use zone::TestZone;

/// Far longer than anything takes: what is not there by then will never be.
const PATIENCE: Duration = Duration::from_secs(20);

const FACTS: &str = "
    node dc1 n1 10.0.0.1
    node dc1 n2 10.0.0.2
    service dc1 web n1 80
    service dc1 web n2 80
    service dc1 alias n1 443 address=www.example.com
    service dc1 later n1 80
    service dc1 endless n1 80
    slow later
    slow endless
    slow gone
";

struct Server {
    handle: Handle,
    stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(config: Config) -> Self {
        Self::start_at(config, "127.0.0.1:0").await.expect("listeners")
    }

    async fn start_at(config: Config, address: &str) -> Result<Self, Error> {
        let (stop, stopped) = oneshot::channel::<()>();
        let facts = Arc::new(TestZone::parse(FACTS));
        let address = address.parse().expect("address");
        let handle = serve(config, address, facts, async { drop(stopped.await) }).await?;
        Ok(Self { handle, stop })
    }

    async fn ask_udp(&self, name: &str) -> Message {
        ask_udp(self.handle.address(), &question(name, RecordType::A)).await
    }

    async fn stop(self) {
        self.stop.send(()).expect("still there");
        timeout(PATIENCE, self.handle.stopped()).await.expect("it stops");
    }
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).expect("name"), record_type));
    message
}

async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    socket.connect(server).await.expect("connected");
    socket.send(&message.to_vec().expect("question")).await.expect("sent");
    read_udp(&socket).await
}

async fn read_udp(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").expect("received");
    Message::from_vec(&buffer[..length]).expect("readable")
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut message = u16::try_from(packet.len()).expect("short").to_be_bytes().to_vec();
    message.extend_from_slice(packet);
    message
}

async fn read_tcp(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.expect("in time").expect("a length");
    let mut packet = vec![0; length.into()];
    timeout(PATIENCE, stream.read_exact(&mut packet)).await.expect("in time").expect("an answer");
    Message::from_vec(&packet).expect("readable")
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = message.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    found.sort();
    found
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("address")).collect()
}

#[tokio::test]
async fn udp_answers_many_questions_at_once() {
    let server = Server::start(Config::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    socket.connect(server.handle.address()).await.expect("connected");
    let names = ["web.service.consul.", "n1.node.consul.", "nope.service.consul."];
    let asked: Vec<Message> = (0..100).map(|place| question(names[place % 3], RecordType::A)).collect();
    for message in &asked {
        socket.send(&message.to_vec().expect("question")).await.expect("sent");
    }
    let mut ids = Vec::new();
    for _ in &asked {
        let answer = read_udp(&socket).await;
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        ids.push(answer.metadata.id);
    }
    let mut expected: Vec<u16> = asked.iter().map(|message| message.metadata.id).collect();
    expected.sort_unstable();
    ids.sort_unstable();
    assert_eq!(ids, expected);
    assert_eq!(server.handle.counters().queries(), 100);
    assert_eq!(server.handle.counters().with_code(3), 33);
    server.stop().await;
}

#[tokio::test]
async fn the_small_client_reads_answers_as_text() {
    let server = Server::start(Config::default()).await;
    let at = server.handle.address();
    let mut told = dns::client::ask(at, "web.service.consul.", "A").await.expect("answered");
    told.sort();
    assert_eq!(told, ["10.0.0.1", "10.0.0.2"]);
    assert!(dns::client::ask(at, "nope.service.consul.", "A").await.expect("answered").is_empty());
    assert!(dns::client::ask(at, "a..b", "A").await.is_err());
    assert!(dns::client::ask(at, "web.service.consul.", "no type").await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn an_answer_is_not_answered_and_noise_does_no_harm() {
    let server = Server::start(Config::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    socket.connect(server.handle.address()).await.expect("connected");
    let mut reflected = question("web.service.consul.", RecordType::A);
    reflected.metadata.message_type = MessageType::Response;
    socket.send(&reflected.to_vec().expect("packet")).await.expect("sent");
    socket.send(b"").await.expect("sent");
    socket.send(b"noise").await.expect("sent");
    socket.send(&[0xaa; 3000]).await.expect("sent");
    socket.send(&[0; 12]).await.expect("sent");
    let update = Message::new(9, MessageType::Query, OpCode::Update);
    socket.send(&update.to_vec().expect("packet")).await.expect("sent");
    let asked = question("n1.node.consul.", RecordType::A);
    socket.send(&asked.to_vec().expect("question")).await.expect("sent");
    assert_eq!(read_udp(&socket).await.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(read_udp(&socket).await.metadata.response_code, ResponseCode::NotImp);
    assert_eq!(read_udp(&socket).await.metadata.id, asked.metadata.id);
    assert_eq!(server.handle.counters().dropped(), 4);
    server.stop().await;
}

#[tokio::test]
async fn tcp_answers_questions_behind_each_other_in_order() {
    let server = Server::start(Config::default()).await;
    let mut stream = TcpStream::connect(server.handle.address()).await.expect("connected");
    let names = ["web.service.consul.", "later.service.consul.", "n2.node.consul.", "nope.node.consul."];
    let asked: Vec<Message> = (0..200).map(|place| question(names[place % 4], RecordType::A)).collect();
    let bytes: Vec<u8> = asked.iter().flat_map(|message| framed(&message.to_vec().expect("question"))).collect();
    // In pieces that end in the middle of a question.
    for piece in bytes.chunks(777) {
        stream.write_all(piece).await.expect("sent");
    }
    for (place, message) in asked.iter().enumerate() {
        let answer = read_tcp(&mut stream).await;
        assert_eq!(answer.metadata.id, message.metadata.id);
        let expected: &[&str] = [&["10.0.0.1", "10.0.0.2"][..], &["10.0.0.1"], &["10.0.0.2"], &[]][place % 4];
        assert_eq!(addresses(&answer), ips(expected));
    }
    assert_eq!(server.handle.counters().tcp_connections(), 1);
    server.stop().await;
}

#[tokio::test]
async fn tcp_closes_on_what_is_no_question_and_on_silence() {
    let config = Config { tcp_idle_timeout: Duration::from_millis(200), ..Config::default() };
    let server = Server::start(config).await;
    let mut reflected = question("web.service.consul.", RecordType::A);
    reflected.metadata.message_type = MessageType::Response;
    let reflected = framed(&reflected.to_vec().expect("packet"));
    for sent in [&reflected[..], b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00", b"\x00", b""] {
        let mut stream = TcpStream::connect(server.handle.address()).await.expect("connected");
        stream.write_all(sent).await.expect("sent");
        let mut rest = Vec::new();
        // A reset is an end as well: there may be bytes that nobody read.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed");
        assert!(rest.is_empty(), "{sent:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tcp_connections_beyond_the_limit_wait_for_a_place() {
    let server = Server::start(Config { tcp_connections_max: 1, ..Config::default() }).await;
    let packet = framed(&question("n1.node.consul.", RecordType::A).to_vec().expect("question"));
    let mut first = TcpStream::connect(server.handle.address()).await.expect("connected");
    first.write_all(&packet).await.expect("sent");
    read_tcp(&mut first).await;
    let mut second = TcpStream::connect(server.handle.address()).await.expect("connected");
    second.write_all(&packet).await.expect("sent");
    assert_eq!(server.handle.counters().tcp_connections(), 1);
    drop(first);
    read_tcp(&mut second).await;
    assert_eq!(server.handle.counters().tcp_connections(), 2);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_at_hand_is_waited_for() {
    let config = Config { wait_timeout: Duration::from_millis(100), ..Config::default() };
    let server = Server::start(config).await;
    assert_eq!(addresses(&server.ask_udp("later.service.consul.").await), ips(&["10.0.0.1"]));
    let gone = server.ask_udp("gone.service.consul.").await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    let endless = server.ask_udp("endless.service.consul.").await;
    assert_eq!(endless.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.handle.counters().deferred(), 3);
    server.stop().await;
}

#[tokio::test]
async fn those_that_wait_are_bounded() {
    let server = Server::start(Config { waiting_max: 0, ..Config::default() }).await;
    let refused = server.ask_udp("later.service.consul.").await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&server.ask_udp("n1.node.consul.").await), ips(&["10.0.0.1"]));
    server.stop().await;
}

#[tokio::test]
async fn a_socket_on_all_addresses_answers_from_the_one_that_was_asked() {
    let server = Server::start_at(Config::default(), "0.0.0.0:0").await.expect("listeners");
    let port = server.handle.address().port();
    // A connected socket hears only the address that it is connected to.
    for host in ["127.0.0.5", "127.0.0.1", "127.0.0.9"] {
        for name in ["n1.node.consul.", "later.service.consul."] {
            let server = SocketAddr::new(host.parse().expect("address"), port);
            let answer = ask_udp(server, &question(name, RecordType::A)).await;
            assert_eq!(addresses(&answer), ips(&["10.0.0.1"]), "{host} {name}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_socket_on_all_addresses_of_both_families_does_as_well() {
    if UdpSocket::bind("[::1]:0").await.is_err() {
        return; // A machine without IPv6.
    }
    let server = Server::start_at(Config::default(), "[::]:0").await.expect("listeners");
    let port = server.handle.address().port();
    for (client, host) in [("[::1]:0", "::1"), ("127.0.0.1:0", "127.0.0.7"), ("[::1]:0", "::1")] {
        for name in ["n1.node.consul.", "later.service.consul."] {
            let socket = UdpSocket::bind(client).await.expect("socket");
            socket.connect(SocketAddr::new(host.parse().expect("address"), port)).await.expect("connected");
            socket.send(&question(name, RecordType::A).to_vec().expect("question")).await.expect("sent");
            assert_eq!(addresses(&read_udp(&socket).await), ips(&["10.0.0.1"]), "{host} {name}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn questions_that_trickle_in_for_ever_are_not_waited_for() {
    let config = Config { tcp_idle_timeout: Duration::from_millis(300), ..Config::default() };
    let server = Server::start(config).await;
    let stream = TcpStream::connect(server.handle.address()).await.expect("connected");
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        // A length of 4,096, and then a byte now and again.
        let _ = writer.write_all(&[16, 0]).await;
        for _ in 0..400 {
            if writer.write_all(&[0]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE / 2, reader.read_to_end(&mut rest)).await.expect("closed before the bytes are out");
    trickle.abort();
    server.stop().await;
}

#[tokio::test]
async fn settings_are_taken_over_while_it_runs() {
    let server = Server::start(Config::default()).await;
    let before = server.ask_udp("n1.node.consul.").await;
    assert_eq!(before.answers[0].ttl, 0);
    server.handle.reload(Config { node_ttl_s: 9, ..Config::default() }).expect("good settings");
    let bad = Config { domain: "a..b".into(), ..Config::default() };
    assert!(matches!(server.handle.reload(bad), Err(Error::BadDomain { .. })));
    assert_eq!(server.ask_udp("n1.node.consul.").await.answers[0].ttl, 9);
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_plainly_and_a_free_one_is_free_again() {
    let server = Server::start(Config::default()).await;
    let address = server.handle.address();
    let error = Server::start_at(Config::default(), &address.to_string()).await.err().expect("it is taken");
    assert!(matches!(error, Error::PortInUse { protocol: "udp", .. }), "{error:?}");
    assert!(error.to_string().contains("ports.dns"), "{error}");
    server.stop().await;
    let again = Server::start_at(Config::default(), &address.to_string()).await.expect("free again");
    again.stop().await;

    let taken = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = taken.local_addr().expect("address").to_string();
    let error = Server::start_at(Config::default(), &address).await.err().expect("it is taken");
    assert!(matches!(error, Error::PortInUse { protocol: "tcp", .. }), "{error:?}");
}

#[tokio::test]
async fn bad_settings_and_addresses_are_refused_before_anything_is_open() {
    let too_big = Config { udp_bytes_max: 100, ..Config::default() };
    assert!(matches!(Server::start_at(too_big, "127.0.0.1:0").await.err(), Some(Error::BadSetting { .. })));
    let elsewhere = Server::start_at(Config::default(), "192.0.2.1:0").await.err().expect("not ours");
    assert!(matches!(elsewhere, Error::CannotListen { .. }), "{elsewhere:?}");
}

#[tokio::test]
async fn stopping_closes_connections_that_are_silent() {
    let server = Server::start(Config { tcp_idle_timeout: Duration::from_secs(3600), ..Config::default() }).await;
    let mut idle = TcpStream::connect(server.handle.address()).await.expect("connected");
    idle.write_all(&framed(&question("n1.node.consul.", RecordType::A).to_vec().expect("question")))
        .await
        .expect("sent");
    read_tcp(&mut idle).await;
    server.stop().await;
    assert_eq!(idle.read(&mut [0; 1]).await.expect("closed in good order"), 0);
}

/// A name server of somebody else, on UDP and TCP.
struct Recursor {
    manner: Manner,
    address: SocketAddr,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Answers with this code, and an address if it is NOERROR.
    Says(ResponseCode),
    /// Sends some forgeries first.
    AfterForgeries,
    /// Says over UDP that the answer is too long.
    TooLong,
    /// Answers with more than a question without EDNS can take.
    Big,
    Silent,
}

impl Recursor {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let socket = UdpSocket::bind(address).await.expect("socket");
        let udp = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                for answer in answers(manner, &buffer[..length]) {
                    let _ = socket.send_to(&answer, peer).await;
                }
            }
        });
        let tcp = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let length = stream.read_u16().await.expect("length");
                let mut packet = vec![0; length.into()];
                stream.read_exact(&mut packet).await.expect("question");
                let answer = recursor_answer(&packet, ResponseCode::NoError, 40);
                stream.write_all(&framed(&answer.to_vec().expect("answer"))).await.expect("sent");
            }
        });
        Self { manner, address, tasks: [udp, tcp] }
    }
}

impl Drop for Recursor {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn answers(manner: Manner, packet: &[u8]) -> Vec<Vec<u8>> {
    let bytes = |message: &Message| message.to_vec().expect("answer");
    match manner {
        Manner::Says(code) => vec![bytes(&recursor_answer(packet, code, 1))],
        Manner::Big => vec![bytes(&recursor_answer(packet, ResponseCode::NoError, 60))],
        Manner::TooLong => {
            let mut cut = recursor_answer(packet, ResponseCode::NoError, 0);
            cut.metadata.truncation = true;
            vec![bytes(&cut)]
        }
        Manner::AfterForgeries => {
            let mut other_id = recursor_answer(packet, ResponseCode::NXDomain, 0);
            other_id.metadata.id ^= 1;
            let mut other_name = recursor_answer(packet, ResponseCode::NXDomain, 0);
            other_name.queries = question("evil.example.", RecordType::A).queries;
            vec![
                bytes(&other_id),
                bytes(&other_name),
                b"?".to_vec(),
                bytes(&recursor_answer(packet, ResponseCode::NoError, 1)),
            ]
        }
        Manner::Silent => Vec::new(),
    }
}

fn recursor_answer(packet: &[u8], code: ResponseCode, records: u8) -> Message {
    let asked = Message::from_vec(packet).expect("a question");
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.metadata.recursion_available = true;
    answer.queries = asked.queries.clone();
    if code == ResponseCode::NoError {
        for last in 0..records {
            let data = RData::A(A::new(192, 0, 2, last));
            answer.add_answer(Record::from_rdata(asked.queries[0].name.clone(), 60, data));
        }
    }
    answer
}

async fn ask_through(recursors: &[&Recursor], message: &Message) -> Message {
    // Short only where somebody is silent: a busy machine must not look like a silent recursor.
    let is_silent = recursors.iter().any(|recursor| recursor.manner == Manner::Silent);
    let config = Config {
        recursors: recursors.iter().map(|recursor| recursor.address).collect(),
        recursor_timeout: if is_silent { Duration::from_secs(1) } else { PATIENCE / 2 },
        ..Config::default()
    };
    let server = Server::start(config).await;
    let answer = ask_udp(server.handle.address(), message).await;
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(server.handle.counters().forwarded(), 1);
    server.stop().await;
    answer
}

#[tokio::test]
async fn recursors_are_asked_in_turn() {
    let silent = Recursor::start(Manner::Silent).await;
    let failing = Recursor::start(Manner::Says(ResponseCode::ServFail)).await;
    let good = Recursor::start(Manner::Says(ResponseCode::NoError)).await;
    let knows_not = Recursor::start(Manner::Says(ResponseCode::NXDomain)).await;
    let wary = Recursor::start(Manner::AfterForgeries).await;
    let asked = question("www.example.com.", RecordType::A);
    for recursors in [&[&good][..], &[&failing, &good], &[&silent, &good], &[&wary], &[&good, &knows_not]] {
        let answer = ask_through(recursors, &asked).await;
        assert_eq!(addresses(&answer), ips(&["192.0.2.0"]));
        assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    }
    let none = ask_through(&[&knows_not, &good], &asked).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    let nobody = ask_through(&[&silent, &failing], &asked).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::ServFail);
    let reverse = ask_through(&[&good], &question("9.9.9.10.in-addr.arpa.", RecordType::PTR)).await;
    assert_eq!(reverse.metadata.response_code, ResponseCode::NoError);
}

#[tokio::test]
async fn aliases_that_lead_elsewhere_are_asked_of_the_recursors() {
    let good = Recursor::start(Manner::Says(ResponseCode::NoError)).await;
    let asked = question("alias.service.consul.", RecordType::A);
    let answer = ask_through(&[&good], &asked).await;
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(answer.answers[1].name, Name::from_str("www.example.com.").expect("name"));
    assert_eq!(addresses(&answer), ips(&["192.0.2.0"]));
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    let failing = Recursor::start(Manner::Says(ResponseCode::ServFail)).await;
    let alone = ask_through(&[&failing], &asked).await;
    assert_eq!((alone.answers.len(), alone.metadata.response_code), (1, ResponseCode::NoError));
    let big = Recursor::start(Manner::Big).await;
    assert_eq!(ask_through(&[&big], &asked).await.answers.len(), 1 + 5);
    let server = Server::start(Config { recursors: vec![good.address], waiting_max: 0, ..Config::default() }).await;
    assert_eq!(server.ask_udp("alias.service.consul.").await.answers.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn long_answers_of_recursors_come_over_tcp() {
    let long = Recursor::start(Manner::TooLong).await;
    let mut asked = question("www.example.com.", RecordType::A);
    let cut = ask_through(&[&long], &asked).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty(), "40 records do not fit in 512 bytes");
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    asked.set_edns(edns);
    let whole = ask_through(&[&long], &asked).await;
    assert_eq!(addresses(&whole).len(), 40);
    let big = Recursor::start(Manner::Big).await;
    let cut = ask_through(&[&big], &question("www.example.com.", RecordType::A)).await;
    assert!(cut.metadata.truncation);
}
