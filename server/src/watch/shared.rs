//! Answers that several waiters share: the same question, asked of the same version of the catalog.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use model::Index;

/// The part of an HTTP answer that depends on the catalog alone. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

/// Answers of one version; a newer version forgets them all.
#[derive(Default)]
pub(crate) struct SharedAnswers(Mutex<OfVersion>);

#[derive(Default)]
struct OfVersion {
    version: Index,
    bytes: usize,
    answers: HashMap<Box<str>, (Answer, Index)>,
}

/// Most bytes of answers that are kept. One that does not fit is made again by each waiter.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most answers that are kept.
const ANSWERS_MAX: usize = 4096;

impl SharedAnswers {
    pub(crate) fn find(&self, target: &str, version: Index) -> Option<(Answer, Index)> {
        let kept = self.lock();
        (kept.version == version).then(|| kept.answers.get(target).cloned()).flatten()
    }

    pub(crate) fn keep(&self, target: &str, version: Index, answer: &Answer, index: Index) {
        let mut kept = self.lock();
        if kept.version != version {
            *kept = OfVersion { version, ..OfVersion::default() };
        }
        let bytes = answer.body.len() + target.len();
        if kept.bytes + bytes <= BYTES_MAX && kept.answers.len() < ANSWERS_MAX {
            kept.bytes += bytes;
            kept.answers.insert(target.into(), (answer.clone(), index));
        }
    }

    fn lock(&self) -> MutexGuard<'_, OfVersion> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Answer {
        Answer { status: StatusCode::OK, content_type: "application/json", body: vec![b'x'; bytes].into() }
    }

    #[test]
    fn an_answer_is_found_for_its_version_only() {
        let shared = SharedAnswers::default();
        shared.keep("/v1/kv/a", 5, &answer(1), 4);
        assert_eq!(shared.find("/v1/kv/a", 5), Some((answer(1), 4)));
        assert_eq!(shared.find("/v1/kv/b", 5), None);
        assert_eq!(shared.find("/v1/kv/a", 6), None);
        shared.keep("/v1/kv/b", 6, &answer(1), 6);
        assert_eq!(shared.find("/v1/kv/a", 5), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let shared = SharedAnswers::default();
        for i in 0..10 {
            shared.keep(&i.to_string(), 1, &answer(BYTES_MAX / 4), 1);
        }
        assert!(shared.lock().bytes <= BYTES_MAX);
        assert_eq!(shared.lock().answers.len(), 3);
    }
}
