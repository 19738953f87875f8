//! The kernel's requests, answered from the image.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::Shared;
use crate::image::{Content, File, Folder, Id, Image, Node};

/// The kernel asks again each time: after a power cut nothing that it remembers is true.
const REMEMBER: Duration = Duration::ZERO;

/// A slow sync notices so soon that the power was cut.
const SLOW_STEP: Duration = Duration::from_millis(5);

/// `FALLOC_FL_KEEP_SIZE`: the file stays as long as it is.
const KEEP_SIZE: i32 = 1;

const BLOCK_BYTES: u32 = 4096;

/// The most bytes of all files together: the image is in memory.
const BYTES_MAX: u64 = 2 << 30;

/// The file system as the kernel sees it.
pub(crate) struct Fuse(pub(crate) Arc<Shared>);

impl Fuse {
    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle of before the last power cut is dead, and so is all that its owner may still have wanted to write.
    fn alive(&self, handle: FileHandle) -> Result<(), Errno> {
        self.0.is_alive(handle.0).then_some(()).ok_or(Errno::EIO)
    }

    /// Without power nothing can be opened, made or removed.
    fn powered(&self) -> Result<(), Errno> {
        (!self.0.off.load(Ordering::SeqCst)).then_some(()).ok_or(Errno::EIO)
    }

    fn handle(&self) -> FileHandle {
        FileHandle(self.0.epoch.load(Ordering::SeqCst))
    }

    /// Refuses to grow when the disk is full.
    fn room_for(&self, image: &Image, bytes: u64) -> Result<(), Errno> {
        if self.0.faults().full || image.bytes() + bytes > BYTES_MAX {
            self.0.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn make(&self, parent: INodeNo, name: &OsStr, content: Content, mode: u32) -> Result<FileAttr, Errno> {
        let mut image = self.image();
        self.powered()?;
        self.room_for(&image, 0)?;
        if image.find(parent.0, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let id = image.make(parent.0, name, content, (mode & 0o7777) as u16).ok_or(Errno::ENOENT)?;
        image.node(id).map(|node| attributes(id, node)).ok_or(Errno::ENOENT)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, is_folder: bool) -> Result<(), Errno> {
        let mut image = self.image();
        self.powered()?;
        let id = image.find(parent.0, name).ok_or(Errno::ENOENT)?;
        match (image.node(id).map(|node| &node.content), is_folder) {
            (Some(Content::Folder(folder)), true) if !folder.now.is_empty() => return Err(Errno::ENOTEMPTY),
            (Some(Content::Folder(_)), false) => return Err(Errno::EISDIR),
            (Some(Content::File(_)), true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        image.folder(parent.0).ok_or(Errno::ENOENT)?.now.remove(name);
        image.forget_unreachable();
        Ok(())
    }

    fn move_name(&self, from: (Id, &OsStr), to: (Id, &OsStr), flags: RenameFlags) -> Result<(), Errno> {
        let mut image = self.image();
        self.powered()?;
        let id = image.find(from.0, from.1).ok_or(Errno::ENOENT)?;
        match image.find(to.0, to.1) {
            Some(_) if flags.contains(RenameFlags::RENAME_NOREPLACE) => return Err(Errno::EEXIST),
            _ if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() => return Err(Errno::EINVAL),
            Some(other) => match image.node(other).map(|node| &node.content) {
                Some(Content::Folder(folder)) if !folder.now.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            },
            None => {}
        }
        image.folder(to.0).ok_or(Errno::ENOENT)?.now.insert(to.1.to_owned(), id);
        image.folder(from.0).ok_or(Errno::ENOENT)?.now.remove(from.1);
        image.forget_unreachable();
        Ok(())
    }

    fn resize(&self, id: Id, length: u64) -> Result<(), Errno> {
        let mut image = self.image();
        self.powered()?;
        let before = image.file(id).ok_or(Errno::EINVAL)?.now.len() as u64;
        if length > before {
            self.room_for(&image, length - before)?;
        }
        image.file(id).ok_or(Errno::EINVAL)?.resize(length as usize);
        Ok(())
    }

    fn write_at(&self, id: Id, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut image = self.image();
        let before = image.file(id).ok_or(Errno::EINVAL)?.now.len() as u64;
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if end > before {
            self.room_for(&image, end - before)?;
        }
        image.write(id, offset as usize, data);
        if let Some(node) = image.node_mut(id) {
            node.changed = SystemTime::now();
        }
        Ok(())
    }

    fn opened(&self, id: Id) -> Result<FileHandle, Errno> {
        let mut image = self.image();
        self.powered()?;
        image.node_mut(id).ok_or(Errno::ENOENT)?.opens += 1;
        Ok(self.handle())
    }

    fn closed(&self, id: Id, handle: FileHandle) {
        if self.alive(handle).is_err() {
            return;
        }
        let mut image = self.image();
        if let Some(node) = image.node_mut(id) {
            node.opens = node.opens.saturating_sub(1);
            if node.opens == 0 {
                image.forget_unreachable();
            }
        }
    }

    /// Syncs now or, on a slow disk, later; the kernel's other requests do not wait for it.
    fn sync(&self, id: Id, handle: FileHandle, reply: ReplyEmpty) {
        let delay = self.0.faults().slow_sync;
        if delay.is_zero() {
            return answer(reply, sync_now(&self.0, id, handle));
        }
        let shared = Arc::clone(&self.0);
        std::thread::spawn(move || {
            shared.counts.slow.fetch_add(1, Ordering::Relaxed);
            let end = Instant::now() + delay;
            while Instant::now() < end && shared.is_alive(handle.0) {
                std::thread::sleep(SLOW_STEP.min(delay));
            }
            answer(reply, sync_now(&shared, id, handle));
        });
    }
}

fn sync_now(shared: &Shared, id: Id, handle: FileHandle) -> Result<(), Errno> {
    let mut image = shared.image.lock().unwrap_or_else(PoisonError::into_inner);
    if !shared.is_alive(handle.0) {
        return Err(Errno::EIO);
    }
    if shared.faults().failing_syncs {
        shared.counts.failed.fetch_add(1, Ordering::Relaxed);
        image.fail_sync(id);
        return Err(Errno::EIO);
    }
    shared.counts.syncs.fetch_add(1, Ordering::Relaxed);
    if !(shared.lies.load(Ordering::SeqCst) && image.file(id).is_some()) {
        image.sync(id);
    }
    Ok(())
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn attributes(id: Id, node: &Node) -> FileAttr {
    let (kind, size) = match &node.content {
        Content::File(file) => (FileType::RegularFile, file.now.len() as u64),
        Content::Folder(_) => (FileType::Directory, u64::from(BLOCK_BYTES)),
    };
    FileAttr {
        ino: INodeNo(id),
        size,
        blocks: size.div_ceil(512),
        atime: node.changed,
        mtime: node.changed,
        ctime: node.changed,
        crtime: node.changed,
        kind,
        perm: node.mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl Filesystem for Fuse {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let image = self.image();
        let found = image.find(parent.0, name).and_then(|id| image.node(id).map(|node| attributes(id, node)));
        match found {
            Some(attr) => reply.entry(&REMEMBER, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.image().node(ino.0) {
            Some(node) => reply.attr(&REMEMBER, &attributes(ino.0, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = fh.map_or(Ok(()), |handle| self.alive(handle));
        let resized = resized.and_then(|()| size.map_or(Ok(()), |length| self.resize(ino.0, length)));
        if let Err(error) = resized {
            return reply.error(error);
        }
        match self.image().node_mut(ino.0) {
            Some(node) => {
                node.mode = mode.map_or(node.mode, |mode| (mode & 0o7777) as u16);
                node.changed = SystemTime::now();
                reply.attr(&REMEMBER, &attributes(ino.0, node));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        match self.make(parent, name, Content::Folder(Folder::default()), mode & !umask) {
            Ok(attr) => reply.entry(&REMEMBER, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let made = self.make(parent, name, Content::File(File::default()), mode & !umask);
        match made.and_then(|attr| Ok((attr, self.opened(attr.ino.0)?))) {
            Ok((attr, handle)) => reply.created(&REMEMBER, &attr, Generation(0), handle, FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.remove(parent, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.remove(parent, name, true));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.move_name((parent.0, name), (newparent.0, newname), flags));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.opened(ino.0) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Err(error) = self.alive(fh) {
            return reply.error(error);
        }
        match self.image().file(ino.0) {
            Some(file) => {
                let start = (offset as usize).min(file.now.len());
                let end = (start + size as usize).min(file.now.len());
                reply.data(&file.now[start..end]);
            }
            None => reply.error(Errno::EINVAL),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.alive(fh).and_then(|()| self.write_at(ino.0, offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Said at each close: it is no sync.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.closed(ino.0, fh);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, fh, reply);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.handle(), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut image = self.image();
        let Some(folder) = image.folder(ino.0) else { return reply.error(Errno::ENOTDIR) };
        let names: Vec<_> = folder.now.iter().map(|(name, id)| (name.clone(), *id)).collect();
        for (at, (name, id)) in names.into_iter().enumerate().skip(offset as usize) {
            let kind = match image.node(id).map(|node| &node.content) {
                Some(Content::Folder(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(id), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, fh, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let all = BYTES_MAX / u64::from(BLOCK_BYTES);
        let used = self.image().bytes() / u64::from(BLOCK_BYTES);
        let free = if self.0.faults().full { 0 } else { all.saturating_sub(used) };
        reply.statfs(all, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let grow = || {
            self.alive(fh)?;
            if mode & !KEEP_SIZE != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
            let before = self.image().file(ino.0).ok_or(Errno::EINVAL)?.now.len() as u64;
            if mode & KEEP_SIZE != 0 || end <= before { Ok(()) } else { self.resize(ino.0, end) }
        };
        answer(reply, grow());
    }
}
