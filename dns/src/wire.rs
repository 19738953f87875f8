//! The one way to build an answer: a `Writer` that copies names and records behind the question, within a limit.
//!
//! Names are given as slices that follow each other on the wire: labels, then the domain or a pointer to it. The
//! additional section grows beside the others and is appended at the end, so that an answer and what belongs to it can
//! be taken or left together.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::request::{Edns, HEADER_BYTES};

const FLAG_RESPONSE: u8 = 0x80;
const FLAG_AUTHORITATIVE: u8 = 0x04;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;
/// Opcode and "recursion desired" are handed back as they came.
const ECHOED_MASK: u8 = 0x79;
const CHECKING_DISABLED_MASK: u8 = 0x10;
/// An OPT record without options.
const OPT_BYTES: usize = 11;
const CLASS_IN: u16 = 1;
/// Type, class, time to live, length of the data.
const RECORD_FIXED_BYTES: usize = 10;
/// Pointers have 14 bits (RFC 1035 §4.1.4).
const POINTER_MAX: usize = 0x3fff;

/// The root label: the end of every name that is written in full.
pub(crate) const ROOT: &[u8] = &[0];

/// Where a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Flags and code of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) code: ResponseCode,
    pub(crate) is_authoritative: bool,
    pub(crate) is_truncated: bool,
    pub(crate) recursion_available: bool,
}

impl Verdict {
    /// For questions that are not answered from the zone.
    pub(crate) fn refusal(code: ResponseCode) -> Self {
        Self { code, is_authoritative: false, is_truncated: false, recursion_available: false }
    }
}

/// What was written at some moment, to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    body: usize,
    additional: usize,
    counts: [u16; 3],
}

/// Builds one answer.
pub(crate) struct Writer<'a> {
    body: &'a mut Vec<u8>,
    additional: &'a mut Vec<u8>,
    /// Answer, authority, additional.
    counts: [u16; 3],
    limit_bytes: usize,
    opt: Option<(Edns, u16)>,
}

impl<'a> Writer<'a> {
    /// Starts an answer to `packet`, whose header is echoed. `limit_bytes` holds for the whole message; room for the OPT record
    /// (`opt`: what was asked, and the payload that we take) is set aside.
    pub(crate) fn new(
        body: &'a mut Vec<u8>,
        additional: &'a mut Vec<u8>,
        header: &[u8; HEADER_BYTES],
        limit_bytes: usize,
        opt: Option<(Edns, u16)>,
    ) -> Self {
        body.clear();
        additional.clear();
        body.extend_from_slice(header);
        let limit_bytes = limit_bytes - if opt.is_some() { OPT_BYTES } else { 0 };
        Self { body, additional, counts: [0; 3], limit_bytes, opt }
    }

    /// The question as it was spelled. Written in full, so that a pointer to a part of it can be reckoned.
    pub(crate) fn question(&mut self, name: &[u8], record_type: RecordType, class: u16) {
        self.body.extend_from_slice(name);
        self.body.extend_from_slice(&u16::from(record_type).to_be_bytes());
        self.body.extend_from_slice(&class.to_be_bytes());
    }

    /// Adds a record unless it would break the limit, and tells whether it did.
    #[inline]
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: &[&[u8]],
        record_type: RecordType,
        ttl_s: u32,
        data: &[&[u8]],
    ) -> bool {
        let data_bytes: usize = data.iter().map(|part| part.len()).sum();
        let owner_bytes: usize = owner.iter().map(|part| part.len()).sum();
        let Ok(length) = u16::try_from(data_bytes) else {
            return false;
        };
        if self.len() + owner_bytes + RECORD_FIXED_BYTES + data_bytes > self.limit_bytes {
            return false;
        }
        let out = match section {
            Section::Answer | Section::Authority => &mut *self.body,
            Section::Additional => &mut *self.additional,
        };
        owner.iter().for_each(|part| out.extend_from_slice(part));
        let mut fixed = [0; RECORD_FIXED_BYTES];
        fixed[..2].copy_from_slice(&u16::from(record_type).to_be_bytes());
        fixed[2..4].copy_from_slice(&CLASS_IN.to_be_bytes());
        fixed[4..8].copy_from_slice(&ttl_s.to_be_bytes());
        fixed[8..].copy_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&fixed);
        data.iter().for_each(|part| out.extend_from_slice(part));
        self.counts[section as usize] += 1;
        true
    }

    /// Where the data of the next record of the answer will begin, if its owner takes `owner_bytes`.
    pub(crate) fn next_data_at(&self, owner_bytes: usize) -> usize {
        self.body.len() + owner_bytes + RECORD_FIXED_BYTES
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { body: self.body.len(), additional: self.additional.len(), counts: self.counts }
    }

    pub(crate) fn rollback(&mut self, mark: Mark) {
        self.body.truncate(mark.body);
        self.additional.truncate(mark.additional);
        self.counts = mark.counts;
    }

    /// How many records are in a section.
    pub(crate) fn count(&self, section: Section) -> usize {
        usize::from(self.counts[section as usize])
    }

    /// Puts the parts together.
    pub(crate) fn finish(mut self, verdict: Verdict) {
        let code = u16::from(verdict.code);
        if let Some((asked, payload_bytes)) = self.opt {
            let [code_high, _] = (code << 4).to_be_bytes();
            let flags = if asked.dnssec_ok { 0x80 } else { 0 };
            let [size_high, size_low] = payload_bytes.to_be_bytes();
            self.additional.extend_from_slice(&[0, 0, 41, size_high, size_low, code_high, 0, flags, 0, 0, 0]);
            self.counts[Section::Additional as usize] += 1;
        }
        self.body.extend_from_slice(self.additional);
        let has_question = self.body.len() > HEADER_BYTES;
        let header = &mut self.body[..HEADER_BYTES];
        let mut flags = FLAG_RESPONSE | (header[2] & ECHOED_MASK);
        flags |= if verdict.is_authoritative { FLAG_AUTHORITATIVE } else { 0 };
        flags |= if verdict.is_truncated { FLAG_TRUNCATED } else { 0 };
        let available = if verdict.recursion_available { FLAG_RECURSION_AVAILABLE } else { 0 };
        let [_, code_low] = (code & 0x0f).to_be_bytes();
        header[2] = flags;
        header[3] = available | (header[3] & CHECKING_DISABLED_MASK) | code_low;
        header[4..6].copy_from_slice(&u16::from(has_question).to_be_bytes());
        for (count, place) in self.counts.iter().zip(header[6..].chunks_exact_mut(2)) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }

    fn len(&self) -> usize {
        self.body.len() + self.additional.len()
    }
}

/// A compression pointer, if that far can be pointed.
pub(crate) fn pointer(at: usize) -> Option<[u8; 2]> {
    let at = u16::try_from(at).ok().filter(|at| usize::from(*at) <= POINTER_MAX)?;
    Some((at | 0xc000).to_be_bytes())
}
