//! `tribune operator raft list-peers|remove-peer|transfer-leader`.

use super::client::{Agent, ClientArgs, escape};
use super::{Failure, Outcome, table};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::process::ExitCode;

/// Look after the servers.
///
///   tribune operator raft list-peers
///   tribune operator raft remove-peer -id=1234
///   tribune operator raft transfer-leader
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct OperatorArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The Raft cluster.
    ///
    ///   tribune operator raft list-peers
    ///   tribune operator raft remove-peer -id=1234
    #[command(verbatim_doc_comment)]
    Raft {
        #[command(subcommand)]
        what: RaftWhat,
    },
}

#[derive(Debug, Subcommand)]
enum RaftWhat {
    /// The servers, who leads, and who votes.
    ListPeers {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove a server that will not come back.
    RemovePeer {
        /// Its Raft id.
        #[arg(long, required_unless_present = "address")]
        id: Option<String>,
        /// Its `ip:port`.
        #[arg(long)]
        address: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Hand leadership over.
    TransferLeader {
        /// To this server.
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(args: OperatorArgs) -> Outcome {
    let What::Raft { what } = args.what;
    match what {
        RaftWhat::ListPeers { client } => {
            let found = Agent::connect(&client)?.get("/v1/operator/raft/configuration").await?;
            let rows: Vec<Vec<String>> = found["Servers"].as_array().into_iter().flatten().map(row).collect();
            print!(
                "{}",
                table::render(&["Node", "ID", "Address", "State", "Voter", "RaftProtocol", "Commit Index"], &rows)
            );
        }
        RaftWhat::RemovePeer { id, address, client } => {
            let query = match (id, address) {
                (Some(id), _) => format!("id={}", escape(&id)),
                (None, Some(address)) => format!("address={}", escape(&address)),
                (None, None) => return Err(Failure::Other("give -id or -address".into())),
            };
            Agent::connect(&client)?.delete(&format!("/v1/operator/raft/peer?{query}")).await?;
            println!("Removed peer");
        }
        RaftWhat::TransferLeader { id, client } => {
            let query = id.map(|id| format!("?id={}", escape(&id))).unwrap_or_default();
            Agent::connect(&client)?.post(&format!("/v1/operator/raft/transfer-leader{query}"), Vec::new()).await?;
            println!("Success");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(server: &Value) -> Vec<String> {
    let text = |key: &str| match &server[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let state = if server["Leader"] == Value::Bool(true) { "leader" } else { "follower" };
    vec![
        text("Node"),
        text("ID"),
        text("Address"),
        state.into(),
        text("Voter"),
        text("ProtocolVersion"),
        text("LastIndex"),
    ]
}
