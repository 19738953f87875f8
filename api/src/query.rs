//! Query strings: every parameter that Consul's endpoints share, with its refusals.

use crate::Error;
use http::HeaderMap;
use model::GoDuration;
use percent_encoding::percent_decode_str;
use std::time::Duration;

/// How long a blocking query waits if it does not say. (Consul: `default_query_time`.)
pub const WAIT_DEFAULT: Duration = Duration::from_secs(300);
/// The longest wait. (Consul: `max_query_time`.)
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// The server adds up to a sixteenth of the wait, so that not all clients come back at once.
pub const WAIT_JITTER_FRACTION: u32 = 16;

/// The parameters of a request, decoded, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// The parameters after the `?`. What is no valid escape stays as it is.
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query {
            pairs: pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value of a parameter that is neither absent nor empty.
    pub fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether it is there, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A number, or Consul's refusal in the form `Invalid <what>`.
    pub fn number(&self, key: &str, refusal: &str) -> Result<Option<u64>, Error> {
        self.get(key).map(|text| text.parse().map_err(|_| Error::bad_request(refusal))).transpose()
    }

    /// The datacenter to answer for; `datacenter` wins over `dc`.
    pub fn datacenter(&self) -> Option<&str> {
        self.non_empty("datacenter").or_else(|| self.non_empty("dc"))
    }
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// As the leader knows it.
    #[default]
    Default,
    /// As a quorum confirms it.
    Consistent,
    /// As any server knows it; the answer says how old it may be.
    Stale,
}

/// The parameters that all reads share. (Consul: `structs.QueryOptions`.)
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryOptions {
    /// Answer when the result's index is higher than this; 0 does not wait.
    pub index: u64,
    /// How long to wait, capped at [`WAIT_MAX`], before jitter. [`WAIT_DEFAULT`] if not said.
    pub wait: Duration,
    /// How fresh.
    pub consistency: Consistency,
    /// `leader` was asked for in so many words.
    pub leader: bool,
    /// With `stale`: how old the answer may be.
    pub max_stale: Option<Duration>,
    /// The agent's memory may answer.
    pub cached: bool,
    /// The datacenter to answer for.
    pub dc: Option<String>,
    /// The filter expression, not yet parsed.
    pub filter: Option<String>,
    /// Sort by the distance to this node.
    pub near: Option<String>,
    /// Only nodes with all of these labels.
    pub node_meta: Vec<(String, String)>,
    /// Only instances with all of these tags.
    pub tags: Vec<String>,
    /// Only passing instances.
    pub passing: bool,
    /// Only what was imported from this peer.
    pub peer: Option<String>,
    /// Answer when the content's hash is another.
    pub hash: Option<String>,
    /// Merge central configuration into the services.
    pub merge_central_config: bool,
    /// Indented JSON.
    pub pretty: bool,
}

impl QueryOptions {
    /// The options in a query string, or Consul's refusal (400).
    pub fn parse(query: &Query) -> Result<QueryOptions, Error> {
        refuse_tenancy(query)?;
        let max_stale = parse_max_stale(query)?;
        Ok(QueryOptions {
            index: query.number("index", "Invalid index")?.unwrap_or(0),
            wait: parse_wait(query)?,
            consistency: parse_consistency(query, max_stale)?,
            leader: query.has("leader"),
            max_stale,
            cached: query.has("cached"),
            dc: query.datacenter().map(str::to_string),
            filter: query.non_empty("filter").map(str::to_string),
            near: query.non_empty("near").map(str::to_string),
            node_meta: query.all("node-meta").map(parse_pair).collect(),
            tags: query.all("tag").map(str::to_string).collect(),
            passing: parse_passing(query)?,
            peer: query.non_empty("peer").map(str::to_string),
            hash: query.non_empty("hash").map(str::to_string),
            merge_central_config: query.has("merge-central-config"),
            pretty: query.has("pretty"),
        })
    }

    /// Whether it waits for a change of index.
    pub fn is_blocking(&self) -> bool {
        self.index > 0
    }
}

/// What `Cache-Control` asks for, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// The oldest answer that is welcome.
    pub max_age_s: Option<u64>,
    /// How much older it may be if no server answers.
    pub stale_if_error_s: Option<u64>,
    /// Ask a server whatever is in memory.
    pub must_revalidate: bool,
}

impl CacheControl {
    /// What the headers say, or Consul's refusal.
    pub fn parse(headers: &HeaderMap) -> Result<CacheControl, Error> {
        let refusal = || Error::bad_request("Invalid Cache-Control header.");
        let mut control = CacheControl::default();
        for value in headers.get_all(http::header::CACHE_CONTROL) {
            for part in value.to_str().map_err(|_| refusal())?.split(',') {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                let seconds = || value.trim().parse().map_err(|_| refusal());
                match key.trim().to_ascii_lowercase().as_str() {
                    "must-revalidate" => control.must_revalidate = true,
                    "max-age" => control.max_age_s = Some(seconds()?),
                    "stale-if-error" => control.stale_if_error_s = Some(seconds()?),
                    _ => {}
                }
            }
        }
        Ok(control)
    }
}

/// Refuses tenancy headers other than `default`. (Consul OSS: `parseEntMeta`.)
pub fn refuse_tenancy_headers(headers: &HeaderMap) -> Result<(), Error> {
    for (name, feature) in [("X-Consul-Namespace", "Namespaces are"), ("X-Consul-Partition", "Partitions are")] {
        if headers.get(name).is_some_and(|value| !value.is_empty() && value != "default") {
            return Err(Error::bad_request(format!(
                "Invalid header: \"{name}\" - {feature} a Consul Enterprise feature"
            )));
        }
    }
    Ok(())
}

fn refuse_tenancy(query: &Query) -> Result<(), Error> {
    for (key, feature) in [("ns", "Namespaces are"), ("partition", "Partitions are")] {
        if query.non_empty(key).is_some_and(|value| value != "default") {
            return Err(Error::bad_request(format!(
                "Invalid query parameter: \"{key}\" - {feature} a Consul Enterprise feature"
            )));
        }
    }
    Ok(())
}

fn parse_wait(query: &Query) -> Result<Duration, Error> {
    let Some(text) = query.non_empty("wait") else {
        return Ok(WAIT_DEFAULT);
    };
    let wait: GoDuration = text.parse().map_err(|_| Error::bad_request("Invalid wait time"))?;
    // Consul reads 0 as "not said".
    Ok(if wait.is_zero() { WAIT_DEFAULT } else { wait.0.min(WAIT_MAX) })
}

fn parse_max_stale(query: &Query) -> Result<Option<Duration>, Error> {
    let Some(text) = query.non_empty("max_stale") else {
        return Ok(None);
    };
    let max: GoDuration = text.parse().map_err(|_| Error::bad_request(format!("Invalid max_stale value {text:?}")))?;
    Ok(Some(max.0))
}

fn parse_consistency(query: &Query, max_stale: Option<Duration>) -> Result<Consistency, Error> {
    let conflict =
        |with: &str| Error::bad_request(format!("Cannot specify ?{with} with ?consistent, conflicting semantics."));
    let stale = query.has("stale") || max_stale.is_some_and(|max| !max.is_zero());
    match (stale, query.has("consistent")) {
        (true, true) => Err(conflict("stale")),
        (false, true) if query.has("cached") => Err(conflict("cached")),
        (false, true) => Ok(Consistency::Consistent),
        (true, false) => Ok(Consistency::Stale),
        (false, false) => Ok(Consistency::Default),
    }
}

/// Bare `?passing` and `?passing=` mean true. (Go: `strconv.ParseBool`.)
fn parse_passing(query: &Query) -> Result<bool, Error> {
    match query.get("passing") {
        None => Ok(false),
        Some("") => Ok(true),
        Some(text) => parse_bool(text).ok_or_else(|| Error::bad_request("Invalid value for ?passing")),
    }
}

/// A boolean as Go reads it. (Go: `strconv.ParseBool`.)
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

fn parse_pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once(':').unwrap_or((text, ""));
    (key.to_string(), value.to_string())
}

fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_string();
    }
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn options(text: &str) -> Result<QueryOptions, Error> {
        QueryOptions::parse(&Query::parse(text))
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("a=b+c&d=%41%2B&d=2&e&=x&&f=");
        assert_eq!(query.get("a"), Some("b c"));
        assert_eq!(query.all("d").collect::<Vec<_>>(), ["A+", "2"]);
        assert!(query.has("e") && !query.has("g") && query.has("f"));
        assert_eq!(query.non_empty("f"), None);
    }

    #[test]
    fn refusals_are_consuls() {
        let cases = [
            ("index=x", "Invalid index"),
            ("index=-1", "Invalid index"),
            ("index=1&wait=x", "Invalid wait time"),
            ("wait=10", "Invalid wait time"),
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("max_stale=1s&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics."),
            ("max_stale=x", "Invalid max_stale value \"x\""),
            ("passing=maybe", "Invalid value for ?passing"),
            ("ns=a", "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature"),
            ("partition=a", "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise feature"),
        ];
        for (text, refusal) in cases {
            let error = options(text).expect_err(text);
            assert_eq!((error.status.as_u16(), error.text.as_str()), (400, refusal), "{text}");
        }
    }

    #[test]
    fn options_are_read() {
        let all = options("index=7&wait=10s&stale&dc=dc2&filter=a%20%3D%3D%20b&near=_agent&node-meta=k:v&node-meta=x&tag=a&tag=b&passing&pretty")
            .expect("good");
        assert_eq!((all.index, all.wait, all.consistency), (7, Duration::from_secs(10), Consistency::Stale));
        assert_eq!(all.dc.as_deref(), Some("dc2"));
        assert_eq!(all.filter.as_deref(), Some("a == b"));
        assert_eq!(all.node_meta, [("k".into(), "v".into()), ("x".into(), String::new())]);
        assert_eq!(all.tags, ["a", "b"]);
        assert!(all.passing && all.pretty && all.is_blocking() && !all.cached);
    }

    #[test]
    fn defaults_and_caps() {
        for (text, wait_s) in [("", 300), ("wait=0s", 300), ("wait=1h", 600), ("wait=1m", 60), ("wait=", 300)] {
            assert_eq!(options(text).expect(text).wait.as_secs(), wait_s, "{text}");
        }
        assert_eq!(options("ns=default&partition=").expect("default tenancy").consistency, Consistency::Default);
        assert_eq!(options("max_stale=0s").expect("none").consistency, Consistency::Default);
        assert_eq!(options("datacenter=b&dc=a").expect("both").dc.as_deref(), Some("b"));
        for (text, passing) in
            [("passing", true), ("passing=", true), ("passing=1", true), ("passing=false", false), ("", false)]
        {
            assert_eq!(options(text).expect(text).passing, passing, "{text}");
        }
    }

    #[test]
    fn cache_control_is_read_from_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(CacheControl::parse(&headers), Ok(CacheControl::default()));
        headers
            .insert("cache-control", HeaderValue::from_static("max-age=30, must-revalidate, stale-if-error=60, other"));
        let control = CacheControl { max_age_s: Some(30), stale_if_error_s: Some(60), must_revalidate: true };
        assert_eq!(CacheControl::parse(&headers), Ok(control));
        headers.insert("cache-control", HeaderValue::from_static("max-age=x"));
        assert_eq!(CacheControl::parse(&headers).expect_err("refused").text, "Invalid Cache-Control header.");
    }

    #[test]
    fn tenancy_headers_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("x-consul-namespace", HeaderValue::from_static("default"));
        assert_eq!(refuse_tenancy_headers(&headers), Ok(()));
        headers.insert("x-consul-namespace", HeaderValue::from_static("a"));
        let refusal = "Invalid header: \"X-Consul-Namespace\" - Namespaces are a Consul Enterprise feature";
        assert_eq!(refuse_tenancy_headers(&headers).expect_err("refused").text, refusal);
    }
}
