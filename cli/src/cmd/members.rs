//! `tribune members`, `join`, `leave` and `force-leave`.

use super::client::{Agent, ClientArgs, escape};
use super::{Outcome, table};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

/// List the nodes of the datacenter and whether they are alive.
///
///   tribune members
///   tribune members -status=failed -detailed
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct MembersArgs {
    /// Show every tag.
    #[arg(long)]
    detailed: bool,
    /// Only members whose status matches this regular expression.
    #[arg(long, default_value = ".*")]
    status: String,
    /// Servers of every datacenter.
    #[arg(long)]
    wan: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Tell the agent about servers to join.
///
///   tribune join 10.0.0.1 10.0.0.2
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct JoinArgs {
    /// Addresses of servers (`ip` or `ip:port`).
    #[arg(required = true)]
    addresses: Vec<String>,
    /// They belong to another datacenter.
    #[arg(long)]
    wan: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Say goodbye: deregister this node and stop the agent.
///
///   tribune leave
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct LeaveArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Remove a failed node from the catalog at once.
///
///   tribune force-leave node-17
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ForceLeaveArgs {
    /// The node's name.
    node: String,
    /// Accepted for Consul's sake: the node is always removed at once.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn members(args: MembersArgs) -> Outcome {
    let agent = Agent::connect(&args.client)?;
    let members = agent.get(if args.wan { "/v1/agent/members?wan=1" } else { "/v1/agent/members" }).await?;
    let wanted = regex_of(&args.status)?;
    let rows: Vec<Vec<String>> =
        members.as_array().into_iter().flatten().map(row).filter(|row| wanted.is_match(&row[2])).collect();
    if args.detailed {
        print!("{}", table::render(&["Node", "Address", "Status", "Tags"], &detailed(&members, &rows)));
    } else {
        print!(
            "{}",
            table::render(
                &["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Partition", "Segment"],
                &rows
            )
        );
    }
    Ok(if rows.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn regex_of(text: &str) -> Result<regex::Regex, super::Failure> {
    regex::Regex::new(&format!("^(?:{text})$")).map_err(|error| super::Failure::Other(format!("-status: {error}")))
}

fn row(member: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let tags = &member["Tags"];
    let status = match member["Status"].as_i64() {
        Some(1) => "alive",
        Some(2) => "leaving",
        Some(3) => "left",
        Some(4) => "failed",
        _ => "unknown",
    };
    let server = tags["role"] == "consul";
    let build = text(&tags["build"]).split(':').next().unwrap_or_default().to_string();
    vec![
        text(&member["Name"]),
        format!("{}:{}", text(&member["Addr"]), member["Port"]),
        status.into(),
        if server { "server" } else { "client" }.into(),
        build,
        member["ProtocolCur"].as_u64().unwrap_or(2).to_string(),
        text(&tags["dc"]),
        "default".into(),
        if server { "<all>" } else { "<default>" }.into(),
    ]
}

fn detailed(members: &Value, rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let tags_of = |name: &str| {
        let member = members.as_array()?.iter().find(|m| m["Name"] == name)?;
        let tags = member["Tags"].as_object()?;
        Some(tags.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(","))
    };
    rows.iter()
        .map(|row| vec![row[0].clone(), row[1].clone(), row[2].clone(), tags_of(&row[0]).unwrap_or_default()])
        .collect()
}

pub(super) async fn join(args: JoinArgs) -> Outcome {
    let agent = Agent::connect(&args.client)?;
    let wan = if args.wan { "?wan=1" } else { "" };
    for address in &args.addresses {
        agent.put(&format!("/v1/agent/join/{}{wan}", escape(address)), Vec::new()).await?;
    }
    println!("Successfully joined cluster by contacting {} nodes.", args.addresses.len());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(args: LeaveArgs) -> Outcome {
    Agent::connect(&args.client)?.put("/v1/agent/leave", Vec::new()).await?;
    println!("Graceful leave complete");
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn force_leave(args: ForceLeaveArgs) -> Outcome {
    Agent::connect(&args.client)?.put(&format!("/v1/agent/force-leave/{}", escape(&args.node)), Vec::new()).await?;
    Ok(ExitCode::SUCCESS)
}
