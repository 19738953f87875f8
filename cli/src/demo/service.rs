//! The two small services of the demo: `api` answers, `web` asks `api` through its sidecar. Plain HTTP, no knowledge of the mesh.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// One of the demo's applications. Started by `tribune demo`; of no use alone.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServiceArgs {
    /// The name that it answers with.
    #[arg(long)]
    name: String,
    /// `ip:port` to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// `ip:port` of the sidecar's listener for the service that it asks, if it asks one.
    #[arg(long)]
    asks: Option<SocketAddr>,
}

/// What the health check asks.
const HEALTH_PATH: &str = "/health";
/// How long `web` waits for `api`.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Serves until the parent is gone.
pub(crate) async fn serve(args: ServiceArgs) -> std::io::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    tokio::select! {
        result = accept(listener, args) => result,
        () = super::children::parent_gone() => Ok(()),
    }
}

async fn accept(listener: TcpListener, args: ServiceArgs) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let args = args.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(args.clone(), request));
            // A connection that breaks is the other side's affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    args: ServiceArgs,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let caller = request
        .headers()
        .get("x-forwarded-client-cert")
        .and_then(|v| v.to_str().ok())
        .unwrap_or("nobody proven")
        .to_string();
    if request.uri().path() == HEALTH_PATH {
        return Ok(text(StatusCode::OK, format!("{} is well", args.name)));
    }
    let Some(upstream) = args.asks else {
        return Ok(text(StatusCode::OK, format!("{} was called by {caller}", args.name)));
    };
    Ok(match tokio::time::timeout(ASK_TIMEOUT, ask(upstream, request.uri().path())).await {
        Ok(Ok((status, body))) => text(status, body),
        Ok(Err(error)) => text(StatusCode::BAD_GATEWAY, format!("{} cannot reach its upstream: {error}", args.name)),
        Err(_) => text(StatusCode::GATEWAY_TIMEOUT, format!("{} got no answer within {ASK_TIMEOUT:?}", args.name)),
    })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

/// One GET over a new connection.
pub(super) async fn ask(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Full::<Bytes>::default())
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| e.to_string())?;
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
