//! `tribune services register|deregister`.

use super::client::{Agent, ClientArgs, escape};
use super::{Failure, Outcome};
use crate::config::{Source, load};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Register and deregister services with the agent of this machine.
///
///   tribune services register web.hcl
///   tribune services register -name=web -port=8080 -tag=v1
///   tribune services deregister -id=web
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ServicesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Register services from files, or one from flags.
    Register(Box<Register>),
    /// Deregister services named in files, or one by id.
    Deregister {
        /// Files (.json, .hcl) with `service` or `services`.
        files: Vec<PathBuf>,
        /// The instance's id.
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Debug, Args)]
struct Register {
    /// Files (.json, .hcl) with `service` or `services`.
    files: Vec<PathBuf>,
    /// The service's name.
    #[arg(long)]
    name: Option<String>,
    /// The instance's id; the name if absent.
    #[arg(long)]
    id: Option<String>,
    /// Where it is reached; the node's address if absent.
    #[arg(long)]
    address: Option<String>,
    /// Its port.
    #[arg(long)]
    port: Option<u16>,
    /// A tag; may be given several times.
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// key=value metadata; may be given several times.
    #[arg(long = "meta")]
    meta: Vec<String>,
    /// connect-proxy, mesh-gateway…
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: ServicesArgs) -> Outcome {
    match args.what {
        What::Register(register) => {
            let agent = Agent::connect(&register.client)?;
            for service in register.definitions()? {
                let name = service["name"].as_str().or(service["Name"].as_str()).unwrap_or_default().to_string();
                agent.put("/v1/agent/service/register", service.to_string().into_bytes()).await?;
                println!("Registered service: {name}");
            }
        }
        What::Deregister { files, id, client } => {
            let agent = Agent::connect(&client)?;
            for id in ids(&files, id)? {
                agent.put(&format!("/v1/agent/service/deregister/{}", escape(&id)), Vec::new()).await?;
                println!("Deregistered service: {id}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Register {
    fn definitions(&self) -> Result<Vec<Value>, Failure> {
        match (&self.name, self.files.is_empty()) {
            (None, false) => from_files(&self.files),
            (Some(name), true) => Ok(vec![self.of_flags(name)?]),
            _ => Err(Failure::Other("give files, or -name and its flags: not both, not neither".into())),
        }
    }

    fn of_flags(&self, name: &str) -> Result<Value, Failure> {
        let mut service = Map::from_iter([("Name".to_string(), json!(name))]);
        let mut set = |key: &str, value: Option<Value>| value.map(|value| service.insert(key.to_string(), value));
        set("ID", self.id.as_ref().map(|id| json!(id)));
        set("Address", self.address.as_ref().map(|address| json!(address)));
        set("Port", self.port.map(|port| json!(port)));
        set("Kind", self.kind.as_ref().map(|kind| json!(kind)));
        set("Tags", Some(json!(self.tags)));
        let mut meta = Map::new();
        for pair in &self.meta {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| Failure::Other(format!("-meta={pair}: write key=value")))?;
            meta.insert(key.to_string(), json!(value));
        }
        set("Meta", Some(Value::Object(meta)));
        Ok(Value::Object(service))
    }
}

fn from_files(files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    let sources: Vec<Source> = files.iter().cloned().map(Source::File).collect();
    let settings = load(&sources)?.settings;
    let services: Vec<Value> = settings.service.into_iter().chain(settings.services).collect();
    if services.is_empty() {
        return Err(Failure::Other("the files have no `service` and no `services`".into()));
    }
    Ok(services)
}

fn ids(files: &[PathBuf], id: Option<String>) -> Result<Vec<String>, Failure> {
    match (id, files.is_empty()) {
        (Some(id), true) => Ok(vec![id]),
        (None, false) => {
            let id_of = |service: &Value| {
                ["id", "ID", "name", "Name"].iter().find_map(|key| service[*key].as_str()).map(str::to_string)
            };
            Ok(from_files(files)?.iter().filter_map(id_of).collect())
        }
        _ => Err(Failure::Other("give files, or -id: not both, not neither".into())),
    }
}
