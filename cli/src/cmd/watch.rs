//! `tribune watch`: print, or hand to a program, whatever changes.

use super::client::{Agent, ClientArgs, escape, escape_path};
use super::{Failure, Outcome};
use clap::{Args, ValueEnum};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

/// Watch something and print it as JSON whenever it changes, or run a program with that JSON on its standard input.
///
///   tribune watch -type=key -key=app/color
///   tribune watch -type=service -service=web -passingonly ./reload.sh
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct WatchArgs {
    /// What to watch.
    #[arg(long = "type")]
    kind: Kind,
    /// With -type=key.
    #[arg(long)]
    key: Option<String>,
    /// With -type=keyprefix.
    #[arg(long)]
    prefix: Option<String>,
    /// With -type=service and -type=checks.
    #[arg(long)]
    service: Option<String>,
    /// With -type=service; may be given several times.
    #[arg(long)]
    tag: Vec<String>,
    /// With -type=checks: any, passing, warning or critical.
    #[arg(long)]
    state: Option<String>,
    /// With -type=service: only passing instances.
    #[arg(long)]
    passingonly: bool,
    /// Stop after so many changes, the first answer included; 0 means never.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// A program and its arguments; absent: print.
    #[arg(trailing_var_arg = true)]
    program: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Key,
    Keyprefix,
    Services,
    Nodes,
    Service,
    Checks,
    #[value(name = "connect_roots")]
    ConnectRoots,
}

pub(super) async fn run(args: WatchArgs) -> Outcome {
    let agent = Agent::connect(&args.client)?;
    let target = args.target()?;
    let (mut index, mut shown, mut back_off) = (0, 0, Duration::from_secs(1));
    loop {
        match agent.wait(&target, index).await {
            Ok(answer) => {
                back_off = Duration::from_secs(1);
                // An index that runs backwards means a new cluster: begin again (Consul's rule for clients).
                let changed = answer.index != index;
                index = if answer.index < index { 0 } else { answer.index };
                if changed {
                    args.show(&answer.body).await?;
                    shown += 1;
                }
            }
            Err(error) => {
                eprintln!("watch: {error}; trying again in {} s", back_off.as_secs());
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(Duration::from_secs(180));
            }
        }
        if args.count > 0 && shown >= args.count {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

impl WatchArgs {
    /// The blocking read that answers this watch.
    fn target(&self) -> Result<String, Failure> {
        let need = |value: &Option<String>, flag: &str| {
            value.clone().ok_or_else(|| Failure::Other(format!("this type needs -{flag}")))
        };
        Ok(match self.kind {
            Kind::Key => format!("/v1/kv/{}", escape_path(&need(&self.key, "key")?)),
            Kind::Keyprefix => format!("/v1/kv/{}?recurse", escape_path(&need(&self.prefix, "prefix")?)),
            Kind::Services => "/v1/catalog/services".into(),
            Kind::Nodes => "/v1/catalog/nodes".into(),
            Kind::Service => {
                let tags: String = self.tag.iter().map(|tag| format!("&tag={}", escape(tag))).collect();
                let passing = if self.passingonly { "&passing" } else { "" };
                format!(
                    "/v1/health/service/{}?{}",
                    escape(&need(&self.service, "service")?),
                    format!("{tags}{passing}").trim_start_matches('&')
                )
            }
            Kind::Checks => match (&self.service, &self.state) {
                (Some(service), _) => format!("/v1/health/checks/{}", escape(service)),
                (None, state) => format!("/v1/health/state/{}", escape(state.as_deref().unwrap_or("any"))),
            },
            Kind::ConnectRoots => "/v1/connect/ca/roots".into(),
        })
    }

    async fn show(&self, body: &[u8]) -> Result<(), Failure> {
        let Some((program, arguments)) = self.program.split_first() else {
            println!("{}", String::from_utf8_lossy(body));
            return Ok(());
        };
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(Failure::io(format!("cannot run {program}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is none of our business.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, body).await;
        }
        let status = child.wait().await.map_err(Failure::io(format!("cannot wait for {program}")))?;
        if !status.success() {
            eprintln!("watch: {program} ended with {status}");
        }
        Ok(())
    }
}
