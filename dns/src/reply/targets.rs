//! `SRV` records with what belongs to them in the additional section: addresses, and the nodes' metadata.

use super::names::Names;
use super::{NOTHING, Reply, write_address};
use crate::records::{SRV_FIXED_BYTES, Target};
use crate::wire::{ROOT, Section, Writer};
use hickory_proto::rr::RecordType;

/// What the additional section has already, by the numbers of names and nodes.
#[derive(Debug, Default)]
pub(crate) struct Told {
    addresses: Vec<bool>,
    meta: Vec<bool>,
}

impl Reply<'_> {
    /// As many targets as fit with what belongs to them.
    pub(super) fn tell_targets(&mut self, targets: &[Target], ttl_s: u32) {
        self.told.addresses.clear();
        self.told.meta.clear();
        let Self { writer, names, config, shuffler, told, is_trimmed, answers_max, .. } = self;
        let wants_meta = config.enable_additional_node_meta_txt;
        for target in shuffler.shuffle(targets) {
            if writer.count(Section::Answer) >= *answers_max {
                *is_trimmed = true;
                return;
            }
            let wanted = Extras {
                address: mark_told(&mut told.addresses, target.name_number),
                meta: wants_meta && mark_told(&mut told.meta, target.node_number),
            };
            // One answer without its extras is better than none.
            let fallbacks = [wanted, Extras { meta: false, ..wanted }, Extras::NONE];
            let extras = if writer.count(Section::Answer) == 0 { &fallbacks[..] } else { &fallbacks[..1] };
            if !extras.iter().any(|extras| write_target(writer, names, target, ttl_s, *extras)) {
                *is_trimmed = true;
                return;
            }
        }
    }
}

/// What goes along with an `SRV` record.
#[derive(Debug, Clone, Copy)]
struct Extras {
    address: bool,
    meta: bool,
}

impl Extras {
    const NONE: Self = Self { address: false, meta: false };
}

/// Writes the target's `SRV` record with its extras, or nothing at all.
fn write_target(writer: &mut Writer<'_>, names: &Names<'_>, target: &Target, ttl_s: u32, extras: Extras) -> bool {
    let mark = writer.mark();
    let owner = names.owner();
    let name_at = writer.next_data_at(owner.len()) + SRV_FIXED_BYTES;
    let end = if target.is_absolute { ROOT } else { names.domain_in_full() };
    let mut is_written = writer.record(Section::Answer, &[owner], RecordType::SRV, ttl_s, &[&target.srv, end]);
    let pointer = names.pointer(name_at);
    let end = if target.is_absolute { ROOT } else { names.domain() };
    let name = pointer.as_ref().map_or([target.name(), end], |pointer| [pointer, NOTHING]);
    if let Some(address) = target.address.filter(|_| extras.address) {
        is_written = is_written && write_address(writer, Section::Additional, &name, address, ttl_s);
    }
    if extras.meta {
        let node = if *target.node == *target.name() { name } else { [&*target.node, names.domain()] };
        let mut texts = target.meta.iter();
        is_written =
            is_written && texts.all(|text| writer.record(Section::Additional, &node, RecordType::TXT, ttl_s, &[text]));
    }
    if !is_written {
        writer.rollback(mark);
    }
    is_written
}

/// Notes that something is told, and whether that is news.
fn mark_told(told: &mut Vec<bool>, number: usize) -> bool {
    if told.len() <= number {
        told.resize(number + 1, false);
    }
    !std::mem::replace(&mut told[number], true)
}
