//! A server whose disk is full: nothing is acknowledged that is not kept, and with space it goes on.

use crate::support::{PATIENCE, Process, block, client, server_args, until, value_of, writable};
use bytes::Bytes;
use http::Method;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const VALUE_BYTES: usize = 400 * 1024;
/// More than fits on the small disk.
const WRITES_MAX: usize = 400;
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A small file system in memory, gone when dropped. Only root can make one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: usize) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).expect("a folder");
        let made = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tribune-test"])
            .arg(at)
            .output();
        made.is_ok_and(|made| made.status.success()).then(|| SmallDisk(at.to_path_buf()))
    }

    fn grow(&self, megabytes: usize) {
        let grown = Command::new("mount").args(["-o", &format!("remount,size={megabytes}m")]).arg(&self.0).status();
        assert!(grown.is_ok_and(|status| status.success()), "{} does not grow", self.0.display());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may still hold it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes until a write is refused, or the server stops by itself with a message; what was acknowledged goes to `kept`.
async fn fill(ip: &str, process: &mut Process, kept: &mut Vec<String>) {
    let client = client(ip);
    for number in 0..WRITES_MAX {
        let key = format!("{}-{number}", kept.len());
        let value = Bytes::from(vec![b'a' + u8::try_from(number % 26).expect("a letter"); VALUE_BYTES]);
        match client.send(Method::PUT, &format!("/v1/kv/fill/{key}"), value, WRITE_TIMEOUT).await {
            Ok(reply) if reply.status.is_success() => kept.push(key),
            Ok(reply) => {
                assert_eq!(reply.status.as_u16(), 500);
                until("the words of the server", || async { process.words().contains("disk is full").then_some(()) })
                    .await;
                return;
            }
            Err(_) => {
                assert!(!process.ended().success());
                assert!(process.words().contains("disk"), "{}", process.words());
                return;
            }
        }
    }
    panic!("{WRITES_MAX} writes and the disk is not full");
}

async fn all_kept(ip: &str, kept: &[String]) {
    for key in kept {
        let path = &format!("fill/{key}");
        let value = until(&format!("{key} is there"), || value_of(ip, path)).await;
        assert_eq!(value.len(), VALUE_BYTES, "{key}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("s1"), 28) else {
        eprintln!("NOT TESTED: a full disk needs root, to mount a small file system");
        return;
    };
    let ip = format!("{}.1", block());
    let args = server_args(folder.path(), "s1", &ip, 1, &[], &[]);
    let mut server = Process::start(folder.path(), "log", &args);
    writable(&ip).await;
    let mut kept = Vec::new();
    fill(&ip, &mut server, &mut kept).await;
    assert!(!kept.is_empty());

    // Killed while its disk is full, started when there is space.
    server.kill();
    disk.grow(64);
    let mut server = Process::start(folder.path(), "again", &args);
    writable(&ip).await;
    all_kept(&ip, &kept).await;

    // Full once more, and space without a restart.
    let before = kept.len();
    fill(&ip, &mut server, &mut kept).await;
    assert!(kept.len() > before);
    disk.grow(160);
    let goes_on = client(&ip).send(Method::GET, "/v1/status/leader", Bytes::new(), PATIENCE).await.is_ok();
    if !goes_on {
        server = Process::start(folder.path(), "third", &args);
    }
    writable(&ip).await;
    all_kept(&ip, &kept).await;
    drop(server);
}
