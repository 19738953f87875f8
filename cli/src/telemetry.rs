//! Logs: to standard error, as text or JSON, at the level that the operator asked for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Starts logging. `level` is Consul's: trace, debug, info, warn, error. `RUST_LOG` wins where it is set.
pub(crate) fn start(level: &str, json: bool) {
    let level = match level.to_ascii_lowercase().as_str() {
        "warning" => "warn".to_string(),
        "err" => "error".to_string(),
        known @ ("trace" | "debug" | "info" | "warn" | "error" | "off") => known.to_string(),
        _ => "info".to_string(),
    };
    // The libraries' own words are of use to their developers; from `debug` on the operator asked for them.
    let quiet = if matches!(level.as_str(), "trace" | "debug") { level.clone() } else { "error".to_string() };
    let ours = ["tribune", "agent", "server", "proxy", "raft", "dns", "identity", "api", "store"];
    let directives = ours.iter().fold(quiet, |all, name| format!("{all},{name}={level}"));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    // A second start (tests) leaves the first in place.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
