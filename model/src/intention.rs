//! Intentions: who may call whom.

use crate::{Meta, is_default};
use serde::{Deserialize, Serialize};

/// A rule: may `source` call `destination`? `*` stands for any name. (Consul: `structs.Intention`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Intention {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: String,
    /// The operator's words.
    pub description: String,
    /// Always `default` here.
    #[serde(rename = "SourceNS")]
    pub source_ns: String,
    /// The caller, or `*`.
    pub source_name: String,
    /// Always `default` here.
    #[serde(rename = "DestinationNS")]
    pub destination_ns: String,
    /// The called, or `*`.
    pub destination_name: String,
    /// `consul`.
    pub source_type: String,
    /// Allow or deny.
    pub action: Action,
    /// 1 to 9: the more exact rule wins.
    pub precedence: u8,
    /// The operator's labels.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: Meta,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// What an intention says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The call is refused.
    #[default]
    Deny,
    /// The call may pass.
    Allow,
}

/// What an intention, or the lack of one, decides about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<R> {
    /// Whether the call may pass.
    pub action: Action,
    /// The rule that decided; none means the default did.
    pub rule: Option<R>,
}

/// Decides whether `source` may call `destination`: the most exact rule that names both (or `*`) wins, whatever the
/// order of the rules; of equals, the first. Without one it is the default. A destination compares without case, like
/// services everywhere, so that no other spelling evades its rules.
pub fn decide<'a>(
    source: &str,
    destination: &str,
    intentions: impl IntoIterator<Item = &'a Intention>,
    default: Action,
) -> Decision<&'a Intention> {
    let applies =
        |rule: &&Intention| names(&rule.source_name, source) && names_destination(&rule.destination_name, destination);
    let exactness = |rule: &&Intention| std::cmp::Reverse(precedence(&rule.source_name, &rule.destination_name));
    let rule = intentions.into_iter().filter(applies).min_by_key(exactness);
    Decision { action: rule.map_or(default, |rule| rule.action), rule }
}

fn names_destination(in_rule: &str, service: &str) -> bool {
    in_rule == ANY || crate::name::same(in_rule, service)
}

/// Whether a name in a rule stands for this caller, who is exactly who its certificate says.
pub fn names(in_rule: &str, service: &str) -> bool {
    in_rule == ANY || in_rule == service
}

/// Why an intention was refused. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIntention {
    /// A side is missing.
    #[error("{0} must be set")]
    Missing(&'static str),
    /// `*` within a name.
    #[error("{0}: wildcard character '*' cannot be used with partial values")]
    PartialWildcard(&'static str),
    /// A namespace that there is not.
    #[error("{0}: namespaces other than \"default\" do not exist here")]
    Namespace(&'static str),
    /// Not `consul`.
    #[error("SourceType must be set to 'consul'")]
    SourceType,
    /// See [`crate::meta`].
    #[error(transparent)]
    Meta(#[from] crate::meta::InvalidMeta),
}

impl Intention {
    /// Fills what may be left out: namespaces, source type, precedence.
    pub fn normalize(&mut self) {
        for (text, default) in
            [(&mut self.source_ns, "default"), (&mut self.destination_ns, "default"), (&mut self.source_type, "consul")]
        {
            if text.is_empty() {
                *text = default.to_string();
            }
        }
        self.precedence = precedence(&self.source_name, &self.destination_name);
    }

    /// Whether it can be kept, once [`Intention::normalize`]d.
    pub fn validate(&self) -> Result<(), InvalidIntention> {
        for (what, name) in [("SourceName", &self.source_name), ("DestinationName", &self.destination_name)] {
            if name.is_empty() {
                return Err(InvalidIntention::Missing(what));
            }
            if name != ANY && name.contains(ANY) {
                return Err(InvalidIntention::PartialWildcard(what));
            }
        }
        for (what, namespace) in [("SourceNS", &self.source_ns), ("DestinationNS", &self.destination_ns)] {
            if namespace != "default" && namespace != ANY {
                return Err(InvalidIntention::Namespace(what));
            }
        }
        if self.source_type != "consul" {
            return Err(InvalidIntention::SourceType);
        }
        Ok(crate::meta::validate(&self.meta)?)
    }
}

/// How exact a rule is; the more exact one wins. (Consul: 9 exact to exact, 8 any to exact, 6 exact to any, 5 any to any.)
pub fn precedence(source: &str, destination: &str) -> u8 {
    match (source, destination) {
        (ANY, ANY) => 5,
        (_, ANY) => 6,
        (ANY, _) => 8,
        (_, _) => 9,
    }
}

/// The name that stands for any name.
pub const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(source: &str, destination: &str, action: Action) -> Intention {
        let mut rule = Intention {
            source_name: source.into(),
            destination_name: destination.into(),
            action,
            ..Intention::default()
        };
        rule.normalize();
        rule
    }

    #[test]
    fn precedence_is_consuls() {
        for (source, destination, expected) in [("a", "b", 9), ("*", "b", 8), ("a", "*", 6), ("*", "*", 5)] {
            assert_eq!(precedence(source, destination), expected, "{source} {destination}");
        }
    }

    #[test]
    fn the_more_exact_rule_wins_whatever_the_order() {
        use Action::{Allow, Deny};
        let mut rules =
            vec![rule("*", "*", Deny), rule("web", "*", Allow), rule("*", "db", Deny), rule("web", "db", Allow)];
        for _ in 0..rules.len() {
            let decided = |source, destination| decide(source, destination, &rules, Deny).action;
            assert_eq!(decided("web", "db"), Allow);
            assert_eq!(decided("api", "db"), Deny);
            assert_eq!(decided("web", "cache"), Allow);
            assert_eq!(decided("api", "cache"), Deny);
            rules.rotate_left(1);
        }
        assert_eq!(decide("a", "b", &[], Allow), Decision { action: Allow, rule: None });
    }

    #[test]
    fn no_spelling_of_the_destination_evades_its_rules() {
        let rules = [rule("web", "DB", Action::Deny)];
        assert_eq!(decide("web", "db", &rules, Action::Allow).action, Action::Deny);
        let callers = [rule("WEB", "db", Action::Allow)];
        assert_eq!(decide("web", "db", &callers, Action::Deny).action, Action::Deny);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let spoilt = |spoil: fn(&mut Intention)| {
            let mut intention = rule("web", "db", Action::Allow);
            assert_eq!(intention.validate(), Ok(()));
            spoil(&mut intention);
            intention.validate().expect_err("is spoilt").to_string()
        };
        assert_eq!(spoilt(|i| i.source_name.clear()), "SourceName must be set");
        assert_eq!(
            spoilt(|i| i.destination_name = "d*".into()),
            "DestinationName: wildcard character '*' cannot be used with partial values"
        );
        assert_eq!(
            spoilt(|i| i.source_ns = "team".into()),
            "SourceNS: namespaces other than \"default\" do not exist here"
        );
        assert_eq!(spoilt(|i| i.source_type = "vault".into()), "SourceType must be set to 'consul'");
        assert!(spoilt(|i| i.meta = [(String::new(), String::new())].into()).contains("Key cannot be blank"));
    }

    /// For each rule that applies: no other that applies is more exact, and no earlier one is as exact.
    fn decide_naively(source: &str, destination: &str, rules: &[Intention], default: Action) -> Action {
        let applies = |rule: &Intention| {
            (rule.source_name == source || rule.source_name == "*")
                && (rule.destination_name == destination || rule.destination_name == "*")
        };
        for (at, rule) in rules.iter().enumerate() {
            let beaten = rules.iter().enumerate().any(|(other_at, other)| {
                applies(other)
                    && (other.precedence > rule.precedence || (other.precedence == rule.precedence && other_at < at))
            });
            if applies(rule) && !beaten {
                return rule.action;
            }
        }
        default
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![Just(Action::Allow), Just(Action::Deny)]
    }

    proptest! {
        #[test]
        fn decides_as_the_naive_reading_does(
            rules in prop::collection::vec(("[ab*]", "[ab*]", action()).prop_map(|(s, d, action)| rule(&s, &d, action)), 0..12),
            source in "[abc]",
            destination in "[abc]",
            default in action(),
        ) {
            let decided = decide(&source, &destination, &rules, default).action;
            prop_assert_eq!(decided, decide_naively(&source, &destination, &rules, default));
        }
    }
}
