//! What is on the disk, twice: as programs see it now, and as it would be found after a power cut. Pure: chance comes from outside.
//!
//! The rule is the strict one of POSIX: a file's bytes and length are kept when the file is synced, a folder's names when the folder is synced,
//! and nothing else is. A new file that was synced is gone if the folder that names it was not; a rename is undone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::PathBuf;
use std::time::SystemTime;

use jlt_core::rng::Rng;

/// The number of a file or folder; none is ever used again.
pub(crate) type Id = u64;

/// The folder that is mounted.
pub(crate) const ROOT: Id = 1;

/// What the kernel writes at once: after a cut each block of that size is there or not.
const BLOCK_BYTES: usize = 4096;

/// What survives a power cut beside what was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// Nothing.
    Nothing,
    /// By chance half of the unsynced blocks and half of the unsynced folders, whatever order they were written in: as when the kernel was just writing them back.
    Some,
    /// Of the last write its beginning, up to a border of so many bytes; of all else nothing.
    Torn(usize),
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes of files that were written and not synced, and did not survive.
    pub bytes: u64,
    /// Names that were made, removed or renamed in folders that were not synced.
    pub names: u64,
    /// Writes that were torn: their beginning survived though it was not synced, their end did not.
    pub torn: u64,
    /// Bytes of such beginnings.
    pub torn_bytes: u64,
}

impl std::ops::AddAssign for Lost {
    fn add_assign(&mut self, other: Lost) {
        self.bytes += other.bytes;
        self.names += other.names;
        self.torn += other.torn;
        self.torn_bytes += other.torn_bytes;
    }
}

/// The disk.
pub(crate) struct Image {
    nodes: BTreeMap<Id, Node>,
    next: Id,
    /// The last write to any file, which a cut may tear.
    last_write: Option<(Id, Range<usize>)>,
}

pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) mode: u16,
    pub(crate) changed: SystemTime,
    /// How often it is open; a file without a name lives until it is closed.
    pub(crate) opens: u64,
}

pub(crate) enum Content {
    File(File),
    Folder(Folder),
}

/// Bytes now, bytes after a cut, and where they may differ.
#[derive(Default)]
pub(crate) struct File {
    pub(crate) now: Vec<u8>,
    kept: Vec<u8>,
    unsynced: Vec<Range<usize>>,
}

#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) now: BTreeMap<OsString, Id>,
    kept: BTreeMap<OsString, Id>,
}

impl Image {
    pub(crate) fn new() -> Self {
        let root = Node::new(Content::Folder(Folder::default()), 0o755);
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, last_write: None }
    }

    pub(crate) fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    pub(crate) fn folder(&mut self, id: Id) -> Option<&mut Folder> {
        match &mut self.nodes.get_mut(&id)?.content {
            Content::Folder(folder) => Some(folder),
            Content::File(_) => None,
        }
    }

    pub(crate) fn file(&mut self, id: Id) -> Option<&mut File> {
        match &mut self.nodes.get_mut(&id)?.content {
            Content::File(file) => Some(file),
            Content::Folder(_) => None,
        }
    }

    pub(crate) fn find(&self, folder: Id, name: &OsStr) -> Option<Id> {
        match &self.nodes.get(&folder)?.content {
            Content::Folder(folder) => folder.now.get(name).copied(),
            Content::File(_) => None,
        }
    }

    /// Makes a file or folder; `None` if there is no such parent.
    pub(crate) fn make(&mut self, parent: Id, name: &OsStr, content: Content, mode: u16) -> Option<Id> {
        let id = self.next;
        self.folder(parent)?.now.insert(name.to_owned(), id);
        self.next += 1;
        self.nodes.insert(id, Node::new(content, mode));
        Some(id)
    }

    /// Writes; the file grows as needed. `false` if there is no such file.
    pub(crate) fn write(&mut self, id: Id, offset: usize, data: &[u8]) -> bool {
        let Some(file) = self.file(id) else { return false };
        let range = offset..offset + data.len();
        if file.now.len() < range.end {
            file.now.resize(range.end, 0);
        }
        file.now[range.clone()].copy_from_slice(data);
        file.note(range.clone());
        self.last_write = Some((id, range));
        true
    }

    /// All files that hold something, by their paths.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Id)> {
        let mut files = Vec::new();
        let mut folders = vec![(PathBuf::new(), ROOT)];
        while let Some((path, id)) = folders.pop() {
            let Some(Content::Folder(folder)) = self.nodes.get(&id).map(|node| &node.content) else { continue };
            for (name, id) in &folder.now {
                match self.nodes.get(id).map(|node| &node.content) {
                    Some(Content::Folder(_)) => folders.push((path.join(name), *id)),
                    Some(Content::File(file)) if file.now.iter().any(|byte| *byte != 0) => {
                        files.push((path.join(name), *id));
                    }
                    Some(Content::File(_)) | None => {}
                }
            }
        }
        files
    }

    /// Flips a bit for good. Answers where: in a byte that is not zero, for zeros are mostly room for later.
    pub(crate) fn flip(&mut self, id: Id, rng: &mut Rng) -> Option<usize> {
        let file = self.file(id)?;
        let from = rng.below(file.now.len());
        let at = (from..file.now.len()).chain(0..from).find(|at| file.now[*at] != 0)?;
        let bit = 1 << rng.below(8);
        file.now[at] ^= bit;
        if let Some(kept) = file.kept.get_mut(at) {
            *kept ^= bit;
        }
        Some(at)
    }

    /// The bytes that all files have.
    pub(crate) fn bytes(&self) -> u64 {
        let lengths = self.nodes.values().map(|node| match &node.content {
            Content::File(file) => file.now.len() as u64,
            Content::Folder(_) => 0,
        });
        lengths.sum()
    }

    /// Everything is gone, now and after a cut. No number is used again.
    pub(crate) fn clear(&mut self) {
        self.nodes = BTreeMap::from([(ROOT, Node::new(Content::Folder(Folder::default()), 0o755))]);
        self.last_write = None;
    }

    /// fsync, or fdatasync, which must keep the length too; of a folder: its names.
    pub(crate) fn sync(&mut self, id: Id) {
        match self.nodes.get_mut(&id).map(|node| &mut node.content) {
            Some(Content::File(file)) => file.sync(),
            Some(Content::Folder(folder)) => folder.kept = folder.now.clone(),
            None => {}
        }
        self.forget_unreachable();
    }

    /// A sync that failed, as Linux has it: what was to be written is forgotten, so that the next sync succeeds and keeps none of it.
    pub(crate) fn fail_sync(&mut self, id: Id) {
        if let Some(file) = self.file(id) {
            file.unsynced.clear();
        }
    }

    /// The power is gone and comes back: what was not synced is lost, but for what survives by chance.
    pub(crate) fn cut(&mut self, survivors: Survivors, rng: &mut Rng) -> Lost {
        let mut lost = Lost::default();
        if let (Survivors::Torn(border), Some((id, range))) = (survivors, self.last_write.take())
            && let Some(file) = self.file(id)
        {
            let length = range.len() as u64;
            let kept = file.tear(range, border, rng);
            let is_torn = 0 < kept && kept < length;
            (lost.torn, lost.torn_bytes) = if is_torn { (1, kept) } else { (0, 0) };
        }
        self.last_write = None;
        for node in self.nodes.values_mut() {
            node.opens = 0;
            match &mut node.content {
                Content::File(file) => lost.bytes += file.cut(survivors, rng),
                Content::Folder(folder) => lost.names += folder.cut(survivors, rng),
            }
        }
        self.forget_unreachable();
        lost
    }

    /// What no folder names any more, now or after a cut, and nobody has open, is gone.
    pub(crate) fn forget_unreachable(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Content::Folder(folder) = &node.content {
                named.extend(folder.now.values().chain(folder.kept.values()));
            }
        }
        self.nodes.retain(|id, node| node.opens > 0 || named.contains(id));
    }
}

impl Node {
    fn new(content: Content, mode: u16) -> Self {
        Self { content, mode, changed: SystemTime::now(), opens: 0 }
    }
}

impl File {
    /// Sets the length.
    pub(crate) fn resize(&mut self, length: usize) {
        let before = self.now.len();
        self.now.resize(length, 0);
        self.note(length.min(before)..length.max(before));
    }

    /// These bytes have to be kept by the next sync. Neighbours are joined, as appends come in a row.
    fn note(&mut self, range: Range<usize>) {
        match self.unsynced.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.unsynced.push(range),
        }
    }

    fn sync(&mut self) {
        self.kept.resize(self.now.len(), 0);
        for range in std::mem::take(&mut self.unsynced) {
            self.keep(range);
        }
    }

    /// The bytes of the range, as far as the file has them, are what a cut will leave.
    fn keep(&mut self, range: Range<usize>) {
        let range = range.start.min(self.now.len())..range.end.min(self.now.len());
        if self.kept.len() < range.end {
            self.kept.resize(range.end, 0);
        }
        self.kept[range.clone()].copy_from_slice(&self.now[range]);
    }

    /// Keeps the beginning of a write that was not synced. Returns how much.
    fn tear(&mut self, range: Range<usize>, border: usize, rng: &mut Rng) -> u64 {
        let is_unsynced = self.unsynced.iter().any(|other| other.start < range.end && range.start < other.end);
        if !is_unsynced {
            return 0;
        }
        let borders = range.end.div_ceil(border) - range.start / border;
        let end = (range.start / border + rng.below(borders)) * border;
        let torn = range.start..end.clamp(range.start, range.end);
        self.keep(torn.clone());
        torn.len() as u64
    }

    /// Returns how many bytes of what was written are lost.
    fn cut(&mut self, survivors: Survivors, rng: &mut Rng) -> u64 {
        let mut lost = 0;
        for range in std::mem::take(&mut self.unsynced) {
            for block in blocks(range) {
                if survivors == Survivors::Some && rng.chance(500) {
                    self.keep(block);
                } else {
                    lost += block.len() as u64;
                }
            }
        }
        self.now.clone_from(&self.kept);
        lost
    }
}

impl Folder {
    /// Returns how many names are not as they were.
    fn cut(&mut self, survivors: Survivors, rng: &mut Rng) -> u64 {
        if self.now == self.kept {
            return 0;
        }
        if survivors == Survivors::Some && rng.chance(500) {
            self.kept = self.now.clone();
            return 0;
        }
        let names: BTreeSet<&OsString> = self.now.keys().chain(self.kept.keys()).collect();
        let lost = names.into_iter().filter(|name| self.now.get(*name) != self.kept.get(*name)).count();
        self.now = self.kept.clone();
        lost as u64
    }
}

/// A range in pieces that end at the borders of blocks.
fn blocks(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        (start < range.end).then(|| {
            let end = ((start / BLOCK_BYTES + 1) * BLOCK_BYTES).min(range.end);
            std::mem::replace(&mut start, end)..end
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    /// A disk with one file `f` whose name and bytes are kept.
    fn with_file(bytes: &[u8]) -> (Image, Id) {
        let mut image = Image::new();
        let file = image.make(ROOT, name("f"), Content::File(File::default()), 0o644).unwrap();
        image.write(file, 0, bytes);
        image.sync(file);
        image.sync(ROOT);
        (image, file)
    }

    fn cut(image: &mut Image, survivors: Survivors) -> Lost {
        image.cut(survivors, &mut Rng::new(1, 1))
    }

    fn bytes(image: &mut Image, id: Id) -> Vec<u8> {
        image.file(id).unwrap().now.clone()
    }

    #[test]
    fn synced_bytes_stay_and_others_go() {
        let (mut image, file) = with_file(b"kept");
        image.write(file, 4, b" gone");
        assert_eq!(bytes(&mut image, file), b"kept gone");
        assert_eq!(cut(&mut image, Survivors::Nothing).bytes, 5);
        assert_eq!(bytes(&mut image, file), b"kept");
        assert_eq!(cut(&mut image, Survivors::Nothing), Lost::default());
    }

    #[test]
    fn an_overwrite_is_undone_and_a_length_too() {
        let (mut image, file) = with_file(b"abcdef");
        image.write(file, 1, b"XY");
        image.file(file).unwrap().resize(2);
        cut(&mut image, Survivors::Nothing);
        assert_eq!(bytes(&mut image, file), b"abcdef");
    }

    #[test]
    fn what_was_cut_off_and_grown_again_is_zero() {
        let (mut image, file) = with_file(b"abcdef");
        image.file(file).unwrap().resize(2);
        image.file(file).unwrap().resize(4);
        image.sync(file);
        cut(&mut image, Survivors::Nothing);
        assert_eq!(bytes(&mut image, file), b"ab\0\0");
    }

    #[test]
    fn a_new_file_needs_its_folder_synced() {
        let (mut image, _) = with_file(b"");
        let new = image.make(ROOT, name("new"), Content::File(File::default()), 0o644).unwrap();
        image.write(new, 0, b"bytes");
        image.sync(new);
        assert_eq!(cut(&mut image, Survivors::Nothing).names, 1);
        assert_eq!(image.find(ROOT, name("new")), None);
        assert!(image.node(new).is_none(), "nobody can reach it");
    }

    #[test]
    fn a_rename_and_a_removal_are_undone() {
        let (mut image, file) = with_file(b"old");
        let folder = image.folder(ROOT).unwrap();
        let id = folder.now.remove(name("f")).unwrap();
        folder.now.insert("g".into(), id);
        cut(&mut image, Survivors::Nothing);
        assert_eq!((image.find(ROOT, name("f")), image.find(ROOT, name("g"))), (Some(file), None));
        image.folder(ROOT).unwrap().now.clear();
        cut(&mut image, Survivors::Nothing);
        assert_eq!(bytes(&mut image, file), b"old");
    }

    #[test]
    fn after_a_failed_sync_the_next_one_keeps_nothing_of_it() {
        let (mut image, file) = with_file(b"old");
        image.write(file, 0, b"new");
        image.fail_sync(file);
        image.sync(file);
        assert_eq!(bytes(&mut image, file), b"new", "it is still seen");
        cut(&mut image, Survivors::Nothing);
        assert_eq!(bytes(&mut image, file), b"old");
    }

    #[test]
    fn a_torn_write_ends_at_a_border() {
        let mut lengths = BTreeSet::new();
        for seed in 0..100 {
            let (mut image, file) = with_file(&[1; 700]);
            image.write(file, 700, &[2; 5000]);
            let lost = image.cut(Survivors::Torn(512), &mut Rng::new(seed, 1));
            let length = bytes(&mut image, file).len();
            assert!(length == 700 || length.is_multiple_of(512), "{length}");
            assert_eq!((lost.torn, lost.torn_bytes as usize), (u64::from(length > 700), length - 700));
            lengths.insert(length);
        }
        assert!(lengths.contains(&700) && lengths.len() > 5, "{lengths:?}");
    }

    #[test]
    fn a_write_that_was_synced_is_not_torn() {
        let (mut image, file) = with_file(&[1; 5000]);
        cut(&mut image, Survivors::Torn(512));
        assert_eq!(bytes(&mut image, file), [1; 5000]);
    }

    #[test]
    fn a_flipped_bit_stays_flipped() {
        for seed in 0..50 {
            let (mut image, file) = with_file(b"\0\0kept\0");
            let empty = image.make(ROOT, name("empty"), Content::File(File::default()), 0o644).unwrap();
            assert_eq!(image.files(), [(PathBuf::from("f"), file)]);
            let at = image.flip(file, &mut Rng::new(seed, 1)).unwrap();
            cut(&mut image, Survivors::Nothing);
            let now = bytes(&mut image, file);
            let differ: Vec<usize> = (0..7).filter(|at| now[*at] != b"\0\0kept\0"[*at]).collect();
            assert_eq!(differ, [at]);
            assert!((2..6).contains(&at) && (now[at] ^ b"\0\0kept\0"[at]).count_ones() == 1);
            assert_eq!(image.flip(empty, &mut Rng::new(seed, 1)), None);
        }
    }

    #[test]
    fn a_cleared_disk_is_empty_for_good() {
        let (mut image, file) = with_file(b"kept");
        image.clear();
        assert_eq!((image.find(ROOT, name("f")), image.bytes()), (None, 0));
        cut(&mut image, Survivors::Nothing);
        assert_eq!(image.find(ROOT, name("f")), None);
        let new = image.make(ROOT, name("g"), Content::File(File::default()), 0o644).unwrap();
        assert_ne!(new, file);
    }

    #[test]
    fn some_blocks_survive_and_some_do_not() {
        let (mut image, file) = with_file(&[1; 100 * BLOCK_BYTES]);
        image.write(file, 0, &[2; 100 * BLOCK_BYTES]);
        cut(&mut image, Survivors::Some);
        let bytes = bytes(&mut image, file);
        let survived = bytes.chunks(BLOCK_BYTES).filter(|block| block.iter().all(|byte| *byte == 2)).count();
        let old = bytes.chunks(BLOCK_BYTES).filter(|block| block.iter().all(|byte| *byte == 1)).count();
        assert!(survived > 20 && old > 20 && survived + old == 100, "{survived} and {old}");
    }
}
