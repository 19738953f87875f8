//! The datacenters of the federation.

use super::{Step, invalid};
use crate::command::{Refusal, Response};
use crate::tables::Row;
use crate::topic::Topic;
use model::datacenter::Datacenter;
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn set_datacenter(&mut self, datacenter: Datacenter) -> Result<Response, Refusal> {
        model::name::check_datacenter(&datacenter.name).map_err(invalid)?;
        let old = self.catalog.datacenters.get(datacenter.name.as_str()).cloned();
        if old.as_ref().is_some_and(|old| old.value == datacenter) {
            return Ok(Response::Done);
        }
        let key = Arc::from(&*datacenter.name);
        let row = Row::after(old.as_deref(), self.index, datacenter);
        self.catalog.datacenters.insert(key, row);
        self.touch(Topic::Datacenters);
        Ok(Response::Done)
    }

    pub(super) fn delete_datacenter(&mut self, name: &str) -> Response {
        if self.catalog.datacenters.remove(name).is_some() {
            self.touch(Topic::Datacenters);
        }
        Response::Done
    }
}
