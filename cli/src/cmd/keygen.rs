//! `tribune keygen`: a new join secret.

use super::Outcome;
use base64::Engine;
use clap::Args;
use std::process::ExitCode;

/// Make a new join secret for `encrypt`: 32 random bytes in base64.
///
/// Give the same secret to every node of every datacenter that belongs together; it is proven, never sent.
///
///   tribune keygen
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct KeygenArgs {}

pub(super) fn run(_: KeygenArgs) -> Outcome {
    let secret: [u8; 32] = rand::random();
    println!("{}", base64::engine::general_purpose::STANDARD.encode(secret));
    Ok(ExitCode::SUCCESS)
}
