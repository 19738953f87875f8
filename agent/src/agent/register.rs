//! Registering and deregistering: from configuration files and over HTTP alike.

use super::Agent;
use crate::check::{Plan, spec};
use crate::config::Source;
use crate::local::{CheckSpec, Registered};
use api::Error;
use api::agent::{CheckRegistration, ServiceRegistration};
use model::agent_check::{AgentCheck, InvalidCheck};
use model::check::{NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX};
use model::registration::{InvalidService, sidecar_id, validate_instance};
use model::{Check, CheckStatus, ServiceInstance, ServiceKind};
use std::sync::Arc;

impl Agent {
    /// Registers a service with its checks and its sidecar; durable when it returns. `replace` removes checks that are not
    /// named. The same again changes nothing.
    ///
    /// # Errors
    /// Consul's refusals (400), with nothing changed.
    pub async fn register_service(
        &self,
        registration: &ServiceRegistration,
        replace: bool,
        source: Source,
    ) -> Result<(), Error> {
        let refused = |refusal: InvalidService| Error::bad_request(refusal.to_string());
        registration.validate().map_err(refused)?;
        let (instance, checks) = self.parts(registration, source)?;
        let sidecar = match &registration.connect.sidecar_service {
            None => None,
            Some(wanted) => {
                let port = if wanted.port == 0 { self.sidecar_port(&instance.id)? } else { wanted.port };
                // Invariant: there is a sidecar in the registration, so there is one to be made of it.
                let sidecar = registration.sidecar(port).expect("a sidecar");
                let (instance, checks) = self.parts(&sidecar, source)?;
                validate_instance(&instance).map_err(refused)?;
                Some((instance, checks))
            }
        };
        self.run(self.inner.local.register(instance, checks, replace)?);
        if let Some((instance, checks)) = sidecar {
            self.run(self.inner.local.register(instance, checks, replace)?);
        }
        self.inner.local.durable().await;
        Ok(())
    }

    /// Removes a service by its id, with its checks and its sidecar; false if there is none. Durable when it returns: the
    /// catalog will be told, even if the agent restarts before.
    ///
    /// # Errors
    /// 500 if it cannot be kept.
    pub async fn deregister_service(&self, id: &str) -> Result<bool, Error> {
        let Some(checks) = self.inner.local.deregister(id)? else { return Ok(false) };
        checks.iter().for_each(|check| self.inner.runners.stop(check));
        let sidecar = sidecar_id(id);
        if self
            .inner
            .local
            .service(&sidecar)
            .is_some_and(|s| s.kind == ServiceKind::ConnectProxy && s.proxy.destination_service_id == id)
        {
            let checks = self.inner.local.deregister(&sidecar)?.unwrap_or_default();
            checks.iter().for_each(|check| self.inner.runners.stop(check));
        }
        self.inner.local.durable().await;
        Ok(true)
    }

    /// Registers a check of the node, or of a service that is registered here; durable when it returns.
    ///
    /// # Errors
    /// Consul's refusals, with nothing changed.
    pub async fn register_check(&self, registration: &CheckRegistration, source: Source) -> Result<(), Error> {
        if registration.name.is_empty() {
            return Err(Error::bad_request(InvalidCheck::NoName.to_string()));
        }
        let mut check = registration.clone();
        check.normalize(None, 0, 1);
        let service = match check.service_id.as_str() {
            "" => None,
            id => Some(
                self.inner
                    .local
                    .service(id)
                    .ok_or_else(|| Error::internal(format!("ServiceID {id:?} does not exist")))?,
            ),
        };
        let spec = spec(&self.inner.config.node.name, check, service.as_deref(), self.inner.config.scripts, source)?;
        self.run(self.inner.local.register_check(spec)?);
        self.inner.local.durable().await;
        Ok(())
    }

    /// Removes a check; false if there is none. Durable when it returns.
    ///
    /// # Errors
    /// 500 if it cannot be kept.
    pub async fn deregister_check(&self, id: &str) -> Result<bool, Error> {
        self.inner.runners.stop(id);
        let was_there = self.inner.local.deregister_check(id)?;
        if was_there {
            self.inner.local.durable().await;
        }
        Ok(was_there)
    }

    /// Somebody's word on a TTL check.
    pub(crate) async fn report(&self, id: &str, status: CheckStatus, output: String) -> Result<(), Error> {
        let plan = self.inner.local.plan(id).ok_or_else(|| {
            Error::not_found(format!(
                "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
            ))
        })?;
        if plan.ttl().is_none() {
            return Err(Error::internal(format!("CheckID {id:?} does not have associated TTL")));
        }
        if self.inner.local.update_check(id, status, model::check::bound_output(output))? {
            self.inner.local.durable().await;
        }
        Ok(())
    }

    /// Puts the node into maintenance, or (by id) one of its services; or out of it. False if there is no such service.
    pub(crate) async fn set_maintenance(
        &self,
        service_id: Option<&str>,
        enable: bool,
        reason: &str,
    ) -> Result<bool, Error> {
        let service = match service_id {
            None => None,
            Some(id) => match self.inner.local.service(id) {
                Some(service) => Some(service),
                None => return Ok(false),
            },
        };
        let check_id =
            service_id.map_or_else(|| NODE_MAINTENANCE.to_string(), |id| format!("{SERVICE_MAINTENANCE_PREFIX}{id}"));
        if enable {
            let spec = maintenance(&self.inner.config.node.name, check_id, service.as_deref(), reason);
            self.inner.local.register_check(spec)?;
        } else {
            self.inner.local.deregister_check(&check_id)?;
        }
        self.inner.local.durable().await;
        Ok(true)
    }

    fn parts(
        &self,
        registration: &ServiceRegistration,
        source: Source,
    ) -> Result<(ServiceInstance, Vec<CheckSpec>), Error> {
        if matches!(registration.address.as_str(), "0.0.0.0" | "::" | "[::]") {
            return Err(Error::bad_request("Invalid service address"));
        }
        let instance = registration.instance();
        let (node, scripts) = (&self.inner.config.node.name, self.inner.config.scripts);
        let checks = registration
            .all_checks()
            .into_iter()
            .map(|check: AgentCheck| spec(node, check, Some(&instance), scripts, source));
        let checks = checks.collect::<Result<_, _>>()?;
        Ok((instance, checks))
    }

    fn run(&self, registered: Registered) {
        registered.stop.iter().for_each(|id| self.inner.runners.stop(id));
        registered.start.iter().for_each(|id| self.inner.runners.start(id));
    }

    /// The port that the sidecar has, or the first one that no service here has.
    fn sidecar_port(&self, id: &str) -> Result<u16, Error> {
        if let Some(known) = self.inner.local.service(&sidecar_id(id)) {
            return Ok(known.port);
        }
        let taken: std::collections::BTreeSet<u16> = self.inner.local.services().iter().map(|s| s.port).collect();
        let mut range = self.inner.config.sidecar_ports.clone();
        let (first, last) = (*range.start(), *range.end());
        range.find(|port| !taken.contains(port)).ok_or_else(|| {
            Error::bad_request(format!(
                "unable to auto-assign a port for sidecar service, none left in the configured range [{first}, {last}]"
            ))
        })
    }
}

/// The check of maintenance. Its names and words are Consul's.
fn maintenance(node: &str, check_id: String, service: Option<&ServiceInstance>, reason: &str) -> CheckSpec {
    let (what, name) = match service {
        Some(_) => ("service", "Service Maintenance Mode"),
        None => ("node", "Node Maintenance Mode"),
    };
    let default =
        format!("Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message.");
    let made = AgentCheck { check_id: check_id.clone(), name: name.to_string(), ..AgentCheck::default() };
    let check = Check {
        node: node.to_string(),
        check_id,
        name: name.to_string(),
        status: CheckStatus::Critical,
        notes: if reason.is_empty() { default } else { reason.to_string() },
        service_id: service.map(|s| s.id.clone()).unwrap_or_default(),
        service_name: service.map(|s| s.service.clone()).unwrap_or_default(),
        service_tags: service.map(|s| s.tags.clone()).unwrap_or_default(),
        kind: "maintenance".to_string(),
        ..Check::default()
    };
    CheckSpec { check, plan: Arc::new(Plan::fixed(made)) }
}
