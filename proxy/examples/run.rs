//! Runs a sidecar or a gateway from a file, without servers: `run FILE [THREADS]`. Used by the benchmark kit.

use proxy::{ConfigSource, Gateway, Options, Sidecar};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: run FILE [THREADS]; FILE is a ProxyConfig in JSON with CertFile, KeyFile and RootFiles");
        return ExitCode::from(2);
    };
    let threads = arguments.next().and_then(|threads| threads.parse().ok()).unwrap_or(1);
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match proxy::runtime(threads) {
        Ok(runtime) => runtime.block_on(run(path)),
        Err(error) => {
            eprintln!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(path: String) -> ExitCode {
    let is_gateway = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice::<model::ProxyConfig>(&text).ok())
        .is_some_and(|config| config.gateway.is_some());
    let options = Options { source: ConfigSource::File(path.into()) };
    let handle = if is_gateway { Gateway::start(options) } else { Sidecar::start(options) };
    if let Err(error) = handle.ready().await {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    println!("ready");
    let _ = tokio::signal::ctrl_c().await;
    println!("{}", serde_json::to_string(&handle.metrics()).unwrap_or_default());
    handle.shutdown(Duration::from_secs(1)).await;
    ExitCode::SUCCESS
}
