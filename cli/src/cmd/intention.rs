//! `tribune intention create|delete|check|match|get|list`.

use super::client::{Agent, ClientArgs, escape};
use super::{Failure, Outcome, table};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Say who may call whom.
///
///   tribune intention create -deny '*' db
///   tribune intention create -allow web db
///   tribune intention check web db
///   tribune intention list
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct IntentionArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Allow or deny calls from SRC to DST; `*` stands for any service.
    Create {
        /// The caller.
        source: String,
        /// The called.
        destination: String,
        /// Allow (the default).
        #[arg(long, conflicts_with = "deny")]
        allow: bool,
        /// Deny.
        #[arg(long)]
        deny: bool,
        /// Replace an intention that exists.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove the intention between SRC and DST.
    Delete {
        /// The caller.
        source: String,
        /// The called.
        destination: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Would a call from SRC to DST pass? Exits with 2 if not.
    Check {
        /// The caller.
        source: String,
        /// The called.
        destination: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// The intentions that name a service, as the caller (-source) or the called.
    Match {
        /// The service.
        service: String,
        /// As the caller.
        #[arg(long)]
        source: bool,
        /// As the called (the default).
        #[arg(long, conflicts_with = "source")]
        destination: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show the intention between SRC and DST.
    Get {
        /// The caller.
        source: String,
        /// The called.
        destination: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// All intentions.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(args: IntentionArgs) -> Outcome {
    match args.what {
        What::Create { source, destination, allow: _, deny, replace, client } => {
            create(&client, &source, &destination, deny, replace).await
        }
        What::Delete { source, destination, client } => {
            Agent::connect(&client)?.delete(&exact(&source, &destination)).await?;
            println!("Intention deleted.");
            Ok(ExitCode::SUCCESS)
        }
        What::Check { source, destination, client } => {
            let path =
                format!("/v1/connect/intentions/check?source={}&destination={}", escape(&source), escape(&destination));
            let allowed = Agent::connect(&client)?.get(&path).await?["Allowed"] == Value::Bool(true);
            println!("{}", if allowed { "Allowed" } else { "Denied" });
            Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(2) })
        }
        What::Match { service, source, destination: _, client } => {
            let by = if source { "source" } else { "destination" };
            let found = Agent::connect(&client)?
                .get(&format!("/v1/connect/intentions/match?by={by}&name={}", escape(&service)))
                .await?;
            for intention in found[&service].as_array().into_iter().flatten() {
                println!(
                    "{} => {} ({})",
                    text(intention, "SourceName"),
                    text(intention, "DestinationName"),
                    text(intention, "Action")
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Get { source, destination, client } => {
            let found = Agent::connect(&client)?.find(&exact(&source, &destination)).await?;
            let found =
                found.ok_or_else(|| Failure::Other(format!("there is no intention from {source} to {destination}")))?;
            println!("{}", serde_json::to_string_pretty(&found).map_err(|e| Failure::Other(e.to_string()))?);
            Ok(ExitCode::SUCCESS)
        }
        What::List { client } => list(&client).await,
    }
}

fn exact(source: &str, destination: &str) -> String {
    format!("/v1/connect/intentions/exact?source={}&destination={}", escape(source), escape(destination))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_string()
}

async fn create(client: &ClientArgs, source: &str, destination: &str, deny: bool, replace: bool) -> Outcome {
    let agent = Agent::connect(client)?;
    let path = exact(source, destination);
    if !replace && agent.find(&path).await?.is_some() {
        return Err(Failure::Other(format!(
            "an intention from {source} to {destination} exists already: give -replace to change it"
        )));
    }
    let action = if deny { "deny" } else { "allow" };
    agent.put(&path, json!({"Action": action}).to_string().into_bytes()).await?;
    println!("Created: {source} => {destination} ({action})");
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &ClientArgs) -> Outcome {
    let found = Agent::connect(client)?.get("/v1/connect/intentions").await?;
    let rows: Vec<Vec<String>> = found
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| {
            vec![
                text(i, "ID"),
                text(i, "SourceName"),
                text(i, "Action"),
                text(i, "DestinationName"),
                i["Precedence"].to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        println!("There are no intentions.");
    } else {
        print!("{}", table::render(&["ID", "Source", "Action", "Destination", "Precedence"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}
