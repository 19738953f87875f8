//! Where a connection wants to go, as far as a gateway can see: the server name in its first message.

use crate::limits::CLIENT_HELLO_BYTES_MAX;
use crate::sni::{self, Hello};
use api::transport::net::TcpStream;
use tokio::io::AsyncReadExt;

/// Reads until the server name is known; returns it and all that was read.
pub(crate) async fn read_hello(tcp: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        if tcp.read_buf(&mut bytes).await.ok()? == 0 || bytes.len() > CLIENT_HELLO_BYTES_MAX {
            return None;
        }
        match sni::parse(&bytes) {
            Hello::Name(name) => return Some((name, bytes)),
            Hello::Incomplete => {}
            Hello::Refused(why) => {
                tracing::debug!(why, "a connection that a gateway cannot route");
                return None;
            }
        }
    }
}

/// The datacenter in a server name: `<service>.default.<dc>.internal.<trust domain>`.
pub(crate) fn datacenter_of<'n>(name: &'n str, trust_domain: &str) -> Option<&'n str> {
    let (service, dc) = name.strip_suffix(trust_domain)?.strip_suffix(".internal.")?.rsplit_once('.')?;
    service.strip_suffix(".default").filter(|service| !service.is_empty()).map(|_| dc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::proxy_config::service_sni;

    #[test]
    fn a_server_name_tells_the_datacenter() {
        assert_eq!(datacenter_of(&service_sni("web", "dc2", "t.consul"), "t.consul"), Some("dc2"));
        assert_eq!(datacenter_of(&service_sni("a.b", "dc-3", "t.consul"), "t.consul"), Some("dc-3"));
        for wrong in [
            "",
            "t.consul",
            "web.default.dc2.internal.other.consul",
            "web.dc2.internal.t.consul",
            ".default.dc2.internal.t.consul",
            "dc2.internal.t.consul",
        ] {
            assert_eq!(datacenter_of(wrong, "t.consul"), None, "{wrong}");
        }
    }
}
