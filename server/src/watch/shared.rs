//! Answers that several waiters share: the same question, asked of the same version of the catalog.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use catalog::Topic;
use http::StatusCode;
use model::Index;

/// The part of an HTTP answer that depends on the catalog alone. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

/// What a query found, and what it read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) index: Index,
    pub(super) topics: Arc<[Topic]>,
}

/// Answers of one version; a newer version forgets them all.
#[derive(Default)]
pub(crate) struct SharedAnswers(Mutex<OfVersion>);

#[derive(Default)]
struct OfVersion {
    version: Index,
    bytes: usize,
    answers: HashMap<Box<str>, Found>,
}

/// Most bytes of answers that are kept. One that does not fit is made again by each waiter.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most answers that are kept.
const ANSWERS_MAX: usize = 4096;

impl SharedAnswers {
    /// What was found for it in this version.
    pub(super) fn find(&self, target: &str, version: Index) -> Option<Found> {
        let kept = self.lock();
        (kept.version == version).then(|| kept.answers.get(target).cloned()).flatten()
    }

    pub(super) fn keep(&self, target: &str, version: Index, found: &Found) {
        let mut kept = self.lock();
        if kept.version != version {
            *kept = OfVersion { version, ..OfVersion::default() };
        }
        let bytes = found.answer.body.len() + target.len();
        if kept.bytes + bytes <= BYTES_MAX && kept.answers.len() < ANSWERS_MAX {
            kept.bytes += bytes;
            kept.answers.insert(target.into(), found.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, OfVersion> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: usize, index: Index) -> Found {
        let body = vec![b'x'; bytes].into();
        let answer = Answer { status: StatusCode::OK, content_type: "application/json", body };
        Found { answer, index, topics: Arc::new([]) }
    }

    #[test]
    fn an_answer_is_found_for_its_version_only() {
        let shared = SharedAnswers::default();
        shared.keep("/v1/kv/a", 5, &found(1, 4));
        assert_eq!(shared.find("/v1/kv/a", 5), Some(found(1, 4)));
        assert_eq!(shared.find("/v1/kv/b", 5), None);
        assert_eq!(shared.find("/v1/kv/a", 6), None);
        shared.keep("/v1/kv/b", 6, &found(1, 6));
        assert_eq!(shared.find("/v1/kv/a", 5), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let shared = SharedAnswers::default();
        for i in 0..10 {
            shared.keep(&i.to_string(), 1, &found(BYTES_MAX / 4, 1));
        }
        assert!(shared.lock().bytes <= BYTES_MAX);
        assert_eq!(shared.lock().answers.len(), 3);
    }
}
