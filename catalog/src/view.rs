//! The only way to read the catalog: a view remembers which topics were read.

use crate::tables::Catalog;
use crate::topic::Topic;
use model::Index;
use std::cell::{Cell, RefCell};

/// A reader of one version of the catalog. Queries (`query::…`) take it and note what they read, also what they looked
/// for and did not find. It is made for one answer and thrown away.
#[derive(Debug)]
pub struct View<'c> {
    catalog: &'c Catalog,
    topics: RefCell<Vec<Topic>>,
    index: Cell<Index>,
}

impl<'c> View<'c> {
    /// A reader that has read nothing yet.
    pub fn new(catalog: &'c Catalog) -> Self {
        View { catalog, topics: RefCell::new(Vec::new()), index: Cell::new(Catalog::FIRST_INDEX) }
    }

    /// The highest index at which a topic that was read last changed: at least 1, and never lower for the same reads
    /// of a later version.
    pub fn index(&self) -> Index {
        self.index.get()
    }

    /// The topics that were read, each once, in order: a change of any other topic cannot change the answer.
    pub fn into_topics(self) -> Vec<Topic> {
        let mut topics = self.topics.into_inner();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// As [`View::into_topics`], for a view that is still needed.
    pub fn topics(&self) -> Vec<Topic> {
        View { catalog: self.catalog, topics: self.topics.clone(), index: self.index.clone() }.into_topics()
    }

    /// The version that is read.
    pub(crate) fn catalog(&self) -> &'c Catalog {
        self.catalog
    }

    /// Remembers that a topic was read.
    pub(crate) fn note(&self, topic: Topic) {
        if self.topics.borrow().last() == Some(&topic) {
            return;
        }
        let changed = self.catalog.indexes.of(&topic);
        self.note_at(topic, changed);
    }

    /// Remembers that a topic was read whose part in question last changed at this index.
    pub(crate) fn note_at(&self, topic: Topic, changed: Index) {
        self.index.set(self.index.get().max(changed));
        self.topics.borrow_mut().push(topic);
    }
}
