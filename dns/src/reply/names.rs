//! The names that most records of an answer share, in the shortest form that is allowed.

use std::borrow::Cow;

use crate::request::HEADER_BYTES;
use crate::wire::{ROOT, pointer};

/// Names as slices that follow each other on the wire.
pub(crate) struct Names<'a> {
    /// Whose records are being written, in full: the name in question, or the one that a `CNAME` has led to.
    owner: Cow<'a, [u8]>,
    owner_pointer: Option<[u8; 2]>,
    /// The domain in full.
    domain: &'a [u8],
    domain_pointer: Option<[u8; 2]>,
    is_compressing: bool,
}

impl<'a> Names<'a> {
    /// `domain_at` is where in the answer the domain stands as part of the question, if it does.
    pub(crate) fn new(
        question: &'a [u8],
        domain: &'a [u8],
        domain_at: Option<usize>,
        disable_compression: bool,
    ) -> Self {
        let is_compressing = !disable_compression;
        let point = |at| pointer(at).filter(|_| is_compressing);
        Self {
            owner: Cow::Borrowed(question),
            owner_pointer: point(HEADER_BYTES),
            domain,
            domain_pointer: domain_at.and_then(point),
            is_compressing,
        }
    }

    /// The owner of the records that are being written.
    pub(super) fn owner(&self) -> &[u8] {
        self.owner_pointer.as_ref().map_or(&self.owner, |pointer| pointer)
    }

    /// Whether these labels, without the root, are the owner's.
    pub(super) fn is_owner(&self, labels: &[u8]) -> bool {
        self.owner.strip_suffix(ROOT).is_some_and(|owner| owner.eq_ignore_ascii_case(labels))
    }

    /// From now on the records are those of another name, which stands at `at`.
    pub(super) fn set_owner(&mut self, labels: &[u8], at: usize) {
        self.owner = Cow::Owned([labels, ROOT].concat());
        self.owner_pointer = self.pointer(at);
    }

    /// The domain, where a pointer is allowed.
    pub(super) fn domain(&self) -> &[u8] {
        self.domain_pointer.as_ref().map_or(self.domain, |pointer| pointer)
    }

    /// The domain where it is not: in the target of `SRV` (RFC 2782).
    pub(super) fn domain_in_full(&self) -> &[u8] {
        self.domain
    }

    /// A pointer to a name that was just written, unless that is too far or not wanted.
    pub(super) fn pointer(&self, at: usize) -> Option<[u8; 2]> {
        pointer(at).filter(|_| self.is_compressing)
    }
}
