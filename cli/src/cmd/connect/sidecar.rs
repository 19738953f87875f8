//! `tribune connect proxy`: the sidecar of a service.

use super::{ProxyArgs, node_name, run_proxy};
use crate::cmd::client::Agent;
use crate::cmd::{Failure, Outcome};
use clap::Args;
use proxy::{ConfigSource, Options, Sidecar};
use serde_json::Value;

/// Run the sidecar of a service that is registered with this machine's agent.
///
/// Calls from the mesh come in by mutual TLS and go to the application if intentions allow; the application calls other services on
/// the local ports of its upstreams.
///
///   tribune connect proxy -sidecar-for=web-1
///   tribune connect proxy -config-file=web.json        without servers, to try things out
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct SidecarArgs {
    /// The instance id of the service.
    #[arg(long, required_unless_present_any = ["proxy_id", "config_file"])]
    sidecar_for: Option<String>,
    /// The instance id of the sidecar itself, if a service has several.
    #[arg(long)]
    proxy_id: Option<String>,
    #[command(flatten)]
    proxy: ProxyArgs,
}

pub(super) fn run(args: SidecarArgs) -> Outcome {
    run_proxy(&args.proxy, "sidecar", source(&args), |source| Sidecar::start(Options { source }))
}

async fn source(args: &SidecarArgs) -> Result<(ConfigSource, String), Failure> {
    if let Some(path) = &args.proxy.config_file {
        return Ok((ConfigSource::File(path.clone()), path.display().to_string()));
    }
    let agent = Agent::connect(&args.proxy.client)?;
    let proxy_id = match (&args.proxy_id, &args.sidecar_for) {
        (Some(id), _) => id.clone(),
        (None, Some(service)) => sidecar_of(&agent.get("/v1/agent/services").await?, service)?,
        (None, None) => return Err(Failure::Other("give -sidecar-for, -proxy-id or -config-file".into())),
    };
    let node = node_name(&agent).await?;
    Ok((ConfigSource::Control { agent: args.proxy.grpc_addr.clone(), proxy_id: proxy_id.clone(), node }, proxy_id))
}

/// The one sidecar that is registered for an instance.
fn sidecar_of(services: &Value, instance: &str) -> Result<String, Failure> {
    let is_sidecar = |s: &Value| s["Kind"] == "connect-proxy" && s["Proxy"]["DestinationServiceID"] == instance;
    let found: Vec<&String> =
        services.as_object().into_iter().flatten().filter(|(_, s)| is_sidecar(s)).map(|(id, _)| id).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Other(format!(
            "no sidecar is registered for {instance}: register the service with `connect {{ sidecar_service {{}} }}`, and give its instance id"
        ))),
        _ => Err(Failure::Other(format!("{instance} has several sidecars: name one with -proxy-id"))),
    }
}

#[cfg(test)]
mod tests {
    use super::sidecar_of;
    use serde_json::json;

    #[test]
    fn the_sidecar_is_found_by_the_instance_that_it_stands_for() {
        let sidecar = |of: &str| json!({"Kind": "connect-proxy", "Proxy": {"DestinationServiceID": of}});
        let services =
            json!({"web": {"Service": "web"}, "web-p": sidecar("web"), "a1": sidecar("db"), "a2": sidecar("db")});
        assert_eq!(sidecar_of(&services, "web").expect("one"), "web-p");
        assert!(sidecar_of(&services, "db").expect_err("two").to_string().contains("-proxy-id"));
        assert!(sidecar_of(&services, "x").expect_err("none").to_string().contains("sidecar_service"));
    }
}
