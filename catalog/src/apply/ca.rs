//! The certificate authority and revocations.

use super::Step;
use crate::command::{CaState, Response, Revocation};
use crate::tables::Row;
use crate::topic::Topic;
use imbl::OrdMap;
use model::Index;
use std::sync::Arc;

impl Step<'_> {
    /// Two leaders that both made a root must not both succeed, so the state is only ever compared and set.
    pub(super) fn set_ca(&mut self, expected: Index, state: CaState) -> Response {
        let old = self.catalog.ca.clone();
        if expected != old.as_ref().map_or(0, |row| row.modify_index) {
            return Response::CasFailed;
        }
        self.catalog.ca = Some(Row::after(old.as_deref(), self.index, state));
        self.touch(Topic::Ca);
        Response::Done
    }

    pub(super) fn revoke(&mut self, revocation: Revocation) -> Response {
        let Revocation { serials, ids, until_secs } = revocation;
        let serials_changed = extend(&mut self.catalog.revoked_serials, serials, until_secs);
        let ids_changed = extend(&mut self.catalog.revoked_ids, ids, until_secs);
        if serials_changed || ids_changed {
            self.touch(Topic::Revoked);
        }
        Response::Done
    }

    pub(super) fn forget_revoked(&mut self, before_secs: u64) -> Response {
        let serials_changed = forget(&mut self.catalog.revoked_serials, before_secs);
        let ids_changed = forget(&mut self.catalog.revoked_ids, before_secs);
        if serials_changed || ids_changed {
            self.touch(Topic::Revoked);
        }
        Response::Done
    }
}

/// Adds names, each until the later of two times; says whether anything changed.
fn extend(map: &mut OrdMap<Arc<str>, u64>, names: Vec<String>, until_secs: u64) -> bool {
    let mut changed = false;
    for name in names {
        let later = map.get(name.as_str()).is_none_or(|known| *known < until_secs);
        if later {
            map.insert(Arc::from(name), until_secs);
            changed = true;
        }
    }
    changed
}

/// Removes names whose time is over; says whether anything changed.
fn forget(map: &mut OrdMap<Arc<str>, u64>, before_secs: u64) -> bool {
    let over: Vec<Arc<str>> =
        map.iter().filter(|(_, until)| **until < before_secs).map(|(name, _)| name.clone()).collect();
    for name in &over {
        map.remove(&**name);
    }
    !over.is_empty()
}
