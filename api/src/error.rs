//! A refusal as Consul words it: a status code and a plain text.

use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

/// A refusal as an HTTP client sees it. Clients match on the text, so it is Consul's own where Consul has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body: plain text, not JSON.
    pub text: String,
}

impl Error {
    /// Any refusal.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Error { status, text: text.into() }
    }

    /// 400: the request is wrong; repeating it is of no use.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 403: this caller may not do it.
    pub fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// 404: there is no such thing.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// 413: a body of more than `max_bytes`.
    pub fn too_large(len_bytes: u64, max_bytes: usize) -> Self {
        let text = format!(
            "Request body({len_bytes} bytes) too large, max size: {max_bytes} bytes. \
             See https://www.consul.io/docs/agent/config/config-files#kv_max_value_size."
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// 429: a limit was reached; try again later.
    pub fn too_many(text: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, text)
    }

    /// 500: our fault, or a place that cannot be reached.
    pub fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// 503: not now; the same request may succeed later.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    /// 500 `No cluster leader`. The write was not taken; retry.
    pub fn no_leader() -> Self {
        Self::internal("No cluster leader")
    }

    /// 500 `No path to datacenter`: nobody here knows a datacenter of that name.
    pub fn no_path() -> Self {
        Self::internal("No path to datacenter")
    }

    /// 500 `No known Consul servers`: this agent has no server to ask.
    pub fn no_servers() -> Self {
        Self::internal("No known Consul servers")
    }

    /// 404 for a path that nobody serves. (Consul: `agent/http.go`.)
    pub fn unknown_path(path: &str) -> Self {
        let reason = "Invalid URL path: not a recognized HTTP API endpoint";
        let hint = "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'";
        Self::not_found(if path.starts_with("/v1/") { reason } else { hint })
    }

    /// The HTTP answer.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_plain_text_with_its_status() {
        let response: Response<String> = Error::no_leader().into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.body(), "No cluster leader");
    }

    #[test]
    fn unknown_paths_get_consuls_hint() {
        assert!(Error::unknown_path("/v1/nope").text.ends_with("not a recognized HTTP API endpoint"));
        assert!(Error::unknown_path("/nope").text.ends_with("ensure the path starts with '/v1/'"));
        assert_eq!(Error::unknown_path("/nope").status, 404);
    }
}
