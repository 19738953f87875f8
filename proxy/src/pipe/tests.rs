//! Copying over pipes in memory with buffers of awkward sizes, and how a copy ends.

use super::*;
use std::task::Waker;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

/// How a copy ended, and the bytes that it counted, there and back.
type Copied = (io::Result<()>, u64, u64);

/// Our ends of two connections that are piped together, with kernel buffers of `room` bytes.
fn piped(room: usize) -> (DuplexStream, DuplexStream, JoinHandle<Copied>) {
    let (client, mut near) = duplex(room);
    let (mut far, server) = duplex(room);
    let copy = tokio::spawn(async move {
        let traffic = Traffic::default();
        let result = pipe(&mut near, &mut far, &traffic).await;
        (result, traffic.sent_bytes(), traffic.received_bytes())
    });
    (client, server, copy)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn every_byte_arrives_in_order_whatever_the_buffers() {
    for room in [1, 7, 4096, 1 << 20] {
        let length = room.min(4096) * 40 + 3;
        let (mut client, mut server, copy) = piped(room);
        let sent = pattern(length);
        let writing = {
            let sent = sent.clone();
            tokio::spawn(async move {
                client.write_all(&sent).await.expect("write");
                client.shutdown().await.expect("shutdown");
                let mut back = Vec::new();
                client.read_to_end(&mut back).await.expect("read");
                back
            })
        };
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.expect("read");
        assert!(got == sent, "room {room}");
        // The other direction still works after the half-close.
        server.write_all(b"thanks").await.expect("write");
        drop(server);
        assert_eq!(writing.await.expect("task"), b"thanks");
        let (result, there, back) = copy.await.expect("task");
        result.expect("a clean end");
        assert_eq!((there, back), (length as u64, 6));
    }
}

#[tokio::test]
async fn both_directions_at_once() {
    let (client, server, copy) = piped(16);
    let talk = |stream: DuplexStream, byte: u8| async move {
        let (mut read, mut write) = tokio::io::split(stream);
        let writing = tokio::spawn(async move {
            write.write_all(&vec![byte; 100_000]).await.expect("write");
            write.shutdown().await.expect("shutdown");
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.expect("read");
        writing.await.expect("task");
        got
    };
    let (a, b) = tokio::join!(talk(client, 1), talk(server, 2));
    assert!(a == vec![2; 100_000] && b == vec![1; 100_000]);
    copy.await.expect("task").0.expect("a clean end");
}

#[tokio::test]
async fn a_peer_that_breaks_off_ends_the_copy() {
    let (mut client, server, copy) = piped(64);
    drop(server);
    // Either the write or the copy's end tells us; nobody hangs.
    let _ = client.write_all(&[0; 4096]).await;
    drop(client);
    let _ = copy.await.expect("the copy has ended");
}

/// One turn on the thread for one direction.
fn turn<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(flow: &mut Flow, from: &mut R, to: &mut W) -> usize {
    let read = std::cell::Cell::new(0);
    let polled = flow.poll(&mut Context::from_waker(Waker::noop()), from, to, |count| read.set(read.get() + count));
    assert!(polled.is_pending());
    read.get()
}

#[test]
fn others_get_their_turn() {
    let read = turn(&mut Flow::default(), &mut tokio::io::repeat(1), &mut tokio::io::sink());
    assert!(read <= 1024 * 1024, "{read} bytes");
}

#[tokio::test]
async fn little_is_kept_for_a_reader_that_does_not_keep_up() {
    let (mut to, mut reader) = duplex(1_000);
    let mut flow = Flow::default();
    for _ in 0..3 {
        turn(&mut flow, &mut tokio::io::repeat(1), &mut to);
        assert!((1..=COPY_BYTES_SLOW).contains(&flow.rest.len()), "{} bytes", flow.rest.len());
        // It takes all of it, a little at a time.
        while flow.written + 1_000 < flow.rest.len() {
            reader.read_exact(&mut [0; 1_000]).await.expect("bytes");
            turn(&mut flow, &mut tokio::io::repeat(1), &mut to);
        }
        reader.read_exact(&mut [0; 1_000]).await.expect("bytes");
    }
}

#[tokio::test]
async fn a_stream_that_flows_uses_the_whole_buffer() {
    let (mut to, _reader) = duplex(COPY_BYTES_SLOW + COPY_BYTES);
    let mut flow = Flow::default();
    let read = turn(&mut flow, &mut tokio::io::repeat(1), &mut to);
    assert_eq!((read, flow.rest.len()), (COPY_BYTES_SLOW + 2 * COPY_BYTES, COPY_BYTES));
}

#[test]
fn a_resting_copy_is_small() {
    let (mut a, mut b) = (duplex(1).0, duplex(1).0);
    let traffic = Traffic::default();
    let bytes = size_of_val(&pipe(&mut a, &mut b, &traffic));
    assert!(bytes <= 192, "{bytes} bytes");
}
