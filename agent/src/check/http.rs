//! Checks by HTTP: 2xx passes, 429 warns, everything else is critical.
//!
//! Whoever may register a check makes this node send requests: redirects are therefore followed only to the same host and
//! port, and only a bounded number of times.

use super::Finding;
use api::transport::net::TcpStream;
use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::AgentCheck;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// Consul's: operators filter their access logs by it.
const AGENT: &str = "Consul Health Check";
/// Most redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// One request, and what follows from its answer. The caller limits the time.
pub(crate) async fn run(registration: &AgentCheck, output_bytes_max: usize) -> Finding {
    let method = if registration.method.is_empty() { "GET" } else { &registration.method };
    match ask(registration, output_bytes_max).await {
        Ok((status, body)) => {
            let reason = status.canonical_reason().unwrap_or_default();
            let output = format!("HTTP {method} {}: {} {reason} Output: {body}", registration.http, status.as_u16());
            match status {
                s if s.is_success() => Finding::passing(output),
                StatusCode::TOO_MANY_REQUESTS => Finding::warning(output),
                _ => Finding::critical(output),
            }
        }
        Err(reason) => Finding::critical(format!("{method} {:?}: {reason}", registration.http)),
    }
}

async fn ask(registration: &AgentCheck, output_bytes_max: usize) -> Result<(StatusCode, String), String> {
    let mut uri: Uri = registration.http.parse().map_err(|e| format!("not a URL: {e}"))?;
    for _ in 0..=REDIRECTS_MAX {
        let answer = exchange(registration, &uri).await?;
        match redirect(&uri, &answer) {
            Some(next) if !registration.disable_redirects => uri = next?,
            _ => return Ok((answer.status(), first_bytes(answer, output_bytes_max).await)),
        }
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

async fn exchange(registration: &AgentCheck, uri: &Uri) -> Result<Response<Incoming>, String> {
    let host = uri.host().ok_or("the URL has no host")?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the URL must begin with http:// or https://".to_string()),
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let tcp = TcpStream::connect((bare, port)).await.map_err(|e| e.to_string())?;
    let request = request(registration, uri)?;
    if !is_tls {
        return send(tcp, request).await;
    }
    let name = if registration.tls_server_name.is_empty() { bare } else { &registration.tls_server_name };
    let name = ServerName::try_from(name.to_string()).map_err(|e| e.to_string())?;
    let tls = super::tls::client(registration.tls_skip_verify).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(|e| e.to_string())?;
    send(stream, request).await
}

fn request(registration: &AgentCheck, uri: &Uri) -> Result<Request<Full<Bytes>>, String> {
    let method = if registration.method.is_empty() {
        Method::GET
    } else {
        registration.method.parse().map_err(|_| "not a method")?
    };
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::builder().method(method).uri(path);
    let mut has = (false, false);
    for (name, values) in &registration.header {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is not a header"))?;
        has = (has.0 || name == HOST, has.1 || name == USER_AGENT);
        for value in values {
            request = request
                .header(&name, HeaderValue::from_str(value).map_err(|_| format!("{value:?} is not a header's value"))?);
        }
    }
    if !has.0 {
        request = request.header(HOST, uri.authority().map_or("", |a| a.as_str()));
    }
    if !has.1 {
        request = request.header(USER_AGENT, AGENT);
    }
    request.body(Full::new(Bytes::from(registration.body.clone()))).map_err(|e| e.to_string())
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    // The connection ends when the answer, which is limited in time and size, is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// Where the answer sends us; an error if that is another host.
fn redirect(from: &Uri, answer: &Response<Incoming>) -> Option<Result<Uri, String>> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    Some(same_host(from, location))
}

fn same_host(from: &Uri, location: &str) -> Result<Uri, String> {
    let scheme = from.scheme_str().unwrap_or("http");
    let authority = from.authority().map_or("", |a| a.as_str());
    let next = match location {
        path if path.starts_with('/') && !path.starts_with("//") => format!("{scheme}://{authority}{path}"),
        other => other.to_string(),
    };
    let next: Uri = next.parse().map_err(|e| format!("redirected to {location:?}: {e}"))?;
    if next.authority() != from.authority() || next.scheme() != from.scheme() {
        return Err(format!("redirected to another host ({location}): not followed; check that URL itself"));
    }
    Ok(next)
}

async fn first_bytes(answer: Response<Incoming>, bytes_max: usize) -> String {
    let mut body = answer.into_body();
    let mut kept = Vec::new();
    while kept.len() < bytes_max {
        match body.frame().await {
            Some(Ok(frame)) => kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    kept.truncate(bytes_max);
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_host() {
        let from: Uri = "http://a:80/x".parse().expect("a URL");
        let cases = [
            ("/y", true),
            ("http://a:80/y", true),
            ("//b/y", false),
            ("http://b:80/", false),
            ("https://a:80/", false),
            ("http://a:81/", false),
        ];
        for (location, followed) in cases {
            assert_eq!(same_host(&from, location).is_ok(), followed, "{location}");
        }
    }
}
