//! A proxy's own little HTTP server: `/stats`, `/config`, `/ready`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proxy::Handle;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Serves until the handle that is answered is dropped.
pub(super) async fn serve(at: SocketAddr, proxy: Handle) -> std::io::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(at).await?;
    Ok(AbortOnDropHandle::new(tokio::spawn(accept(listener, proxy))))
}

async fn accept(listener: TcpListener, proxy: Handle) {
    // One client at a time is enough for scrapers, and a bound on what strangers can take.
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = answer(&proxy, request.uri().path());
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // A client that is slow or gone is its own affair.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), connection).await;
    }
}

fn answer(proxy: &Handle, path: &str) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/stats" => (StatusCode::OK, json(&proxy.metrics())),
        "/config" => (StatusCode::OK, json(&proxy.config().as_deref())),
        "/ready" => match proxy.problem() {
            None if proxy.config().is_some() => (StatusCode::OK, "ready\n".into()),
            None => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first configuration\n".into()),
            Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "there is /stats, /config and /ready\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string())
}
