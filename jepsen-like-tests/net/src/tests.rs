//! Echoes through the switch: what faults do to packets and connections of real sockets.

use super::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Two machines; the second echoes UDP and TCP on port 7.
fn pair(seed: u64) -> Network {
    let network = Network::new(2, seed).unwrap();
    let to = SocketAddr::from((Network::address(1), 7));
    let socket = network.machine(1).inside(|| UdpSocket::bind(to)).unwrap();
    let listener = network.machine(1).inside(|| TcpListener::bind(to)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            socket.send_to(&packet[..length], from).ok();
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut byte = [0];
            let mut stream = stream.unwrap();
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
    });
    network
}

fn client(network: &Network) -> UdpSocket {
    let socket = network.machine(0).inside(|| UdpSocket::bind((Network::address(0), 0))).unwrap();
    socket.connect((Network::address(1), 7)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Sends numbered packets and returns the numbers of the echoes, in the order in which they came, until none comes for a moment.
fn echoes(socket: &UdpSocket, count: u16) -> Vec<u16> {
    let sender = socket.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for number in 0..count {
            sender.send(&number.to_be_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut numbers = Vec::new();
    let mut packet = [0; 2];
    while socket.recv(&mut packet).is_ok() {
        numbers.push(u16::from_be_bytes(packet));
    }
    sending.join().unwrap();
    numbers
}

/// One echo, so that both know each other's hardware address.
fn warm_up(socket: &UdpSocket) {
    assert_eq!(echoes(socket, 1), [0]);
}

fn both(network: &Network, link: Link) {
    let mut links = network.perfect();
    *links.link(0, 1) = link;
    *links.link(1, 0) = link;
    network.set(links);
}

#[test]
fn a_delay_is_felt_in_both_directions() {
    let network = pair(1);
    let socket = client(&network);
    warm_up(&socket);
    both(&network, Link { delay: Duration::from_millis(150), ..Link::default() });
    let start = Instant::now();
    socket.send(b"xx").unwrap();
    socket.recv(&mut [0; 2]).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(network.fates().delayed >= 2);
}

#[test]
fn a_connection_survives_loss_doubles_and_reordering() {
    let network = pair(2);
    let spoilt = Link {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(5),
        loss_per_mille: 50,
        duplicate_per_mille: 100,
        reorder_per_mille: 100,
        cut: false,
    };
    both(&network, spoilt);
    let to = SocketAddr::from((Network::address(1), 7));
    let mut stream = network.machine(0).inside(|| TcpStream::connect(to)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let sent: Vec<u8> = (0..=255).collect();
    stream.write_all(&sent).unwrap();
    let mut received = [0; 256];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(sent, received);
}

#[test]
fn packets_are_lost_doubled_and_overtaken() {
    let network = pair(3);
    let socket = client(&network);
    warm_up(&socket);
    let mut links = network.perfect();
    *links.link(0, 1) = Link { loss_per_mille: 300, ..Link::default() };
    network.set(links);
    let arrived = echoes(&socket, 500).len();
    assert!((275..425).contains(&arrived), "{arrived} of 500 with a loss of 30 %");

    let mut links = network.perfect();
    *links.link(0, 1) =
        Link { delay: Duration::from_millis(40), duplicate_per_mille: 200, reorder_per_mille: 200, ..Link::default() };
    network.set(links);
    let numbers = echoes(&socket, 500);
    assert!((525..700).contains(&numbers.len()), "{} of 500 with 20 % doubled", numbers.len());
    assert!(numbers.windows(2).any(|pair| pair[0] > pair[1]), "none overtook another");
}

#[test]
fn a_cut_holds_in_its_direction_only_and_heals() {
    let network = pair(4);
    let socket = client(&network);
    warm_up(&socket);
    let sent_back = || network.fates().sent;
    let mut links = network.perfect();
    links.link(1, 0).cut = true;
    network.set(links);
    let before = sent_back();
    assert!(echoes(&socket, 20).is_empty(), "the way back is cut");
    assert!(sent_back() >= before + 40, "the way there is not: each packet was answered");
    network.set(network.perfect());
    assert!(!echoes(&socket, 20).is_empty());
}

#[test]
fn a_network_leaves_nothing_behind() {
    let before = std::fs::read_to_string("/proc/net/dev").unwrap();
    drop(Network::new(3, 5).unwrap());
    assert_eq!(std::fs::read_to_string("/proc/net/dev").unwrap().lines().count(), before.lines().count());
}
