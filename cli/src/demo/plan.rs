//! Who runs where in the demo: two datacenters on loopback addresses of this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

pub(super) const SERVERS: u8 = 3;
const AGENT_HOST: u8 = 10;
const APP_HOST: u8 = 20;
const HTTP_PORT: u16 = 8500;
/// The application's own port.
const APP_PORT: u16 = 9090;
/// Where `web`'s sidecar listens for calls to `api`.
const UPSTREAM_PORT: u16 = 9191;
const GATEWAY_PORT: u16 = 8443;

/// The addresses of one run: `127.BLOCK.DATACENTER.HOST`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    block: u8,
}

impl Plan {
    /// The first block of loopback addresses on which nobody listens.
    pub(super) fn find() -> Option<Plan> {
        (41..=99).map(|block| Plan { block }).find(|plan| {
            let ports = [8300, HTTP_PORT, 8600];
            (1..=2).all(|dc| ports.iter().all(|port| TcpListener::bind((plan.ip(dc, 1), *port)).is_ok()))
        })
    }

    fn ip(self, dc: u8, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.block, dc, host))
    }

    pub(super) fn server(self, dc: u8, n: u8) -> IpAddr {
        self.ip(dc, n)
    }

    /// The HTTP API of a server.
    pub(super) fn server_http(self, dc: u8, n: u8) -> SocketAddr {
        SocketAddr::new(self.ip(dc, n), HTTP_PORT)
    }

    /// The HTTP API of the datacenter's plain agent.
    pub(super) fn agent_http(self, dc: u8) -> SocketAddr {
        SocketAddr::new(self.ip(dc, AGENT_HOST), HTTP_PORT)
    }

    /// The gRPC port for proxies of the datacenter's plain agent.
    fn agent_grpc(self, dc: u8) -> SocketAddr {
        SocketAddr::new(self.ip(dc, AGENT_HOST), 8502)
    }

    pub(super) fn agent_dns(self, dc: u8) -> SocketAddr {
        SocketAddr::new(self.ip(dc, AGENT_HOST), 8600)
    }

    pub(super) fn app(self, dc: u8) -> SocketAddr {
        SocketAddr::new(self.ip(dc, APP_HOST), APP_PORT)
    }

    pub(super) fn upstream(self) -> SocketAddr {
        SocketAddr::new(self.ip(1, AGENT_HOST), UPSTREAM_PORT)
    }

    pub(super) fn gateway(self, dc: u8) -> SocketAddr {
        SocketAddr::new(self.ip(dc, AGENT_HOST), GATEWAY_PORT)
    }

    /// Arguments of server `n` of a datacenter.
    pub(super) fn server_args(self, folder: &Path, secret: &str, dc: u8, n: u8) -> Vec<String> {
        let mut args = self.node_args(folder, secret, dc, n, &format!("dc{dc}-s{n}"));
        args.push("-server".into());
        args.push(format!("-bootstrap-expect={SERVERS}"));
        if dc == 2 {
            args.extend((1..=SERVERS).map(|other| format!("-retry-join-wan={}", self.ip(1, other))));
        }
        args
    }

    /// Arguments of the plain agent of a datacenter.
    pub(super) fn agent_args(self, folder: &Path, secret: &str, dc: u8) -> Vec<String> {
        self.node_args(folder, secret, dc, AGENT_HOST, &format!("dc{dc}-agent"))
    }

    fn node_args(self, folder: &Path, secret: &str, dc: u8, host: u8, name: &str) -> Vec<String> {
        let ip = self.ip(dc, host);
        let mut args: Vec<String> = vec![
            "agent".into(),
            format!("-node={name}"),
            format!("-datacenter=dc{dc}"),
            "-primary-datacenter=dc1".into(),
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-data-dir={}", folder.join(name).display()),
            format!("-encrypt={secret}"),
        ];
        args.extend((1..=SERVERS).map(|n| format!("-retry-join={}", self.ip(dc, n))));
        args
    }

    /// Arguments of an application.
    pub(super) fn app_args(self, dc: u8, name: &str, asks: Option<SocketAddr>) -> Vec<String> {
        let mut args =
            vec!["demo".to_string(), "service".into(), format!("-name={name}"), format!("-listen={}", self.app(dc))];
        args.extend(asks.map(|at| format!("-asks={at}")));
        args
    }

    /// Arguments of the sidecar of a service.
    pub(super) fn sidecar_args(self, dc: u8, service: &str) -> Vec<String> {
        let verb = ["connect".to_string(), "proxy".into(), format!("-sidecar-for={service}")];
        verb.into_iter().chain(self.control_args(dc)).collect()
    }

    /// Arguments of the gateway of a datacenter.
    pub(super) fn gateway_args(self, dc: u8) -> Vec<String> {
        let at = self.gateway(dc);
        let verb = [
            "connect".to_string(),
            "gateway".into(),
            "-register".into(),
            format!("-address={at}"),
            format!("-wan-address={at}"),
        ];
        verb.into_iter().chain(self.control_args(dc)).collect()
    }

    fn control_args(self, dc: u8) -> [String; 2] {
        [format!("-http-addr={}", self.agent_http(dc)), format!("-grpc-addr={}", self.agent_grpc(dc))]
    }
}
