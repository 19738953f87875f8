//! `tribune config read|write|list|delete`.

use super::client::{Agent, ClientArgs, escape};
use super::{Failure, Outcome, read_argument};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::process::ExitCode;

/// Read and write config entries (`service-defaults`, `proxy-defaults`).
///
///   tribune config write web-defaults.hcl
///   tribune config read -kind=service-defaults -name=web
///   tribune config list -kind=service-defaults
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print an entry.
    Read {
        /// service-defaults or proxy-defaults.
        #[arg(long)]
        kind: String,
        /// The entry's name.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Write an entry from a file (.hcl or .json), or - for JSON or HCL on standard input.
    Write {
        /// The file.
        file: String,
        /// Only if the entry's ModifyIndex is -modify-index (0: only if absent).
        #[arg(long)]
        cas: bool,
        /// See -cas.
        #[arg(long, default_value_t = 0)]
        modify_index: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// The names of the entries of a kind.
    List {
        /// service-defaults or proxy-defaults.
        #[arg(long)]
        kind: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove an entry.
    Delete {
        /// service-defaults or proxy-defaults.
        #[arg(long)]
        kind: String,
        /// The entry's name.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(args: ConfigArgs) -> Outcome {
    match args.what {
        What::Read { kind, name, client } => {
            let found = Agent::connect(&client)?.get(&path(&kind, &name)).await?;
            println!("{}", serde_json::to_string_pretty(&found).map_err(|e| Failure::Other(e.to_string()))?);
        }
        What::Write { file, cas, modify_index, client } => {
            let entry = parse(&file)?;
            let label = format!("{}/{}", word(&entry, "Kind"), word(&entry, "Name"));
            let query = if cas { format!("?cas={modify_index}") } else { String::new() };
            let written =
                Agent::connect(&client)?.put(&format!("/v1/config{query}"), entry.to_string().into_bytes()).await?;
            if written != Value::Bool(true) {
                return Err(Failure::Other(format!("config entry {label} was changed by someone else: read it again")));
            }
            println!("Config entry written: {label}");
        }
        What::List { kind, client } => {
            let found = Agent::connect(&client)?.get(&format!("/v1/config/{}", escape(&kind))).await?;
            for entry in found.as_array().into_iter().flatten() {
                println!("{}", word(entry, "Name"));
            }
        }
        What::Delete { kind, name, client } => {
            Agent::connect(&client)?.delete(&path(&kind, &name)).await?;
            println!("Config entry deleted: {kind}/{name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(kind: &str, name: &str) -> String {
    format!("/v1/config/{}/{}", escape(kind), escape(name))
}

fn word(entry: &Value, key: &str) -> String {
    let found = entry.get(key).or_else(|| entry.get(key.to_ascii_lowercase()));
    found.and_then(Value::as_str).unwrap_or_default().to_string()
}

/// JSON if it looks like it, else HCL: files of either kind are piped in by scripts.
fn parse(file: &str) -> Result<Value, Failure> {
    let data = if file == "-" { read_argument("-")? } else { read_argument(&format!("@{file}"))? };
    let text = String::from_utf8(data).map_err(|_| Failure::Other(format!("{file} is not UTF-8 text")))?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).map_err(|e| Failure::Other(format!("{file} is not valid JSON: {e}")));
    }
    hcl::from_str(&text).map_err(|e| Failure::Other(format!("{file} is not valid HCL: {e}")))
}
