//! A leaf with its private key as PEM, in memory and in files.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::bundle::TrustBundle;
use crate::error::Error;

/// A leaf's certificate chain (leaf first) and its private key. The key is wiped from memory when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct LeafPem {
    /// The leaf, then the intermediates.
    pub cert_chain_pem: String,
    /// PKCS #8, SEC 1 or PKCS #1.
    pub key_pem: Zeroizing<String>,
}

impl LeafPem {
    /// Writes chain and key into one file, so that they can never be torn apart; only the owner may read it.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = Zeroizing::new(format!("{}{}", self.cert_chain_pem, self.key_pem.as_str()));
        write_private(path, text.as_bytes())
    }

    /// Reads what [`LeafPem::save`] has written.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::load_pair(path, path)
    }

    /// Reads a chain and a key from files that somebody else has written (`client.pem`, `client.key`).
    pub fn load_pair(cert: &Path, key: &Path) -> Result<Self, Error> {
        let certs = crate::cert::from_pem("certificate file", &read(cert)?)?;
        let key = read(key)?;
        let key_pem =
            key_section(&key).ok_or_else(|| Error::malformed("key file", "there is no `PRIVATE KEY` in it"))?;
        Ok(LeafPem {
            cert_chain_pem: certs.iter().map(crate::cert::to_pem).collect(),
            key_pem: Zeroizing::new(key_pem.to_string()),
        })
    }
}

impl std::fmt::Debug for LeafPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeafPem").field("cert_chain_pem", &self.cert_chain_pem).finish_non_exhaustive()
    }
}

/// A bundle from a file of roots (`ca.pem`).
pub fn load_bundle(trust_domain: &str, ca: &Path) -> Result<TrustBundle, Error> {
    TrustBundle::new(trust_domain, [read(ca)?.as_str()])
}

/// Replaces a file by one that only the owner may read: written beside it, synced, renamed.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // A leftover of a crash may have other permissions: never write into it.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(beside, path).map_err(io)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    fs::read_to_string(path).map(Zeroizing::new).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

/// The first private key of any kind in a PEM text.
fn key_section(text: &str) -> Option<&str> {
    const KINDS: [&str; 3] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];
    KINDS.iter().find_map(|kind| {
        let end_line = format!("-----END {kind}-----");
        let start = text.find(&format!("-----BEGIN {kind}-----"))?;
        let end = text[start..].find(&end_line)? + start + end_line.len();
        Some(text.get(start..=end).unwrap_or(&text[start..end]))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use super::*;
    use crate::{Ca, Csr, LEAF_TTL, LeafName};

    fn leaf() -> (Ca, LeafPem) {
        let ca = Ca::new_root("td.consul", SystemTime::now()).expect("a root");
        let name = LeafName::service("td.consul", "dc1", "web").expect("a name");
        let csr = Csr::new(&name).expect("a request");
        let signed = ca.sign_leaf(&csr.pem, &name, LEAF_TTL, SystemTime::now()).expect("a leaf");
        (ca, csr.with_chain(signed.cert_chain_pem))
    }

    #[test]
    fn a_saved_leaf_is_loaded_again_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("leaf.pem");
        let (_, leaf) = leaf();
        // A leftover of a crash, readable by all, must not lend its permissions.
        fs::write(dir.path().join("leaf.pem.new"), "leftover").expect("writable");
        for _ in 0..2 {
            leaf.save(&path).expect("saved");
            assert_eq!(LeafPem::load(&path).expect("loaded"), leaf);
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
        }
    }

    #[test]
    fn files_of_others_are_read_with_whatever_stands_around() {
        let dir = tempfile::tempdir().expect("a directory");
        let (ca, leaf) = leaf();
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("writable");
            dir.path().join(name)
        };
        let cert = write("client.pem", &format!("subject=\n{}", leaf.cert_chain_pem.replace('\n', "\r\n")));
        let sec1 = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----";
        for (text, key) in [
            (leaf.key_pem.as_str(), leaf.key_pem.as_str()),
            (sec1, &sec1[sec1.find("-----BEGIN EC PRIVATE").expect("there")..]),
        ] {
            let loaded = LeafPem::load_pair(&cert, &write("client.key", text)).expect("loaded");
            assert_eq!((loaded.cert_chain_pem.as_str(), loaded.key_pem.as_str()), (leaf.cert_chain_pem.as_str(), key));
        }
        let bundle = load_bundle("td.consul", &write("ca.pem", &ca.cert_pem())).expect("loaded");
        assert_eq!((bundle.trust_domain(), bundle.roots_pem()), ("td.consul", vec![ca.cert_pem()]));
    }

    #[test]
    fn missing_and_empty_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("missing.pem");
        assert!(LeafPem::load(&missing).expect_err("missing").to_string().contains("missing.pem"));
        fs::write(&missing, "").expect("writable");
        assert!(matches!(LeafPem::load(&missing), Err(Error::Malformed { .. })));
        assert!(matches!(load_bundle("td.consul", &missing), Err(Error::Malformed { .. })));
        let nowhere = dir.path().join("no/such/dir/leaf.pem");
        assert!(matches!(write_private(&nowhere, b"x"), Err(Error::Io { .. })));
    }
}
