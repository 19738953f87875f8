//! Bytes to a request: what may be answered, and what is refused before anything is looked up.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

/// Bytes of a message's header (RFC 1035 §4.1.1).
pub(crate) const HEADER_BYTES: usize = 12;
const FLAG_RESPONSE: u8 = 0x80;
const OPCODE_MASK: u8 = 0x78;
/// OPT and a signature: more is no question.
const ADDITIONAL_RECORDS_MAX: u16 = 2;

/// A question with what its asker is able to take.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: Name,
    pub(crate) record_type: RecordType,
    pub(crate) class: DNSClass,
    pub(crate) edns: Option<Edns>,
}

/// What the asker's OPT record says (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) version: u8,
    pub(crate) payload_bytes: u16,
    pub(crate) dnssec_ok: bool,
}

/// Why a packet is not looked at any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// No answer at all: an answer to an answer could go on for ever, and a stub of a header has nobody to answer to.
    Drop,
    /// A bare header with this code.
    Reject(ResponseCode),
}

impl Request {
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Unfit> {
        let header = packet.first_chunk::<HEADER_BYTES>().ok_or(Unfit::Drop)?;
        if header[2] & FLAG_RESPONSE != 0 {
            return Err(Unfit::Drop);
        }
        if header[2] & OPCODE_MASK != 0 {
            return Err(Unfit::Reject(ResponseCode::NotImp));
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        // Checked here because the decoder reserves memory for as many as the header claims.
        if (count(4), count(6), count(8)) != (1, 0, 0) || count(10) > ADDITIONAL_RECORDS_MAX {
            return Err(Unfit::Reject(ResponseCode::FormErr));
        }
        let message = Message::from_vec(packet).map_err(|_| Unfit::Reject(ResponseCode::FormErr))?;
        let edns = message.edns.as_ref().map(|edns| Edns {
            version: edns.version(),
            payload_bytes: edns.max_payload(),
            dnssec_ok: edns.flags().dnssec_ok,
        });
        debug_assert_eq!(message.metadata.op_code, OpCode::Query);
        let query = message.queries.into_iter().next().ok_or(Unfit::Reject(ResponseCode::FormErr))?;
        Ok(Self { name: query.name, record_type: query.query_type, class: query.query_class, edns })
    }
}
