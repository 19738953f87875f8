//! Where a proxy learns what to do: its agent, or a file.

use crate::limits::FILE_POLL_INTERVAL;
use crate::{Error, control};
use identity::{Identity, LeafPem};
use model::ProxyConfig;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Where a proxy learns what to do.
#[derive(Debug, Clone)]
pub enum ConfigSource {
    /// Its agent: the certificate is signed there, and the configuration streamed from there as it changes.
    Control {
        /// `ip:port` of the agent's gRPC on this machine (8502). Plain text: loopback only.
        agent: String,
        /// The proxy's instance id.
        proxy_id: String,
        /// The node that it is registered on.
        node: String,
    },
    /// A file, to try a proxy without servers: a `ProxyConfig` as JSON with the further keys `CertFile`, `KeyFile` and
    /// `RootFiles` (PEM; relative to the file). Read again when it changes.
    File(PathBuf),
    /// In a simulation: what it does for all its life, and its certificate.
    #[cfg(feature = "sim")]
    Fixed(Box<(ProxyConfig, LeafPem)>),
}

/// What a source has to say; each part is replaced as it changes.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// What to do. Nothing yet for a fresh proxy.
    pub(crate) config: watch::Sender<Option<Arc<ProxyConfig>>>,
    /// Certificate and key.
    pub(crate) identity: Identity,
    /// Counts leaves, so that somebody can wait for the first.
    pub(crate) leaves: watch::Sender<u64>,
    /// What is wrong with the source now.
    pub(crate) problem: watch::Sender<Option<Error>>,
}

impl Heard {
    pub(crate) fn use_leaf(&self, leaf: &LeafPem) -> Result<identity::LeafInfo, Error> {
        let info = self.identity.update_leaf(leaf)?;
        self.leaves.send_modify(|count| *count += 1);
        Ok(info)
    }
}

/// Listens to a source for ever.
pub(crate) async fn run(source: ConfigSource, heard: Heard) {
    match source {
        ConfigSource::Control { agent, proxy_id, node } => control::run(agent, proxy_id, node, heard).await,
        ConfigSource::File(path) => watch_file(&path, &heard).await,
        #[cfg(feature = "sim")]
        ConfigSource::Fixed(fixed) => {
            match heard.use_leaf(&fixed.1) {
                Ok(_) => drop(heard.config.send_replace(Some(Arc::new(fixed.0)))),
                Err(error) => drop(heard.problem.send_replace(Some(error))),
            }
            std::future::pending().await
        }
    }
}

/// Reads the file, and again whenever it or what it names changes. A file that is wrong changes nothing.
async fn watch_file(path: &Path, heard: &Heard) {
    let mut before = None;
    loop {
        let read = {
            let path = path.to_path_buf();
            tokio::task::spawn_blocking(move || read_file(&path)).await.unwrap_or(Err(Error::Stopped))
        };
        match read {
            Ok(now) if before.as_ref() == Some(&now) => {}
            Ok((config, leaf)) => match heard.use_leaf(&leaf) {
                Ok(_) => {
                    heard.problem.send_replace(None);
                    heard.config.send_replace(Some(Arc::new(config.clone())));
                    before = Some((config, leaf));
                }
                Err(error) => drop(heard.problem.send_replace(Some(error))),
            },
            Err(error) => drop(heard.problem.send_replace(Some(error))),
        }
        tokio::time::sleep(FILE_POLL_INTERVAL).await;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    #[serde(flatten)]
    config: ProxyConfig,
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    root_files: Vec<PathBuf>,
}

fn read_file(path: &Path) -> Result<(ProxyConfig, LeafPem), Error> {
    let failed = |path: &Path, source| Error::File { path: path.to_path_buf(), source: Arc::new(source) };
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| failed(path, e));
    let file: File = serde_json::from_str(&read(path)?)
        .map_err(|e| Error::Format { path: path.to_path_buf(), why: e.to_string() })?;
    let beside = |other: &Path| path.parent().unwrap_or(Path::new(".")).join(other);
    let mut config = file.config;
    for root in &file.root_files {
        config.roots.push(read(&beside(root))?);
    }
    let wrong =
        |e: model::proxy_config::InvalidProxyConfig| Error::Format { path: path.to_path_buf(), why: e.to_string() };
    config.validate().map_err(wrong)?;
    Ok((config, LeafPem::load_pair(&beside(&file.cert_file), &beside(&file.key_file))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_named_with_what_is_wrong() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("proxy.json");
        let message = || read_file(&path).expect_err("wrong").to_string();
        assert!(message().starts_with(&format!("cannot read {}: ", path.display())), "{}", message());
        let cases = [
            ("{", "is not a proxy configuration: EOF"),
            ("[]", "is not a proxy configuration: invalid type"),
            ("{}", "missing field `CertFile`"),
            (
                r#"{"CertFile": "a.pem", "KeyFile": "a.key", "Upstreams": 3}"#,
                "invalid type: integer `3`, expected a map",
            ),
            (r#"{"CertFile": "a.pem", "KeyFile": "a.key", "RootFiles": ["none.pem"]}"#, "none.pem: No such file"),
            (r#"{"CertFile": "a.pem", "KeyFile": "a.key"}"#, "ID: must be set"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).expect("write");
            assert!(message().contains(expected), "{text}: {}", message());
        }
    }
}
