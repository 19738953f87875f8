//! What all reads share: options, consistency, blocking, headers.

use std::time::Duration;

use api::query::{Consistency, Query, QueryOptions, WAIT_JITTER_FRACTION, refuse_tenancy_headers};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use catalog::View;
use model::Index;
use model::filter::Row;
use serde::Serialize;
use tokio::time::Instant;

use super::filter::Filter;
use super::{Refusal, Reply, Shared};
use crate::reads::Freshness;
use crate::watch::Answer;

/// A read: its options, and where to ask.
pub(crate) struct Read {
    pub(crate) core: Shared,
    /// In a box, for a poll that waits would carry its size several times.
    pub(crate) options: Box<QueryOptions>,
    pub(crate) query: Query,
    pub(crate) path: PathTail,
    target: Box<str>,
}

/// The path, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathTail(String);

impl PathTail {
    pub(crate) fn new(path: &str) -> Self {
        PathTail(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned())
    }

    /// What follows a prefix such as `/v1/kv/`.
    pub(crate) fn after(&self, prefix: &str) -> String {
        self.0.strip_prefix(prefix).unwrap_or_default().to_string()
    }
}

impl FromRequestParts<Shared> for Read {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, core: &Shared) -> Result<Self, Refusal> {
        refuse_tenancy_headers(&parts.headers)?;
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let options = Box::new(QueryOptions::parse(&query)?);
        let target = if options.index > 0 { question(&parts.uri) } else { Box::default() };
        let path = PathTail::new(parts.uri.path());
        Ok(Read { core: core.clone(), options, query, path, target })
    }
}

impl Read {
    /// The filter, or Consul's refusal of one that is not for such rows.
    pub(crate) fn filter<R: Row>(&self) -> Result<Filter, Refusal> {
        Filter::check::<R>(self.options.filter.as_deref())
    }

    /// Runs a query until there is something newer than the client has, and answers it with Consul's headers.
    /// `run` is told whether to indent.
    pub(crate) fn answer(self, run: impl Fn(&View<'_>, bool) -> Answer) -> impl Future<Output = Reply> {
        let Read { core, options, target, .. } = self;
        let (index, wait, pretty) = (options.index, options.wait, options.pretty);
        let (consistency, max_stale) = (options.consistency, options.max_stale);
        // Nothing else is kept while it waits.
        async move {
            let freshness = core.reads.prepare(consistency, max_stale).await?;
            let run = |view: &View<'_>| run(view, pretty);
            if index == 0 {
                let (answer, index) = core.watch.read(run);
                return Ok(respond(answer, index, freshness));
            }
            let deadline = Instant::now() + with_jitter(wait);
            let (answer, index) = core.watch.query_shared(&target, index, deadline, run).await;
            Ok(respond(answer, index, freshness))
        }
    }
}

/// What a blocking query asks, whatever version its client has and however long it waits: polls that ask the same share an
/// answer.
fn question(uri: &Uri) -> Box<str> {
    let is_asked = |pair: &&str| !pair.starts_with("index=") && !pair.starts_with("wait=");
    let pairs: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(is_asked).collect();
    format!("{}?{}", uri.path(), pairs.join("&")).into()
}

/// A list or thing as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> Answer {
    Answer { status: StatusCode::OK, content_type: JSON, body: api::json::to_bytes(value, pretty) }
}

/// Rows as a JSON list.
pub(crate) fn list<T: Serialize>(rows: impl Iterator<Item = T>, pretty: bool) -> Answer {
    json(&rows.collect::<Vec<T>>(), pretty)
}

/// Not there: 404 with a text, or without one.
pub(crate) fn not_found(text: &'static str) -> Answer {
    Answer { status: StatusCode::NOT_FOUND, content_type: TEXT, body: Bytes::from_static(text.as_bytes()) }
}

pub(crate) const JSON: &str = "application/json";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// JSON that does not depend on the catalog.
pub(crate) fn plain_json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> Response {
    let mut response = Response::new(api::json::to_bytes(value, pretty).into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

fn respond(answer: Answer, index: Index, freshness: Freshness) -> Response {
    let mut response = Response::new(answer.body.into());
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.reserve(7);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    put_freshness(headers, index, freshness);
    if answer.content_type == RAW {
        // A browser must not take a stored value for a page of ours. (Consul: `kvs_endpoint.go`.)
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    }
    response
}

/// The type of `?raw` values.
pub(crate) const RAW: &str = "text/plain";

// Names made once: a text would be copied into each answer.
static INDEX: HeaderName = HeaderName::from_static("x-consul-index");
static KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
static LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
static CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
static ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");

pub(super) fn put_freshness(headers: &mut HeaderMap, index: Index, freshness: Freshness) {
    let consistency = match freshness.consistency {
        Consistency::Default => "leader",
        Consistency::Consistent => "consistent",
        Consistency::Stale => "stale",
    };
    headers.insert(INDEX.clone(), HeaderValue::from(index.max(1)));
    headers
        .insert(KNOWN_LEADER.clone(), HeaderValue::from_static(if freshness.known_leader { "true" } else { "false" }));
    headers.insert(LAST_CONTACT.clone(), HeaderValue::from(freshness.last_contact_ms));
    headers.insert(CONSISTENCY.clone(), HeaderValue::from_static(consistency));
    headers.insert(ACL_POLICY.clone(), HeaderValue::from_static("allow"));
}

/// Waits differ by up to a sixteenth, so that not all clients come back at once.
fn with_jitter(wait: Duration) -> Duration {
    let most = wait / WAIT_JITTER_FRACTION;
    wait + most.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_path_is_decoded() {
        let tail = |path: &str| PathTail::new(path).after("/v1/kv/");
        assert_eq!(tail("/v1/kv/a%2Fb/c"), "a/b/c");
        assert_eq!(tail("/v1/kv//a//"), "/a//");
        assert_eq!(tail("/v1/kv/%C3%A9"), "é");
        assert_eq!(tail("/v1/kv"), "");
    }

    #[test]
    fn polls_that_differ_in_what_they_have_ask_the_same() {
        let asked = |uri: &str| question(&uri.parse().expect("a URI"));
        let all = asked("/v1/health/service/web?passing&tag=a");
        assert_eq!(asked("/v1/health/service/web?passing&index=7&tag=a&wait=5m"), all);
        for other in [
            "/v1/health/service/web?passing&tag=a&near=b",
            "/v1/health/service/web?tag=a",
            "/v1/health/service/web?passing&tag=b",
            "/v1/health/service/api?passing&tag=a",
        ] {
            assert_ne!(asked(other), all, "{other}");
        }
    }

    #[test]
    fn jitter_adds_a_sixteenth_at_most() {
        for _ in 0..100 {
            let wait = with_jitter(Duration::from_secs(16));
            assert!((16.0..=17.0).contains(&wait.as_secs_f64()));
        }
    }

    #[test]
    fn the_index_is_never_zero() {
        let freshness = Freshness { consistency: Consistency::Stale, known_leader: false, last_contact_ms: 7 };
        let response = respond(not_found(""), 0, freshness);
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_string();
        assert_eq!(header("X-Consul-Index"), "1");
        assert_eq!(header("X-Consul-KnownLeader"), "false");
        assert_eq!(header("X-Consul-LastContact"), "7");
        assert_eq!(header("X-Consul-Effective-Consistency"), "stale");
    }
}
