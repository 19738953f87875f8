//! Every limit of a proxy, in one place, with its unit in its name.

use std::time::Duration;

/// Most connections that one listener holds at a time, when its configuration does not say.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Most handshakes that one listener carries at a time: a flood of strangers must not starve those who are in.
pub const HANDSHAKES_MAX: usize = 1_024;
/// Time limit for a TLS handshake, and for the first bytes of a connection to a gateway.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a connection to an endpoint, its handshake included, when the configuration does not say.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Waiting connections that the kernel keeps for one listener.
pub const LISTEN_BACKLOG: u32 = 4_096;
/// Silence after which the kernel asks whether the peer of a TCP connection still lives.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// An HTTP connection without a request for this long is closed. Raw TCP may rest for ever; [`TCP_KEEPALIVE`] finds the dead.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How often idle connections are looked for.
pub const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// What is read from one side before it is written to the other, in bytes. One buffer per thread, not per connection. Twice what
/// bulk senders write at a time, so that they are not met halfway; with 512 KB it no longer stays in the processor's cache.
pub const COPY_BYTES: usize = 256 * 1024;
/// The same while the other side does not take all at once: what it leaves is kept for the connection until it does.
pub const COPY_BYTES_SLOW: usize = 64 * 1024;
/// Turns that one byte stream takes before others get theirs.
pub const COPY_TURNS_MAX: usize = 4;
/// Largest head of an HTTP/1.1 message, in bytes.
pub const HTTP1_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most of an HTTP/1.1 message that is kept before somebody takes it, in bytes.
pub const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most header lines of an HTTP/1.1 message.
pub const HTTP1_HEADERS_MAX: usize = 100;
/// Largest header list of an HTTP/2 message, in bytes (RFC 9113 §6.5.2).
pub const HTTP2_HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Most streams that one HTTP/2 connection may have open.
pub const HTTP2_STREAMS_MAX: u32 = 4_096;
/// What one HTTP/2 stream may send ahead of its reader, in bytes.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for all streams of a connection together.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// What is kept of one stream's answer before it can be sent, in bytes.
pub const HTTP2_SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Silence after which an HTTP/2 peer that we called is asked whether it lives, and how long it may take to say so.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Connections to one endpoint that wait for their next request.
pub const IDLE_LINKS_MAX: usize = 256;
/// How long they wait. Less than [`HTTP_IDLE_TIMEOUT`], so that the side that calls is the side that closes.
pub const IDLE_LINK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client that rests keeps its connections to endpoints for itself.
pub const KEPT_LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// A client whose requests are further apart keeps none: what it has done with, others may have at once.
pub const KEPT_LINK_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Endpoints whose connections one HTTP/1.1 client keeps for itself.
pub const KEPT_LINKS_MAX: usize = 4;
/// Endpoints that one request or connection tries.
pub const ATTEMPTS_MAX: usize = 3;

/// Largest TLS ClientHello that a gateway reads to find out where it should go, in bytes (post-quantum ones have some 2 KB).
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Streams that one gateway may have open on one QUIC connection.
pub const TUNNEL_STREAMS_MAX: u32 = 4_096;
/// QUIC connections that other gateways may make to one gateway.
pub const TUNNELS_MAX: usize = 1_024;
/// QUIC connections from one gateway to each other gateway: a congestion response of one touches only its share of the streams.
pub const TUNNEL_CONNECTIONS: usize = 4;
/// What one tunnelled stream may send ahead of its reader, in bytes: 80 ms at 500 Mbit/s is 5 MB, and what follows a lost packet
/// waits for it several times as long.
pub const TUNNEL_STREAM_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// The same for all streams of one QUIC connection together, each way: what a peer can make us hold.
pub const TUNNEL_CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// Kernel buffers of a tunnel's socket, in bytes.
pub const TUNNEL_SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// How often a silent tunnel says that it lives.
pub const TUNNEL_KEEPALIVE: Duration = Duration::from_secs(2);
/// Silence after which a tunnel is dead.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a gateway that stops waits for others to hear of it.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// First and longest wait before something that failed is tried again; each failure doubles it, with jitter.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// See [`BACKOFF_FIRST`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest wait before the agent is asked again. It is on this machine, and holds its proxies back while it has no server; and until it
/// is heard again, the proxy goes by old intentions.
pub const AGENT_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How often a configuration file is looked at.
pub const FILE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for a call to the agent that is no stream.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
