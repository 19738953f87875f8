//! Sessions: begun, and ended with what they hold.

use super::{Step, invalid};
use crate::command::{Refusal, Response};
use crate::key::{Key, folded, under};
use crate::tables::Row;
use crate::topic::Topic;
use model::{CheckStatus, Session};
use std::sync::Arc;
use std::time::Duration;

impl Step<'_> {
    /// Begins a session, if its node is there and its checks are, and none is critical. The texts are Consul's.
    pub(super) fn create_session(&mut self, session: Session) -> Result<Response, Refusal> {
        // How short a time to live may be is a setting of servers, which may change.
        session.validate(Duration::ZERO).map_err(invalid)?;
        if session.id.is_empty() || self.catalog.sessions.contains_key(session.id.as_str()) {
            return Err(Refusal::Invalid(format!("the session id {:?} cannot be used: make another", session.id)));
        }
        let Some((node, _)) = self.catalog.nodes.get_key_value(&*folded(&session.node)) else {
            return Err(Refusal::Invalid("Missing node registration".into()));
        };
        let node = node.clone();
        for id in session.check_ids() {
            let status = self.catalog.check(&node, id).map(|(_, check)| check.status);
            let problem = match status {
                None => format!("Missing check '{id}' registration"),
                Some(status @ CheckStatus::Critical) => format!("Check '{id}' is in {status} state"),
                Some(CheckStatus::Passing | CheckStatus::Warning) => continue,
            };
            return Err(Refusal::Invalid(problem));
        }
        self.touch_session(&node, &session.id);
        self.catalog.put_session(Row::after(None, self.index, session));
        Ok(Response::Done)
    }

    pub(super) fn destroy_session(&mut self, id: &str) -> Response {
        self.end_session(id);
        Response::Done
    }

    /// Ends the sessions that depend on a check, which is gone or critical.
    pub(super) fn end_sessions_of_check(&mut self, check: &Key<3>) {
        let [node, _, id] = &check.0;
        let ids: Vec<Arc<str>> =
            under(&self.catalog.check_sessions, [node, id]).map(|(key, ())| key.0[2].clone()).collect();
        ids.iter().for_each(|id| self.end_session(id));
    }

    /// Ends the sessions of a node, which goes.
    pub(super) fn end_sessions_of_node(&mut self, node: &str) {
        let ids: Vec<Arc<str>> = under(&self.catalog.node_sessions, [node]).map(|(key, ())| key.0[1].clone()).collect();
        ids.iter().for_each(|id| self.end_session(id));
    }

    /// Ends a session: what it holds is released or deleted, and may not be locked for a while.
    fn end_session(&mut self, id: &str) {
        let Some(row) = self.catalog.remove_session(id) else { return };
        self.touch_session(&Arc::from(&*folded(&row.node)), id);
        let delay_ms = u64::try_from(row.lock_delay.effective().as_millis()).unwrap_or(u64::MAX);
        let keys: Vec<Arc<str>> = under(&self.catalog.session_keys, [id]).map(|(key, ())| key.0[1].clone()).collect();
        for key in keys.into_iter().filter(|_| !faults::has(faults::Bug::SessionKeepsKeys)) {
            self.kv_take(&key, row.behavior);
            if delay_ms > 0 {
                self.catalog.lock_delays.set(key, self.catalog.clock_ms.saturating_add(delay_ms));
            }
        }
    }

    fn touch_session(&mut self, node: &Arc<str>, id: &str) {
        self.touch(Topic::Sessions);
        self.touch(Topic::Session(Arc::from(id)));
        self.touch(Topic::NodeSessions(node.clone()));
    }
}
