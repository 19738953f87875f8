//! `tribune validate`: is this configuration good?

use super::{Failure, Outcome};
use crate::config::{Source, load};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check configuration files and folders without starting anything.
///
///   tribune validate /etc/tribune.d
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ValidateArgs {
    /// Files (.json, .hcl) and folders.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Say nothing when all is well.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: ValidateArgs) -> Outcome {
    let sources: Vec<Source> =
        args.paths.into_iter().map(|path| if path.is_dir() { Source::Dir(path) } else { Source::File(path) }).collect();
    let loaded = load(&sources)?;
    loaded.settings.node()?;
    crate::node::Definitions::parse(&loaded.settings).map_err(Failure::Other)?;
    if !args.quiet {
        for key in &loaded.ignored {
            println!("has no effect: {key}");
        }
        println!("Configuration is valid!");
    }
    Ok(ExitCode::SUCCESS)
}
