//! Services, checks and config entries that the configuration defines.

use crate::config::Settings;
use api::agent::{CheckRegistration, ServiceRegistration};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the configuration wants registered, in the order that it was written.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    pub(crate) services: Vec<ServiceRegistration>,
    pub(crate) checks: Vec<CheckRegistration>,
    pub(crate) config_entries: Vec<model::config_entry::ConfigEntry>,
}

impl Definitions {
    /// Reads them as the HTTP API would.
    ///
    /// # Errors
    /// Says which definition is wrong, and how. Nothing was registered.
    pub(crate) fn parse(settings: &Settings) -> Result<Self, String> {
        Ok(Definitions {
            services: each("service", settings.service.iter().chain(&settings.services))?,
            checks: each("check", settings.check.iter().chain(&settings.checks))?,
            config_entries: each("config_entries.bootstrap", settings.config_entries.bootstrap.iter())?,
        })
    }
}

fn each<'a, T: DeserializeOwned>(what: &str, values: impl Iterator<Item = &'a Value>) -> Result<Vec<T>, String> {
    values
        .map(|value| {
            let name =
                ["name", "Name", "id", "ID"].iter().find_map(|key| value[*key].as_str()).unwrap_or("without a name");
            api::json::from_slice(value.to_string().as_bytes()).map_err(|error| format!("{what} {name}: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};
    use serde_json::json;

    fn parse(flags: Value) -> Result<Definitions, String> {
        Definitions::parse(&load(&[Source::Flags(flags)]).expect("known keys").settings)
    }

    #[test]
    fn services_are_read_as_consuls_files_have_them() {
        let service = json!({
            "name": "web", "port": 80, "tags": ["a"], "enable_tag_override": true,
            "checks": [{"http": "http://127.0.0.1:80/", "interval": "10s", "deregister_critical_service_after": "1m"}],
            "connect": {"sidecar_service": {"proxy": {"upstreams": [{"destination_name": "db", "local_bind_port": 9191}]}}},
        });
        let definitions = parse(json!({"service": service, "check": {"name": "disk", "ttl": "30s"}})).expect("valid");
        let web = &definitions.services[0];
        assert_eq!((web.name.as_str(), web.port, web.enable_tag_override), ("web", 80, true));
        assert_eq!(web.checks[0].http, "http://127.0.0.1:80/");
        let sidecar = web.connect.sidecar_service.as_ref().expect("a sidecar");
        assert_eq!(sidecar.proxy.upstreams[0].destination_name, "db");
        assert_eq!(definitions.checks[0].name, "disk");
    }

    #[test]
    fn a_wrong_definition_is_named() {
        let error = parse(json!({"services": [{"name": "web", "port": "eighty"}]})).expect_err("a word is no port");
        assert!(error.starts_with("service web: "), "{error}");
    }
}
