//! `tribune connect proxy|gateway|ca`.

use super::client::{Agent, ClientArgs};
use super::{Failure, Outcome, block_on};
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// The mesh: sidecars, gateways, and the certificate authority.
///
///   tribune connect proxy -sidecar-for=web-1
///   tribune connect gateway -register -address=10.0.0.5:8443 -wan-address=203.0.113.7:8443
///   tribune connect ca roots
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ConnectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The certificate authority.
    Ca {
        #[command(subcommand)]
        what: CaWhat,
    },
}

#[derive(Debug, Subcommand)]
enum CaWhat {
    /// The roots that the mesh trusts.
    Roots {
        /// Print certificates in PEM.
        #[arg(long)]
        pem: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) fn run(args: ConnectArgs) -> Outcome {
    match args.what {
        What::Ca {
            what: CaWhat::Roots { pem, client },
        } => block_on(roots(pem, client)),
    }
}

async fn roots(pem: bool, client: ClientArgs) -> Outcome {
    let found = Agent::connect(&client)?.get("/v1/connect/ca/roots").await?;
    for root in found["Roots"].as_array().into_iter().flatten() {
        let text = |key: &str| root[key].as_str().unwrap_or_default().to_string();
        if pem {
            print!("{}", text("RootCert"));
            continue;
        }
        let active = if root["Active"] == true {
            " (active)"
        } else {
            ""
        };
        println!(
            "{}{active}\n  name     {}\n  valid    {} to {}",
            text("ID"),
            text("Name"),
            text("NotBefore"),
            text("NotAfter")
        );
    }
    println!(
        "trust domain {}",
        found["TrustDomain"].as_str().unwrap_or_default()
    );
    Ok(ExitCode::SUCCESS)
}
