//! What a reader can have read and a command can have changed.

use model::{CheckStatus, ServiceKind};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A part of the catalog that changes as one. Readers note topics, commands touch them; a reader needs to look again
/// only if one of its topics was touched. Names of nodes and services
/// in topics are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// The rows of all nodes.
    Nodes,
    /// The row of one node.
    Node(Arc<str>),
    /// The instances on one node.
    NodeServices(Arc<str>),
    /// The checks on one node, its instances' included.
    NodeChecks(Arc<str>),
    /// Which services there are, with which tags, on which nodes.
    Services,
    /// Every instance of every service.
    AllInstances,
    /// The instances of one service, and the rows of their nodes.
    Instances(Arc<str>),
    /// What speaks the mesh's protocol for one service (sidecars, native instances), and the rows of their nodes.
    Connect(Arc<str>),
    /// Which services something speaks the mesh's protocol for.
    ConnectNames,
    /// The gateways of one kind, and the rows of their nodes.
    Kind(ServiceKind),
    /// The checks of one service's instances.
    ServiceChecks(Arc<str>),
    /// The checks of the nodes that one service's instances are on.
    ServiceNodeChecks(Arc<str>),
    /// Every check.
    Checks,
    /// The checks that say this.
    ChecksIn(CheckStatus),
    /// One key.
    Kv(Arc<str>),
    /// All keys of a directory: a prefix that is empty or ends with `/`, at most [`Topic::KV_DEPTH_MAX`] levels deep.
    KvUnder(Arc<str>),
    /// Every session.
    Sessions,
    /// One session.
    Session(Arc<str>),
    /// The sessions of one node.
    NodeSessions(Arc<str>),
    /// Every intention.
    Intentions,
    /// The intentions for one destination (or `*`).
    IntentionsFor(Arc<str>),
    /// All entries of one kind.
    ConfigEntries(Arc<str>),
    /// One entry: kind and name.
    ConfigEntry(Arc<str>, Arc<str>),
    /// The certificate authority: roots, signing key, trust domain.
    Ca,
    /// Which certificates are no longer good.
    Revoked,
    /// The datacenters of the federation.
    Datacenters,
}

impl Topic {
    /// Most levels of directories that have a topic of their own. Deeper prefixes share that of their ancestor.
    pub const KV_DEPTH_MAX: usize = 16;

    /// The topic of a prefix of keys: that of the nearest directory that holds all such keys.
    pub fn kv_under(prefix: &str) -> Topic {
        let end = directory_ends(prefix).last().unwrap_or(0);
        Topic::KvUnder(Arc::from(&prefix[..end]))
    }

    /// The topics of all directories that hold this key.
    pub(crate) fn kv_ancestors(key: &str) -> impl Iterator<Item = Topic> + '_ {
        std::iter::once(0).chain(directory_ends(key)).map(|end| Topic::KvUnder(Arc::from(&key[..end])))
    }
}

/// Where the names of the directories above a key end, at most [`Topic::KV_DEPTH_MAX`] of them.
fn directory_ends(key: &str) -> impl Iterator<Item = usize> + '_ {
    key.match_indices('/').map(|(at, slash)| at + slash.len()).take(Topic::KV_DEPTH_MAX)
}

/// Which topics a command touched: each once, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The topics.
    pub topics: Vec<Topic>,
}

impl Changes {
    /// Whether nobody needs to look again.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}

impl IntoIterator for Changes {
    type Item = Topic;
    type IntoIter = std::vec::IntoIter<Topic>;

    fn into_iter(self) -> Self::IntoIter {
        self.topics.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(topic: &Topic) -> &str {
        match topic {
            Topic::KvUnder(prefix) => prefix,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_prefix_watches_the_nearest_directory() {
        for (prefix, directory) in
            [("", ""), ("a", ""), ("a/", "a/"), ("a/b", "a/"), ("a/b/c", "a/b/"), ("/", "/"), ("//x", "//")]
        {
            assert_eq!(name(&Topic::kv_under(prefix)), directory, "{prefix}");
        }
    }

    #[test]
    fn every_prefix_of_a_key_hears_of_it() {
        let deep = "d/".repeat(40) + "leaf";
        for key in ["a", "a/b/c", "/x", "a//b", "é/ü", &deep] {
            let touched: Vec<Topic> = Topic::kv_ancestors(key).collect();
            for (end, _) in key.char_indices().chain([(key.len(), ' ')]) {
                assert!(touched.contains(&Topic::kv_under(&key[..end])), "{key} {end}");
            }
            assert!(touched.len() <= Topic::KV_DEPTH_MAX + 1);
        }
    }
}
