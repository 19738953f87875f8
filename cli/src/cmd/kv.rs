//! `tribune kv get|put|delete|export|import`.

use super::client::{Agent, ClientArgs, escape_path};
use super::{Failure, Outcome, read_argument};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;

/// Read and write the key–value store.
///
///   tribune kv put app/color blue
///   tribune kv put app/config @config.json
///   tribune kv get app/color
///   tribune kv get -recurse app/
///   tribune kv delete -recurse app/
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct KvArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print a value, or every entry under a prefix.
    Get {
        /// The key, or a prefix with -recurse or -keys.
        #[arg(default_value = "")]
        key: String,
        /// Every entry under the prefix.
        #[arg(long)]
        recurse: bool,
        /// Only the keys under the prefix.
        #[arg(long)]
        keys: bool,
        /// With -keys: list only up to this character.
        #[arg(long, default_value = "/")]
        separator: String,
        /// Flags and indexes too.
        #[arg(long)]
        detailed: bool,
        /// Print values in base64.
        #[arg(long)]
        base64: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Store a value: given, @file, or - for standard input.
    Put {
        /// The key.
        key: String,
        /// The value.
        #[arg(default_value = "", allow_hyphen_values = true)]
        value: String,
        /// The value is base64.
        #[arg(long)]
        base64: bool,
        /// Only if the key's ModifyIndex is -modify-index (0: only if absent).
        #[arg(long)]
        cas: bool,
        /// See -cas.
        #[arg(long, default_value_t = 0)]
        modify_index: u64,
        /// The client's own number.
        #[arg(long, default_value_t = 0)]
        flags: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove a key, or every key under a prefix.
    Delete {
        /// The key, or a prefix with -recurse.
        key: String,
        /// Every key under the prefix.
        #[arg(long)]
        recurse: bool,
        /// Only if the key's ModifyIndex is -modify-index.
        #[arg(long)]
        cas: bool,
        /// See -cas.
        #[arg(long, default_value_t = 0)]
        modify_index: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print every entry under a prefix as JSON for `import`.
    Export {
        /// The prefix.
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Store what `export` printed: @file or - for standard input.
    Import {
        /// JSON, @file or -.
        #[arg(default_value = "-")]
        data: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(args: KvArgs) -> Outcome {
    match args.what {
        What::Get { key, recurse, keys, separator, detailed, base64, client } => {
            let agent = Agent::connect(&client)?;
            match (recurse, keys) {
                (true, _) => get_recurse(&agent, &key, detailed, base64).await,
                (false, true) => get_keys(&agent, &key, &separator).await,
                (false, false) => get_one(&agent, &key, detailed, base64).await,
            }
        }
        What::Put { key, value, base64, cas, modify_index, flags, client } => {
            let mut data = read_argument(&value)?;
            if base64 {
                data = STANDARD
                    .decode(data.trim_ascii())
                    .map_err(|e| Failure::Other(format!("the value is not base64: {e}")))?;
            }
            let cas = if cas { format!("&cas={modify_index}") } else { String::new() };
            let path = format!("/v1/kv/{}?flags={flags}{cas}", escape_path(&key));
            done(
                Agent::connect(&client)?.put(&path, data).await?,
                &format!("Success! Data written to: {key}"),
                "CAS performed, but key was not set",
            )
        }
        What::Delete { key, recurse, cas, modify_index, client } => {
            let query = match (recurse, cas) {
                (true, _) => "?recurse".to_string(),
                (false, true) => format!("?cas={modify_index}"),
                (false, false) => String::new(),
            };
            let answer = Agent::connect(&client)?.delete(&format!("/v1/kv/{}{query}", escape_path(&key))).await?;
            let what = if recurse { "keys with prefix" } else { "key" };
            done(answer, &format!("Success! Deleted {what}: {key}"), "CAS performed, but key was not deleted")
        }
        What::Export { prefix, client } => export(&Agent::connect(&client)?, &prefix).await,
        What::Import { data, client } => import(&Agent::connect(&client)?, &read_argument(&data)?).await,
    }
}

fn done(answer: Value, good: &str, bad: &str) -> Outcome {
    if answer == Value::Bool(true) {
        println!("{good}");
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Other(format!("{bad}: someone else changed it; read it again")))
}

async fn get_one(agent: &Agent, key: &str, detailed: bool, base64: bool) -> Outcome {
    let found = agent.find(&format!("/v1/kv/{}", escape_path(key))).await?;
    let Some(entry) = found.as_ref().and_then(|list| list.get(0)) else {
        return Err(Failure::Other(format!("No key exists at: {key}")));
    };
    if detailed {
        print_detailed(entry, base64)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut value = value_of(entry, base64)?;
    value.push(b'\n');
    std::io::stdout().write_all(&value).map_err(Failure::io("cannot print"))?;
    Ok(ExitCode::SUCCESS)
}

async fn get_recurse(agent: &Agent, prefix: &str, detailed: bool, base64: bool) -> Outcome {
    let found = agent.find(&format!("/v1/kv/{}?recurse", escape_path(prefix))).await?;
    for entry in found.as_ref().and_then(Value::as_array).into_iter().flatten() {
        if detailed {
            print_detailed(entry, base64)?;
            println!();
        } else {
            println!(
                "{}:{}",
                entry["Key"].as_str().unwrap_or_default(),
                String::from_utf8_lossy(&value_of(entry, base64)?)
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn get_keys(agent: &Agent, prefix: &str, separator: &str) -> Outcome {
    let found = agent
        .find(&format!("/v1/kv/{}?keys&separator={}", escape_path(prefix), super::client::escape(separator)))
        .await?;
    for key in found.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        println!("{key}");
    }
    Ok(ExitCode::SUCCESS)
}

fn print_detailed(entry: &Value, base64: bool) -> Result<(), Failure> {
    for key in ["CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex", "Session"] {
        let value = match &entry[key] {
            Value::Null => "-".to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        println!("{key:<16} {value}");
    }
    println!("{:<16} {}", "Value", String::from_utf8_lossy(&value_of(entry, base64)?));
    Ok(())
}

fn value_of(entry: &Value, keep_base64: bool) -> Result<Vec<u8>, Failure> {
    let text = entry["Value"].as_str().unwrap_or_default();
    if keep_base64 {
        return Ok(text.as_bytes().to_vec());
    }
    STANDARD.decode(text).map_err(|e| Failure::Other(format!("the agent sent a value that is not base64: {e}")))
}

async fn export(agent: &Agent, prefix: &str) -> Outcome {
    let found = agent.find(&format!("/v1/kv/{}?recurse", escape_path(prefix))).await?;
    let entries = found.as_ref().and_then(Value::as_array).into_iter().flatten();
    let exported: Vec<Value> = entries
        .map(|e| json!({"key": e["Key"], "flags": e["Flags"], "value": e["Value"].as_str().unwrap_or_default()}))
        .collect();
    println!("{}", serde_json::to_string_pretty(&exported).map_err(|e| Failure::Other(e.to_string()))?);
    Ok(ExitCode::SUCCESS)
}

async fn import(agent: &Agent, data: &[u8]) -> Outcome {
    let entries: Vec<Value> =
        serde_json::from_slice(data).map_err(|e| Failure::Other(format!("cannot decode what to import: {e}")))?;
    for entry in &entries {
        let key = entry["key"].as_str().ok_or_else(|| Failure::Other("an entry to import has no `key`".into()))?;
        let value = STANDARD
            .decode(entry["value"].as_str().unwrap_or_default())
            .map_err(|e| Failure::Other(format!("{key}: {e}")))?;
        let flags = entry["flags"].as_u64().unwrap_or(0);
        agent.put(&format!("/v1/kv/{}?flags={flags}", escape_path(key)), value).await?;
        println!("Imported: {key}");
    }
    Ok(ExitCode::SUCCESS)
}
