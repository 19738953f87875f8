//! What a proxy must do to the heads of HTTP messages: take out what was meant for it alone, refuse what two readers could read in
//! two ways, and translate between the versions. (RFC 9110 §7.6, RFC 9112 §3.2 and §6.3, RFC 9113 §8.)

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

/// Says who called, on the last step to the application: `By=<us>;URI=<caller>`, as Envoy writes it. Whatever came in it from outside is taken out.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Headers for the next hop only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::PROXY_AUTHENTICATE,
    http::header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
    TRANSFER_ENCODING,
];

/// A request that is not passed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: &'static str,
}

pub(crate) const fn bad(text: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, text }
}

/// Makes a request fit to be passed on. Returns the protocol that it wants to change to, if it does (WebSocket).
pub(crate) fn clean_request<B>(request: &mut Request<B>) -> Result<Option<HeaderValue>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, text: "CONNECT is not taken here" });
    }
    check_host(request)?;
    check_framing(request.headers())?;
    let is_http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(CLIENT_CERT);
    let named = take_named_by_connection(headers)?;
    let wants_trailers = headers.get_all(TE).iter().any(|te| has_token(te, "trailers"));
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(TE);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let upgrade = headers.remove(UPGRADE);
    // `Upgrade: h2c` would make the far side speak HTTP/2 on a connection that we take for HTTP/1.1.
    Ok(upgrade.filter(|protocol| named.upgrade && !is_http2 && !has_token(protocol, "h2c")))
}

/// Lets a cleaned request ask for another protocol.
pub(crate) fn ask_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes a response fit to be passed on, in the version that our client speaks.
pub(crate) fn clean_response<B>(response: &mut Response<B>, version: Version) {
    *response.version_mut() = if version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    // A response whose `Connection` is rubbish is the peer's matter; what it names is taken out all the same.
    let _ = take_named_by_connection(headers);
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    let upgrade = headers.remove(UPGRADE);
    if let (true, Some(protocol)) = (switches, upgrade) {
        ask_upgrade(headers, protocol);
    }
}

/// Gives a cleaned request the form that HTTP/1.1 wants: a path, and a `Host`.
pub(crate) fn for_http1<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_none() {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = parts.authority.take().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    parts.scheme = None;
    // A path alone is always a valid URI.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    // HTTP/2 may cut cookies into crumbs; HTTP/1.1 wants one (RFC 9113 §8.2.3).
    join_cookies(request.headers_mut());
}

/// Gives a cleaned request the form that HTTP/2 wants: scheme, authority and path, no `Host`.
pub(crate) fn for_http2<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_some() {
        return;
    }
    let host = request.headers_mut().remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(host.unwrap_or(Authority::from_static("localhost")));
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// There must be one meaning of "which host": the request line's, else `Host`'s.
fn check_host<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(bad("more than one Host"));
    }
    if host.is_some_and(|host| !host.as_bytes().iter().all(is_host_byte)) {
        return Err(bad("a Host that is none"));
    }
    let Some(authority) = request.uri().authority() else {
        let needed = host.is_none() && request.version() != Version::HTTP_10;
        return if needed { Err(bad("no Host")) } else { Ok(()) };
    };
    if !authority.as_str().as_bytes().iter().all(is_host_byte) {
        return Err(bad("an authority that is none"));
    }
    if request.version() == Version::HTTP_2 && host.is_some_and(|host| host.as_bytes() != authority.as_str().as_bytes())
    {
        return Err(bad("Host and :authority differ"));
    }
    Ok(())
}

/// Letters, digits, and what names, addresses and ports need: no user, no path, no space, no list.
fn is_host_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte)
}

/// The parser has settled where the body ends; what another parser might settle in another way is refused.
fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if headers.contains_key(CONTENT_LENGTH) {
                return Err(bad("both Content-Length and Transfer-Encoding"));
            }
        }
        (Some(_), _) => return Err(bad("a Transfer-Encoding other than chunked")),
    }
    Ok(())
}

/// What `Connection` said.
#[derive(Default)]
struct Named {
    upgrade: bool,
}

/// Takes out the headers that `Connection` names, and itself.
fn take_named_by_connection(headers: &mut HeaderMap) -> Result<Named, Refusal> {
    /// Nobody needs more; each costs a look-up.
    const OPTIONS_MAX: usize = 32;
    let mut named = Named::default();
    if !headers.contains_key(CONNECTION) {
        return Ok(named);
    }
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    let options = lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|o| !o.is_empty());
    for (count, option) in options.enumerate() {
        if count == OPTIONS_MAX {
            return Err(bad("too many options in Connection"));
        }
        named.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        let name = HeaderName::from_bytes(option).map_err(|_| bad("a Connection option that is none"))?;
        // What the next reader needs to understand the message cannot be called hop-by-hop; what we read ourselves comes later.
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, TE].contains(&name) {
            headers.remove(name);
        }
    }
    Ok(named)
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    let name = |part: &[u8]| {
        part.split(|&b| b == b';').next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    };
    value.as_bytes().split(|&b| b == b',').any(name)
}

fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(http::header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests;
