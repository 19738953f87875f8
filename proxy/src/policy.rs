//! May this caller in? The rules of one service, ready to be asked.

use crate::live::Verdict;
use model::ProxyConfig;
use model::SpiffeId;
use model::intention::Action;
use model::proxy_config::Inbound;
use model::spiffe::Subject;

/// The rules that name this service as the destination. Whether a certificate is still good is not asked here.
#[derive(Debug)]
pub(crate) struct Policy {
    trust_domain: String,
    inbound: Inbound,
}

impl Policy {
    pub(crate) fn new(config: &ProxyConfig, inbound: &Inbound) -> Self {
        Policy { trust_domain: config.trust_domain.to_ascii_lowercase(), inbound: inbound.clone() }
    }

    /// Only services of this mesh are callers; which of them, the intentions say.
    pub(crate) fn decide(&self, caller: &SpiffeId) -> Verdict {
        let Subject::Service { service, .. } = &caller.subject else {
            return Verdict::Deny;
        };
        if caller.trust_domain != self.trust_domain {
            return Verdict::Deny;
        }
        let decision = self.inbound.decide(service);
        match decision.action {
            Action::Allow => Verdict::Allow,
            Action::Deny
                if faults::has(faults::Bug::UnknownAllows)
                    && decision.rule.is_none_or(|rule| rule.source != *service) =>
            {
                Verdict::Allow
            }
            Action::Deny => Verdict::Deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::proxy_config::Rule;

    #[test]
    fn the_first_rule_that_names_the_caller_decides() {
        let rule = |source: &str, action| Rule { source: source.into(), action };
        use Action::{Allow, Deny};
        let cases = [
            ("no rule, denied by default", vec![], Deny, "web", Verdict::Deny),
            ("no rule, allowed by default", vec![], Allow, "web", Verdict::Allow),
            ("exact", vec![rule("web", Allow), rule("*", Deny)], Deny, "web", Verdict::Allow),
            ("any", vec![rule("web", Allow), rule("*", Deny)], Allow, "other", Verdict::Deny),
            ("exact denial", vec![rule("web", Deny), rule("*", Allow)], Allow, "web", Verdict::Deny),
            ("names are compared as they are", vec![rule("Web", Allow)], Deny, "web", Verdict::Deny),
        ];
        for (case, intentions, default_action, caller, expected) in cases {
            let config = ProxyConfig { trust_domain: "T.consul".into(), ..ProxyConfig::default() };
            let policy = Policy::new(&config, &Inbound { intentions, default_action, ..Inbound::default() });
            assert_eq!(policy.decide(&SpiffeId::service("t.consul", "dc2", caller)), expected, "{case}");
        }
    }

    #[test]
    fn only_services_of_this_mesh_are_callers() {
        let config = ProxyConfig { trust_domain: "t.consul".into(), ..ProxyConfig::default() };
        let policy = Policy::new(&config, &Inbound { default_action: Action::Allow, ..Inbound::default() });
        for id in [
            "spiffe://t.consul/agent/client/dc/dc1/id/n1",
            "spiffe://t.consul/agent/server/dc/dc1",
            "spiffe://t.consul/gateway/mesh/dc/dc1",
            "spiffe://other.consul/ns/default/dc/dc1/svc/web",
        ] {
            assert_eq!(policy.decide(&id.parse().expect(id)), Verdict::Deny, "{id}");
        }
    }
}
