//! The certificate authority and revocations.

use crate::command::CaState;
use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;

/// The certificate authority, once there is one.
pub fn ca<'c>(view: &View<'c>) -> Option<&'c Row<CaState>> {
    view.note(Topic::Ca);
    view.catalog().ca.as_deref()
}

/// What is no longer good: serial numbers (lower-case hex) and SPIFFE ids, each in order.
pub fn revoked<'c>(view: &View<'c>) -> (Vec<&'c str>, Vec<&'c str>) {
    view.note(Topic::Revoked);
    let catalog = view.catalog();
    (catalog.revoked_serials.keys().map(|s| &**s).collect(), catalog.revoked_ids.keys().map(|s| &**s).collect())
}
