//! Checks of real targets.

use super::*;
use crate::local::Local;
use crate::metrics::Metrics;
use ::http::StatusCode as Code;
use axum::Router;
use axum::routing::{any, get};
use model::{AgentCheck, GoDuration, ServiceInstance};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

async fn site(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn http(url: String) -> AgentCheck {
    AgentCheck { http: url, ..AgentCheck::default() }
}

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound")
}

#[tokio::test]
async fn the_status_of_http_decides() {
    let codes = Router::new()
        .route("/200", get(|| async { "fine" }))
        .route("/204", get(|| async { Code::NO_CONTENT }))
        .route("/429", get(|| async { (Code::TOO_MANY_REQUESTS, "slow") }))
        .route("/500", get(|| async { (Code::INTERNAL_SERVER_ERROR, "broken") }))
        .route("/away", get(|| async { (Code::FOUND, [("location", "http://127.9.9.9:1/")]) }))
        .route("/here", get(|| async { (Code::FOUND, [("location", "/200")]) }))
        .route("/round", get(|| async { (Code::FOUND, [("location", "/round")]) }));
    let address = site(codes).await;
    let cases = [
        ("200", CheckStatus::Passing, "200 OK Output: fine"),
        ("204", CheckStatus::Passing, "204 No Content Output: "),
        ("429", CheckStatus::Warning, "429 Too Many Requests Output: slow"),
        ("500", CheckStatus::Critical, "500 Internal Server Error Output: broken"),
        ("here", CheckStatus::Passing, "200 OK Output: fine"),
        ("away", CheckStatus::Critical, "redirected to another host (http://127.9.9.9:1/)"),
        ("round", CheckStatus::Critical, "more than 5 redirects"),
    ];
    for (path, status, output) in cases {
        let finding = http::run(&http(format!("http://{address}/{path}")), 4096).await;
        assert_eq!(finding.status, status, "{path}: {}", finding.output);
        assert!(finding.output.contains(output), "{path}: {}", finding.output);
    }
    let stays = AgentCheck { disable_redirects: true, ..http(format!("http://{address}/here")) };
    assert!(http::run(&stays, 4096).await.output.contains("302 Found"));
}

#[tokio::test]
async fn the_request_is_as_registered() {
    let say = |method: ::http::Method, headers: ::http::HeaderMap, body: String| async move {
        let of = |name: &str| headers.get(name).map_or("", |v| v.to_str().expect("text")).to_string();
        format!("{method} {} {} {} {body}", of("user-agent"), of("x-a"), of("host"))
    };
    let address = site(Router::new().route("/", any(say))).await;
    let plain = http::run(&http(format!("http://{address}")), 4096).await;
    assert!(plain.output.ends_with(&format!("GET Consul Health Check  {address} ")), "{}", plain.output);
    let special = AgentCheck {
        method: "POST".into(),
        body: "hello".into(),
        header: [("X-A".to_string(), vec!["1".to_string()]), ("Host".to_string(), vec!["web".to_string()])].into(),
        ..http(format!("http://{address}/"))
    };
    let finding = http::run(&special, 4096).await;
    assert!(finding.output.ends_with("POST Consul Health Check 1 web hello"), "{}", finding.output);
}

#[tokio::test]
async fn output_is_cut() {
    let address = site(Router::new().route("/", get(|| async { "é".repeat(100_000) }))).await;
    let finding = http::run(&http(format!("http://{address}/")), 64).await;
    assert_eq!(finding.status, CheckStatus::Passing);
    assert!(finding.output.len() < 200, "{}", finding.output.len());
}

#[tokio::test]
async fn what_is_no_url_is_critical() {
    let gone = nobody().await;
    for url in ["", "x", "ftp://a/", "http://", &format!("http://{gone}/"), &format!("https://{gone}/")] {
        assert_eq!(http::run(&http(url.to_string()), 4096).await.status, CheckStatus::Critical, "{url}");
    }
    let odd = AgentCheck {
        header: [("a b".to_string(), vec![String::new()])].into(),
        ..http(format!("http://{}/", site(Router::new()).await))
    };
    assert!(http::run(&odd, 4096).await.output.contains("is not a header"));
}

#[tokio::test]
async fn tcp_and_udp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    assert_eq!(socket::tcp(&address).await, Finding::passing(format!("TCP connect {address}: Success")));
    drop(listener);
    assert_eq!(socket::tcp(&address).await.status, CheckStatus::Critical);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let address = socket.local_addr().expect("bound").to_string();
    assert_eq!(socket::udp(&address, Duration::from_millis(50)).await.status, CheckStatus::Passing, "silence passes");
    drop(socket);
    assert_eq!(socket::udp(&address, Duration::from_secs(30)).await.status, CheckStatus::Critical, "refused at once");
}

#[tokio::test]
async fn scripts_say_it_by_their_status() {
    let sh = |script: &str| vec!["/bin/sh".to_string(), "-c".to_string(), script.to_string()];
    let cases = [
        ("echo fine; echo more >&2", CheckStatus::Passing, "fine\nmore\n"),
        ("echo hm; exit 1", CheckStatus::Warning, "hm\n"),
        ("echo no; exit 2", CheckStatus::Critical, "no\n"),
        ("kill -9 $$", CheckStatus::Critical, ""),
    ];
    for (text, status, output) in cases {
        assert_eq!(script::run(&sh(text), 4096).await, Finding { status, output: output.to_string() }, "{text}");
    }
    let long = script::run(&sh("head -c 1000000 /dev/zero | tr '\\0' x"), 100).await;
    assert_eq!((long.status, long.output.len()), (CheckStatus::Passing, 100));
    assert!(script::run(&["/nonexistent/x".to_string()], 10).await.output.starts_with("cannot run /nonexistent/x"));
}

/// gRPC health written with axum: a reply that says `status`, or a gRPC error.
fn health(reply: Result<u8, u8>) -> Router {
    Router::new().route(
        "/grpc.health.v1.Health/Check",
        axum::routing::post(move || async move {
            let body = reply.map_or_else(|_| Vec::new(), |status| vec![0, 0, 0, 0, 2, 8, status]);
            let code = reply.err().unwrap_or(0).to_string();
            ([("content-type", "application/grpc".to_string()), ("grpc-status", code)], body)
        }),
    )
}

#[tokio::test]
async fn grpc_health() {
    let ask = |address: String| AgentCheck { grpc: address, ..AgentCheck::default() };
    let serving = site(health(Ok(1))).await;
    let finding = grpc::run(&ask(format!("{serving}/web"))).await;
    assert_eq!((finding.status, finding.output), (CheckStatus::Passing, format!("gRPC check {serving}/web: success")));
    let not_serving = grpc::run(&ask(site(health(Ok(2))).await.to_string())).await;
    assert!(
        not_serving.status == CheckStatus::Critical && not_serving.output.ends_with("NOT_SERVING"),
        "{}",
        not_serving.output
    );
    assert_eq!(grpc::run(&ask(site(health(Err(5))).await.to_string())).await.status, CheckStatus::Critical);
    assert_eq!(grpc::run(&ask(nobody().await.to_string())).await.status, CheckStatus::Critical);
    assert_eq!(grpc::run(&ask("no address".into())).await.status, CheckStatus::Critical);
}

fn runners(folder: &tempfile::TempDir) -> (Local, Runners) {
    let store = store::Store::open(folder.path()).expect("a store");
    let metrics = Arc::new(Metrics::default());
    let local = Local::open(store, Duration::from_secs(300), metrics.clone()).expect("opens");
    let runners = Runners::new(local.clone(), metrics, tokio::runtime::Handle::current());
    (local, runners)
}

fn start(local: &Local, runners: &Runners, made: AgentCheck) {
    let web = ServiceInstance { id: "web".into(), service: "web".into(), ..ServiceInstance::default() };
    let mut made = made;
    made.normalize(Some(("web", "web")), 0, 1);
    let spec = spec("n1", made, Some(&web), crate::config::Scripts::All, crate::config::Source::Http).expect("a check");
    for id in local.register(web, vec![spec], true).expect("registers").start {
        runners.start(&id);
    }
}

#[tokio::test]
async fn a_check_runs_until_it_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let (local, runners) = runners(&folder);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    start(&local, &runners, AgentCheck { tcp: address, interval: GoDuration::from_secs(1), ..AgentCheck::default() });
    let status = || local.check("service:web").map(|c| c.status);
    crate::testing::eventually("it passes", || status() == Some(CheckStatus::Passing)).await;
    drop(listener);
    crate::testing::eventually("it is critical", || status() == Some(CheckStatus::Critical)).await;
    runners.stop("service:web");
}

#[tokio::test]
async fn a_probe_that_hangs_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let (local, runners) = runners(&folder);
    let args = vec!["/bin/sleep".to_string(), "60".to_string()];
    let (interval, timeout) = (GoDuration::from_secs(1), GoDuration(Duration::from_millis(50)));
    start(&local, &runners, AgentCheck { args, interval, timeout, ..AgentCheck::default() });
    let output = || local.check("service:web").map(|c| c.output.clone()).unwrap_or_default();
    crate::testing::eventually("it times out", || output().starts_with("Timed out (50ms) running check")).await;
    runners.stop_all();
}

#[tokio::test]
async fn a_ttl_check_expires_when_nobody_reports() {
    let folder = tempfile::tempdir().expect("a folder");
    let (local, runners) = runners(&folder);
    start(&local, &runners, AgentCheck { ttl: GoDuration(Duration::from_millis(300)), ..AgentCheck::default() });
    local.update_check("service:web", CheckStatus::Passing, "alive".into()).expect("updates");
    let check = || local.check("service:web").expect("is there");
    crate::testing::eventually("it expires", || check().status == CheckStatus::Critical).await;
    assert_eq!(check().output, "TTL expired (last output before timeout follows): alive");
    local.update_check("service:web", CheckStatus::Passing, "back".into()).expect("updates");
    crate::testing::eventually("it expires again", || check().output.ends_with("follows): back")).await;
}
