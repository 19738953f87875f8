//! `near=_agent`: the node that the client asked.

use crate::client::segment;
use crate::query::Query;
use http::Uri;
use http::uri::PathAndQuery;

/// What a client writes for the node of the agent that it asks.
pub const AGENT: &str = "_agent";

/// Puts the node's name where a request that is handed on says `near=_agent`: elsewhere that would mean another node.
pub fn name_agent(uri: &mut Uri, node: &str) {
    // Most requests do not ask for it and must not pay for it.
    let Some(query) = uri.query().filter(|query| query.contains("near=")) else { return };
    let named = |pair: &str| match Query::parse(pair).get("near") {
        Some(AGENT) => format!("near={}", segment(node)),
        Some(_) | None => pair.to_string(),
    };
    let query = query.split('&').map(named).collect::<Vec<_>>().join("&");
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
        ] {
            let mut uri: Uri = given.parse().expect("a URI");
            name_agent(&mut uri, "n/1");
            assert_eq!(uri.to_string(), want, "{given}");
        }
    }
}
