//! Intentions, kept by destination (which compares without case, as services do) and source (which must be exact).

use super::{Step, invalid};
use crate::command::{Refusal, Response};
use crate::key::{At, Key, folded, folded_arc};
use crate::tables::Row;
use crate::topic::Topic;
use model::Intention;
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn set_intention(&mut self, mut intention: Intention) -> Result<Response, Refusal> {
        intention.normalize();
        intention.validate().map_err(invalid)?;
        let key = Key([folded_arc(&intention.destination_name), Arc::from(&*intention.source_name)]);
        let old = self.catalog.intentions.get(&key).cloned();
        if let Some(old) = &old {
            intention.id.clone_from(&old.id);
            intention.created_at.clone_from(&old.created_at);
        }
        let row = Row::after(old.as_deref(), self.index, intention);
        self.touch_intention(&key);
        self.catalog.intentions.insert(key, row);
        Ok(Response::Done)
    }

    pub(super) fn delete_intention(&mut self, source: &str, destination: &str) -> Response {
        if let Some((key, _)) = self.catalog.intentions.remove_with_key(&At([&folded(destination), source])) {
            self.touch_intention(&key);
        }
        Response::Done
    }

    fn touch_intention(&mut self, key: &Key<2>) {
        self.touch(Topic::Intentions);
        self.touch(Topic::IntentionsFor(key.0[0].clone()));
    }
}
