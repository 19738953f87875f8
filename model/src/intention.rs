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
