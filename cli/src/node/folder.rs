//! The data folder: one process, one node, its owner only.

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A data folder that this process holds until it drops it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    node_id: String,
    _lock: Flock<File>,
}

/// Why the folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error(
        "cannot use the data folder {path}: {error}; it must be a folder that the user who runs the agent can write to"
    )]
    Io { path: PathBuf, error: io::Error },
    #[error("the data folder {path} is in use by another process: stop that agent, or give this one its own -data-dir")]
    InUse { path: PathBuf },
    #[error(
        "the data folder {path} belongs to node {owner:?} of datacenter {owner_dc:?}, and this is node {name:?} of {dc:?}: give each node its own -data-dir, or the name that the folder has"
    )]
    OtherNode { path: PathBuf, owner: String, owner_dc: String, name: String, dc: String },
    #[error("{path} is damaged ({reason}): restore it from a backup, or empty the data folder and join as a new node")]
    Damaged { path: PathBuf, reason: String },
}

/// Whose folder it is.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    node_id: String,
    node_name: String,
    datacenter: String,
    /// Of the others: a bit that has flipped must not make this another node. Older files have none.
    checksum: Option<u32>,
}

impl Owner {
    fn new(node_id: String, name: &str, dc: &str) -> Owner {
        let owner = Owner { node_id, node_name: name.into(), datacenter: dc.into(), checksum: None };
        Owner { checksum: Some(owner.sum()), ..owner }
    }

    fn sum(&self) -> u32 {
        let all = [&self.node_id, &self.node_name, &self.datacenter].map(String::as_str).join("\n");
        crc32fast::hash(all.as_bytes())
    }
}

const OWNER_FILE: &str = "node.json";
const LOCK_FILE: &str = "lock";

impl Folder {
    /// Takes the folder for a node, making it if there is none. `wanted_id` is the operator's, if they gave one.
    ///
    /// # Errors
    /// See [`FolderError`]: the operator's to mend.
    pub(crate) fn open(path: &Path, name: &str, dc: &str, wanted_id: Option<&str>) -> Result<Folder, FolderError> {
        let failed = |error| FolderError::Io { path: path.to_path_buf(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => FolderError::InUse { path: path.to_path_buf() },
            other => failed(other.into()),
        })?;
        let node_id = match read_owner(&path.join(OWNER_FILE))? {
            Some(owner) => check_owner(path, owner, name, dc, wanted_id)?,
            None => {
                let node_id = wanted_id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_string);
                write_owner(path, &Owner::new(node_id.clone(), name, dc)).map_err(failed)?;
                node_id
            }
        };
        Ok(Folder { path: path.to_path_buf(), node_id, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A UUID, the same at every start.
    pub(crate) fn node_id(&self) -> &str {
        &self.node_id
    }
}

fn check_owner(
    path: &Path,
    owner: Owner,
    name: &str,
    dc: &str,
    wanted_id: Option<&str>,
) -> Result<String, FolderError> {
    let same_id = wanted_id.is_none_or(|id| id == owner.node_id);
    if owner.node_name != name || owner.datacenter != dc || !same_id {
        return Err(FolderError::OtherNode {
            path: path.to_path_buf(),
            owner: owner.node_name,
            owner_dc: owner.datacenter,
            name: name.into(),
            dc: dc.into(),
        });
    }
    Ok(owner.node_id)
}

fn read_owner(file: &Path) -> Result<Option<Owner>, FolderError> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FolderError::Io { path: file.to_path_buf(), error }),
    };
    let damaged = |reason| FolderError::Damaged { path: file.to_path_buf(), reason };
    let owner: Owner = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if owner.checksum.is_some_and(|checksum| checksum != owner.sum()) {
        return Err(damaged("its checksum does not fit what it says".into()));
    }
    Ok(Some(owner))
}

/// Written aside and renamed, so that a power cut leaves the old or the new.
fn write_owner(path: &Path, owner: &Owner) -> io::Result<()> {
    let aside = path.join(format!("{OWNER_FILE}.tmp"));
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(serde_json::to_string_pretty(owner)?.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&aside, path.join(OWNER_FILE))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_id_stays_and_the_folder_is_its_owners_only() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("data");
        let first = Folder::open(&path, "n1", "dc1", None).expect("a new folder");
        let id = first.node_id().to_string();
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        drop(first);
        assert_eq!(Folder::open(&path, "n1", "dc1", None).expect("the same node").node_id(), id);
    }

    #[test]
    fn nobody_else_may_have_it() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let held = Folder::open(scratch.path(), "n1", "dc1", None).expect("a new folder");
        assert!(matches!(Folder::open(scratch.path(), "n1", "dc1", None), Err(FolderError::InUse { .. })));
        drop(held);
        for (name, dc, id) in [("n2", "dc1", None), ("n1", "dc2", None), ("n1", "dc1", Some("other"))] {
            assert!(
                matches!(Folder::open(scratch.path(), name, dc, id), Err(FolderError::OtherNode { .. })),
                "{name} {dc}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_never_makes_it_another_node() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let open = || Folder::open(scratch.path(), "n1", "dc1", None).map(|folder| folder.node_id().to_string());
        let (id, file) = (open().expect("a new folder"), scratch.path().join(OWNER_FILE));
        let whole = std::fs::read(&file).expect("there");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, flipped).expect("written");
            match open() {
                Ok(still) => assert_eq!(still, id, "bit {bit}"),
                Err(FolderError::Damaged { .. }) => {}
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }

    #[test]
    fn a_folder_of_the_first_release_has_no_checksum() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let owner = r#"{"node_id": "one", "node_name": "n1", "datacenter": "dc1"}"#;
        std::fs::write(scratch.path().join(OWNER_FILE), owner).expect("a file");
        assert_eq!(Folder::open(scratch.path(), "n1", "dc1", None).expect("opens").node_id(), "one");
    }

    #[test]
    fn damage_and_obstacles_are_told() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        std::fs::write(scratch.path().join(OWNER_FILE), "{").expect("a file");
        assert!(matches!(Folder::open(scratch.path(), "n", "dc1", None), Err(FolderError::Damaged { .. })));
        let file = scratch.path().join("file");
        std::fs::write(&file, "").expect("a file");
        assert!(matches!(Folder::open(&file, "n", "dc1", None), Err(FolderError::Io { .. })));
    }
}
