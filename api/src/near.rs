//! The node that the client asked, where a request means it: `near=_agent`, and a session that does not say where it lives.

use crate::client::segment;
use crate::query::Query;
use http::Uri;
use http::uri::PathAndQuery;

/// What a client writes for the node of the agent that it asks.
pub const AGENT: &str = "_agent";

/// The parameter that names the node that was asked for a session, which lives there if it does not say where.
pub const ASKED: &str = "asked-node";
const SESSION_CREATE: &str = "/v1/session/create";

/// Puts the node's name where a request that is handed on means the node that was asked: elsewhere that would mean another.
pub fn name_agent(uri: &mut Uri, node: &str) {
    // Most requests do not mean it and must not pay for it.
    let query = uri.query().unwrap_or_default();
    let is_near = query.contains("near=");
    let is_session = uri.path() == SESSION_CREATE && Query::parse(query).get(ASKED).is_none();
    if !is_near && !is_session {
        return;
    }
    let named = |pair: &str| match Query::parse(pair).get("near") {
        Some(AGENT) => format!("near={}", segment(node)),
        Some(_) | None => pair.to_string(),
    };
    let asked = is_session.then(|| format!("{ASKED}={}", segment(node)));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(named).chain(asked);
    let query = pairs.collect::<Vec<_>>().join("&");
    let mut parts = uri.clone().into_parts();
    let target = format!("{}?{query}", uri.path());
    let Ok(target) = target.parse::<PathAndQuery>() else { return };
    parts.path_and_query = Some(target);
    if let Ok(changed) = Uri::from_parts(parts) {
        *uri = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_named_and_nothing_else_is_touched() {
        for (given, want) in [
            ("/v1/catalog/nodes?near=_agent", "/v1/catalog/nodes?near=n%2F1"),
            ("/v1/kv/a%2Fb?dc=dc2&near=%5Fagent&pretty", "/v1/kv/a%2Fb?dc=dc2&near=n%2F1&pretty"),
            ("http://s1:8300/v1/catalog/nodes?near=_agent", "http://s1:8300/v1/catalog/nodes?near=n%2F1"),
            ("/v1/catalog/nodes?near=n2&filter=a%20==%20b", "/v1/catalog/nodes?near=n2&filter=a%20==%20b"),
            ("/v1/catalog/nodes?linear=_agent", "/v1/catalog/nodes?linear=_agent"),
            ("/v1/catalog/nodes", "/v1/catalog/nodes"),
            ("/v1/session/create", "/v1/session/create?asked-node=n%2F1"),
            ("/v1/session/create?dc=dc2", "/v1/session/create?dc=dc2&asked-node=n%2F1"),
            ("/v1/session/create?asked-node=n2", "/v1/session/create?asked-node=n2"),
            ("/v1/session/list", "/v1/session/list"),
        ] {
            let mut uri: Uri = given.parse().expect("a URI");
            name_agent(&mut uri, "n/1");
            assert_eq!(uri.to_string(), want, "{given}");
        }
    }
}
