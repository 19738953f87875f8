//! Checks by a command: exit status 0 passes, 1 warns, everything else is critical.

use super::Finding;
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Runs a command without a shell. It is killed when the check's time is up.
pub(crate) async fn run(args: &[String], output_bytes_max: usize) -> Finding {
    let Some((program, rest)) = args.split_first() else { return Finding::critical("there is no command") };
    let child = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Finding::critical(format!("cannot run {program}: {error}")),
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut output, errors) = tokio::join!(read(out, output_bytes_max), read(err, output_bytes_max));
    output.extend(errors);
    output.truncate(output_bytes_max);
    let output = String::from_utf8_lossy(&output).into_owned();
    match child.wait().await {
        Ok(status) if status.success() => Finding::passing(output),
        Ok(status) if status.code() == Some(1) => Finding::warning(output),
        Ok(_) => Finding::critical(output),
        Err(error) => Finding::critical(format!("{program}: {error}")),
    }
}

/// The first bytes; the rest is read too, so that the command does not block, and thrown away.
async fn read(stream: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        let room = bytes_max - kept.len();
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
    kept
}
