//! When each topic last changed.

use crate::tombstones::Tombstones;
use crate::topic::Topic;
use imbl::OrdMap;
use model::Index;

/// When each topic last changed. Topics of things that are gone are kept as tombstones, which are bounded.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Indexes {
    pub(crate) live: OrdMap<Topic, Index>,
    pub(crate) gone: Tombstones<Topic>,
}

impl Indexes {
    /// When the topic last changed; 0 if it never did.
    pub(crate) fn of(&self, topic: &Topic) -> Index {
        let known = self.live.get(topic).or_else(|| self.gone.map().get(topic));
        known.copied().unwrap_or_else(|| self.gone.floor())
    }

    /// Records a change of a topic whose thing is there.
    pub(crate) fn touch(&mut self, topic: Topic, index: Index) {
        self.gone.raise(&topic);
        self.live.insert(topic, index);
    }

    /// Records a change of a topic whose thing is gone.
    pub(crate) fn bury(&mut self, topic: Topic, index: Index) {
        self.live.remove(&topic);
        self.gone.bury(topic, index);
    }
}
