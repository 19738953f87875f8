//! Every key of Consul's configuration: what it does here, or why it does nothing.

use super::file::ConfigError;
use serde_json::Value;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Use {
    /// Read by [`super::Settings`].
    Used,
    /// An object whose keys are checked one by one.
    Group,
    /// Read, and not looked into further: free-form.
    Free,
    /// Read so that it can be refused: ignoring it would weaken security.
    Refused(&'static str),
    /// Known, and of no use here; the reason.
    Ignored(&'static str),
}
use Use::{Free, Group, Ignored, Refused, Used};

const GOSSIP: &str = "there is no gossip: agents hold one stream to a server";
const ALWAYS_TLS: &str = "traffic between nodes is always mutual TLS";
const NO_UI: &str = "there is no web interface yet";
const NO_TELEMETRY: &str = "no telemetry sinks yet: scrape /v1/agent/metrics";
const ENTERPRISE: &str = "an Enterprise setting without a counterpart here";
const AUTOMATIC: &str = "done without a setting";
const NOT_YET: &str = "not supported yet";

/// Key path → use. Paths are relative to the file's root; `*` stands for any one key.
const KEYS: &[(&str, Use)] = &[
    ("addresses", Group),
    ("addresses.dns", Used),
    ("addresses.grpc", Used),
    ("addresses.grpc_tls", Ignored(NOT_YET)),
    ("addresses.http", Used),
    ("addresses.https", Ignored(NOT_YET)),
    ("acl", Group),
    ("acl.enabled", Refused("`true` is an error: access control lists are not supported yet")),
    ("acl.default_policy", Refused("`deny` is an error: access control lists are not supported yet")),
    ("acl.down_policy", Ignored(NOT_YET)),
    ("acl.enable_key_list_policy", Ignored(NOT_YET)),
    ("acl.enable_token_persistence", Ignored(NOT_YET)),
    ("acl.enable_token_replication", Ignored(NOT_YET)),
    ("acl.policy_ttl", Ignored(NOT_YET)),
    ("acl.role_ttl", Ignored(NOT_YET)),
    ("acl.token_ttl", Ignored(NOT_YET)),
    ("acl.tokens", Ignored(NOT_YET)),
    ("advertise_addr", Used),
    ("advertise_addr_ipv4", Ignored(NOT_YET)),
    ("advertise_addr_ipv6", Ignored(NOT_YET)),
    ("advertise_addr_wan", Used),
    ("advertise_reconnect_timeout", Ignored(NOT_YET)),
    ("alt_domain", Used),
    ("audit", Ignored(ENTERPRISE)),
    ("auto_config", Ignored(NOT_YET)),
    ("auto_encrypt", Ignored(AUTOMATIC)),
    ("auto_reload_config", Ignored(NOT_YET)),
    ("autopilot", Ignored(NOT_YET)),
    ("bind_addr", Used),
    ("bootstrap", Used),
    ("bootstrap_expect", Used),
    ("ca_file", Ignored(ALWAYS_TLS)),
    ("ca_path", Ignored(ALWAYS_TLS)),
    ("cache", Ignored(AUTOMATIC)),
    ("cert_file", Ignored(ALWAYS_TLS)),
    ("check", Free),
    ("check_output_max_size", Ignored("always 4096 bytes")),
    ("check_update_interval", Used),
    ("checks", Free),
    ("client_addr", Used),
    ("cloud", Ignored(ENTERPRISE)),
    ("config_entries", Group),
    ("config_entries.bootstrap", Free),
    ("connect", Group),
    ("connect.enabled", Ignored("the mesh is always on")),
    ("connect.ca_provider", Ignored("the built-in CA is the only one")),
    ("connect.ca_config", Ignored("the built-in CA has its own defaults")),
    ("connect.enable_mesh_gateway_wan_federation", Ignored(NOT_YET)),
    ("data_dir", Used),
    ("datacenter", Used),
    ("default_intention_policy", Used),
    ("default_query_time", Ignored(NOT_YET)),
    ("disable_anonymous_signature", Ignored("nothing calls home")),
    ("disable_coordinates", Ignored(NOT_YET)),
    ("disable_host_node_id", Ignored("node ids are random")),
    ("disable_http_unprintable_char_filter", Ignored(NOT_YET)),
    ("disable_keyring_file", Ignored(GOSSIP)),
    ("disable_remote_exec", Ignored("there is no remote exec")),
    ("disable_update_check", Ignored("nothing calls home")),
    ("discard_check_output", Ignored(NOT_YET)),
    ("discovery_max_stale", Ignored(NOT_YET)),
    ("dns_config", Group),
    ("dns_config.a_record_limit", Used),
    ("dns_config.allow_stale", Ignored("answers come from this node's memory")),
    ("dns_config.cache_max_age", Ignored(AUTOMATIC)),
    ("dns_config.disable_compression", Ignored("answers are always compressed")),
    ("dns_config.enable_additional_node_meta_txt", Used),
    ("dns_config.enable_truncate", Used),
    ("dns_config.max_stale", Ignored("answers come from this node's memory")),
    ("dns_config.node_ttl", Used),
    ("dns_config.only_passing", Used),
    ("dns_config.prefer_namespace", Ignored(ENTERPRISE)),
    ("dns_config.recursor_strategy", Ignored("recursors are asked in order")),
    ("dns_config.recursor_timeout", Used),
    ("dns_config.service_ttl", Free),
    ("dns_config.soa", Group),
    ("dns_config.soa.expire", Used),
    ("dns_config.soa.min_ttl", Used),
    ("dns_config.soa.refresh", Used),
    ("dns_config.soa.retry", Used),
    ("dns_config.udp_answer_limit", Used),
    ("dns_config.use_cache", Ignored(AUTOMATIC)),
    ("domain", Used),
    ("enable_agent_tls_for_checks", Ignored(NOT_YET)),
    ("enable_central_service_config", Ignored(AUTOMATIC)),
    ("enable_debug", Ignored(NOT_YET)),
    ("enable_local_script_checks", Used),
    ("enable_script_checks", Used),
    ("enable_syslog", Ignored("log to standard error and let the supervisor keep it")),
    ("encrypt", Used),
    ("encrypt_verify_incoming", Ignored(GOSSIP)),
    ("encrypt_verify_outgoing", Ignored(GOSSIP)),
    ("experiments", Ignored(NOT_YET)),
    ("gossip_lan", Ignored(GOSSIP)),
    ("gossip_wan", Ignored(GOSSIP)),
    ("http_config", Ignored(NOT_YET)),
    ("key_file", Ignored(ALWAYS_TLS)),
    ("leave_on_terminate", Used),
    ("license_path", Ignored(ENTERPRISE)),
    ("limits", Group),
    ("limits.http_max_conns_per_client", Used),
    ("limits.https_handshake_timeout", Ignored(NOT_YET)),
    ("limits.kv_max_value_size", Ignored("always 512 KiB")),
    ("limits.request_limits", Ignored(NOT_YET)),
    ("limits.rpc_client_timeout", Ignored(NOT_YET)),
    ("limits.rpc_handshake_timeout", Ignored("always 5 s")),
    ("limits.rpc_max_burst", Ignored(NOT_YET)),
    ("limits.rpc_max_conns_per_client", Ignored(NOT_YET)),
    ("limits.rpc_rate", Ignored(NOT_YET)),
    ("limits.txn_max_req_len", Ignored("always 512 KiB")),
    ("locality", Ignored(NOT_YET)),
    ("log_file", Ignored("log to standard error and let the supervisor keep it")),
    ("log_json", Used),
    ("log_level", Used),
    ("log_rotate_bytes", Ignored("log to standard error and let the supervisor keep it")),
    ("log_rotate_duration", Ignored("log to standard error and let the supervisor keep it")),
    ("log_rotate_max_files", Ignored("log to standard error and let the supervisor keep it")),
    ("max_query_time", Ignored("always 600 s")),
    ("node_id", Used),
    ("node_meta", Free),
    ("node_name", Used),
    ("non_voting_server", Ignored(ENTERPRISE)),
    ("peering", Ignored(NOT_YET)),
    ("performance", Group),
    ("performance.grpc_keepalive_interval", Ignored(NOT_YET)),
    ("performance.grpc_keepalive_timeout", Ignored(NOT_YET)),
    ("performance.leave_drain_time", Ignored(NOT_YET)),
    ("performance.raft_multiplier", Ignored("election timing fits any machine; see docs/operations.md")),
    ("performance.rpc_hold_timeout", Ignored("always 7 s")),
    ("pid_file", Used),
    ("ports", Group),
    ("ports.dns", Used),
    ("ports.expose_max_port", Ignored(NOT_YET)),
    ("ports.expose_min_port", Ignored(NOT_YET)),
    ("ports.grpc", Used),
    ("ports.grpc_tls", Ignored("proxies of this machine use the loopback gRPC port")),
    ("ports.http", Used),
    ("ports.https", Refused("a port is an error: HTTPS for clients is not supported yet")),
    ("ports.serf_lan", Ignored(GOSSIP)),
    ("ports.serf_wan", Ignored(GOSSIP)),
    ("ports.server", Used),
    ("ports.sidecar_max_port", Used),
    ("ports.sidecar_min_port", Used),
    ("primary_datacenter", Used),
    ("primary_gateways", Ignored(NOT_YET)),
    ("primary_gateways_interval", Ignored(NOT_YET)),
    ("protocol", Ignored(GOSSIP)),
    ("raft_boltdb", Ignored("the log has a format of its own")),
    ("raft_logstore", Ignored("the log has a format of its own")),
    ("raft_protocol", Ignored("there is one Raft protocol")),
    ("raft_snapshot_interval", Ignored(AUTOMATIC)),
    ("raft_snapshot_threshold", Used),
    ("raft_trailing_logs", Used),
    ("read_replica", Ignored(ENTERPRISE)),
    ("reconnect_timeout", Ignored("failed nodes are removed after 72 h")),
    ("reconnect_timeout_wan", Ignored("failed nodes are removed after 72 h")),
    ("recursors", Used),
    ("rejoin_after_leave", Ignored(AUTOMATIC)),
    ("reporting", Ignored("nothing calls home")),
    ("retry_interval", Ignored("backs off by itself, with jitter")),
    ("retry_interval_wan", Ignored("backs off by itself, with jitter")),
    ("retry_join", Used),
    ("retry_join_wan", Used),
    ("retry_max", Ignored("joining is tried until it succeeds")),
    ("retry_max_wan", Ignored("joining is tried until it succeeds")),
    ("rpc", Ignored(NOT_YET)),
    ("segment", Ignored(ENTERPRISE)),
    ("segments", Ignored(ENTERPRISE)),
    ("serf_lan", Ignored(GOSSIP)),
    ("serf_lan_allowed_cidrs", Ignored(GOSSIP)),
    ("serf_wan", Ignored(GOSSIP)),
    ("serf_wan_allowed_cidrs", Ignored(GOSSIP)),
    ("server", Used),
    ("server_rejoin_age_max", Ignored(NOT_YET)),
    ("service", Free),
    ("services", Free),
    ("session_ttl_min", Used),
    ("skip_leave_on_interrupt", Used),
    ("start_join", Used),
    ("start_join_wan", Used),
    ("static_runtime", Ignored(ENTERPRISE)),
    ("syslog_facility", Ignored("log to standard error and let the supervisor keep it")),
    ("tagged_addresses", Free),
    ("telemetry", Ignored(NO_TELEMETRY)),
    ("tls", Ignored(ALWAYS_TLS)),
    ("tls_cipher_suites", Ignored(ALWAYS_TLS)),
    ("tls_min_version", Ignored(ALWAYS_TLS)),
    ("translate_wan_addrs", Ignored(NOT_YET)),
    ("ui", Ignored(NO_UI)),
    ("ui_config", Ignored(NO_UI)),
    ("ui_content_path", Ignored(NO_UI)),
    ("ui_dir", Ignored(NO_UI)),
    ("unix_sockets", Ignored(NOT_YET)),
    ("use_streaming_backend", Ignored(AUTOMATIC)),
    ("verify_incoming", Ignored(ALWAYS_TLS)),
    ("verify_incoming_https", Ignored(ALWAYS_TLS)),
    ("verify_incoming_rpc", Ignored(ALWAYS_TLS)),
    ("verify_outgoing", Ignored(ALWAYS_TLS)),
    ("verify_server_hostname", Ignored(ALWAYS_TLS)),
    ("watches", Ignored("run `tribune watch` beside the agent")),
    ("xds", Ignored("there is no Envoy to configure")),
];

/// Checks every key of one document, takes the ignored ones out, and notes them with their reasons.
///
/// # Errors
/// A key that nobody knows, with the nearest one that somebody does.
pub(super) fn check(origin: &str, value: &mut Value, ignored: &mut Vec<String>) -> Result<(), ConfigError> {
    check_group(origin, "", value, ignored)
}

fn check_group(origin: &str, prefix: &str, value: &mut Value, ignored: &mut Vec<String>) -> Result<(), ConfigError> {
    unwrap_single(value);
    let Value::Object(map) = value else {
        let key = if prefix.is_empty() { origin } else { prefix };
        return Err(ConfigError::Value {
            key: key.to_string(),
            message: "must be an object of keys and values".into(),
        });
    };
    for key in map.keys().cloned().collect::<Vec<_>>() {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match find(&path) {
            Some(Used | Free | Refused(_)) => {}
            Some(Group) => {
                if let Some(inner) = map.get_mut(&key) {
                    check_group(origin, &path, inner, ignored)?;
                }
            }
            Some(Ignored(reason)) => {
                map.remove(&key);
                ignored.push(format!("{path} ({reason})"));
            }
            None => {
                return Err(ConfigError::UnknownKey {
                    origin: origin.to_string(),
                    suggestion: nearest(&path),
                    key: path,
                });
            }
        }
    }
    Ok(())
}

/// HCL reads `ports { … }` written twice, or Consul's older form, as a list of one object.
fn unwrap_single(value: &mut Value) {
    if let Value::Array(items) = value
        && items.len() == 1
        && items[0].is_object()
    {
        *value = items.remove(0);
    }
}

fn find(path: &str) -> Option<Use> {
    KEYS.iter().find(|(key, _)| *key == path).map(|(_, what)| *what)
}

/// The known key that is nearest to a misspelt one, if any is near.
fn nearest(path: &str) -> Option<String> {
    let near = KEYS.iter().map(|(key, _)| (distance(path, key), *key)).min()?;
    (near.0 <= 3.max(path.len() / 4)).then(|| near.1.to_string())
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table for operators, made from the list above.
    fn table() -> String {
        let mut text = String::from(
            "# Configuration keys\n\nMade from `cli/src/config/keys.rs`; `UPDATE_EXPECT=1 cargo test -p tribune` writes it anew.\n\n| key | here |\n|---|---|\n",
        );
        for (key, what) in KEYS {
            let what = match what {
                Used | Free => "works as in Consul".to_string(),
                Group => continue,
                Refused(reason) => reason.to_string(),
                Ignored(reason) => format!("accepted, no effect: {reason}"),
            };
            text.push_str(&format!("| `{key}` | {what} |\n"));
        }
        text
    }

    #[test]
    fn the_table_for_operators_is_true() {
        expect_test::expect_file!["../../../docs/configuration-keys.md"].assert_eq(&table());
    }

    #[test]
    fn every_key_is_listed_once_under_a_group() {
        for (i, (key, _)) in KEYS.iter().enumerate() {
            assert!(KEYS[i + 1..].iter().all(|(other, _)| other != key), "{key} is listed twice");
            if let Some((group, _)) = key.rsplit_once('.') {
                assert_eq!(find(group), Some(Group), "{key}");
            }
        }
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, want) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("datacentre", "datacenter", 2),
            ("ports", "ports", 0),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}
