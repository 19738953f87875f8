//! Checks that repeat what other checks say. They need no task: they are updated where the others are.

use super::{Local, State, kept};
use model::CheckStatus;

impl State {
    pub(super) fn unlink_alias(&mut self, target: Option<&str>, check_id: &str) {
        let Some(target) = target else { return };
        if let Some(aliases) = self.aliases.get_mut(target) {
            aliases.remove(check_id);
            if aliases.is_empty() {
                self.aliases.remove(target);
            }
        }
    }

    /// Lets the checks that repeat an instance's say what its checks say now. A change of the node's (no id) concerns all.
    pub(super) fn update_aliases_of(&mut self, service_id: &str, local: &Local, change: &mut kept::Change) {
        if self.aliases.is_empty() {
            return;
        }
        let targets: Vec<String> = match service_id {
            "" => self.aliases.keys().cloned().collect(),
            id => self.aliases.contains_key(id).then(|| id.to_string()).into_iter().collect(),
        };
        for target in targets {
            for alias in self.aliases.get(&target).cloned().unwrap_or_default() {
                let (status, output) = self.alias_says(&target, &alias);
                // Two that repeat each other come to rest: the worst status only spreads, and equal ones change nothing.
                if self.checks.get(&alias).is_some_and(|e| e.check.status != status || e.check.output != output) {
                    self.update_check(&alias, status, output, local, change);
                }
            }
        }
    }

    /// The worst of an instance's checks and the node's. (Consul: `CheckAlias.processChecks`.)
    fn alias_says(&self, target: &str, alias: &str) -> (CheckStatus, String) {
        let Some(service) = self.services.get(target) else {
            return (CheckStatus::Critical, format!("Service {target} could not be found on node"));
        };
        let own = service.checks.iter().filter(|id| *id != alias).filter_map(|id| self.checks.get(id));
        let of_node = self.node_checks.iter().filter(|id| *id != alias).filter_map(|id| self.checks.get(id));
        let all = own.chain(of_node).filter(|e| e.plan.alias() != Some(target));
        match all.max_by_key(|e| e.check.status) {
            None => (CheckStatus::Passing, "No checks found.".to_string()),
            Some(worst) if worst.check.status == CheckStatus::Passing => {
                (CheckStatus::Passing, "All checks passing.".to_string())
            }
            Some(worst) => {
                let output = format!("Aliased check {:?} failing: {}", worst.check.name, worst.check.output);
                (worst.check.status, model::check::bound_output(output))
            }
        }
    }
}
