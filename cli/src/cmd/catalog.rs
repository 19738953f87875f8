//! `tribune catalog datacenters|nodes|services`.

use super::client::{Agent, ClientArgs, escape};
use super::{Outcome, table};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::process::ExitCode;

/// Look into the catalog.
///
///   tribune catalog datacenters
///   tribune catalog nodes -service=web
///   tribune catalog services -tags
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CatalogArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The datacenters that are known, nearest first.
    Datacenters {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// The nodes, or those that run a service.
    Nodes {
        /// Show ids, tagged addresses and metadata.
        #[arg(long)]
        detailed: bool,
        /// Only nodes with this service.
        #[arg(long)]
        service: Option<String>,
        /// A filter expression.
        #[arg(long)]
        filter: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// The services, or those of a node.
    Services {
        /// Show tags.
        #[arg(long)]
        tags: bool,
        /// Only services of this node.
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(args: CatalogArgs) -> Outcome {
    match args.what {
        What::Datacenters { client } => {
            let list = Agent::connect(&client)?.get("/v1/catalog/datacenters").await?;
            for name in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
                println!("{name}");
            }
        }
        What::Nodes { detailed, service, filter, client } => nodes(&client, detailed, service, filter).await?,
        What::Services { tags, node, client } => services(&client, tags, node).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn nodes(
    client: &ClientArgs,
    detailed: bool,
    service: Option<String>,
    filter: Option<String>,
) -> Result<(), super::Failure> {
    let path = service.map_or("/v1/catalog/nodes".to_string(), |name| format!("/v1/catalog/service/{}", escape(&name)));
    let query = filter.map(|text| format!("?filter={}", escape(&text))).unwrap_or_default();
    let list = Agent::connect(client)?.get(&format!("{path}{query}")).await?;
    let cell = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_string();
    let short = |id: String| id.chars().take(8).collect::<String>();
    let mut rows: Vec<Vec<String>> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let mut cells = vec![cell(row, "Node"), cell(row, "ID"), cell(row, "Address"), cell(row, "Datacenter")];
            if detailed {
                cells.push(pairs(&row["TaggedAddresses"]));
                cells.push(pairs(if row["Meta"].is_object() { &row["Meta"] } else { &row["NodeMeta"] }));
            } else {
                cells[1] = short(cells[1].clone());
            }
            cells
        })
        .collect();
    rows.dedup();
    let heading: &[&str] = if detailed {
        &["Node", "ID", "Address", "DC", "TaggedAddresses", "Meta"]
    } else {
        &["Node", "ID", "Address", "DC"]
    };
    print!("{}", table::render(heading, &rows));
    Ok(())
}

fn pairs(map: &Value) -> String {
    let map = map.as_object().into_iter().flatten();
    map.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ")
}

async fn services(client: &ClientArgs, tags: bool, node: Option<String>) -> Result<(), super::Failure> {
    let agent = Agent::connect(client)?;
    let mut found: Vec<(String, String)> = Vec::new();
    let join =
        |list: &Value| list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    match node {
        None => {
            let all = agent.get("/v1/catalog/services").await?;
            found.extend(all.as_object().into_iter().flatten().map(|(name, tags)| (name.clone(), join(tags))));
        }
        Some(node) => {
            let all = agent.get(&format!("/v1/catalog/node/{}", escape(&node))).await?;
            let instances = all["Services"].as_object().into_iter().flatten();
            found.extend(
                instances.map(|(_, s)| (s["Service"].as_str().unwrap_or_default().to_string(), join(&s["Tags"]))),
            );
        }
    }
    found.sort();
    found.dedup();
    for (name, tag_list) in found {
        println!("{}", if tags { format!("{name}    {tag_list}").trim_end().to_string() } else { name });
    }
    Ok(())
}
