//! Which metadata may be kept. The texts are Consul's.

use crate::Meta;
use crate::limits::{META_KEY_BYTES_MAX, META_PAIRS_MAX, META_VALUE_BYTES_MAX};

/// Why metadata was refused. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMeta {
    /// More than [`META_PAIRS_MAX`].
    #[error("Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs")]
    TooMany,
    /// One pair cannot be kept.
    #[error("Couldn't load metadata pair ('{key}', '{value}'): {problem}")]
    Pair {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: PairProblem,
    },
}

/// What is wrong with a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairProblem {
    /// There is no key.
    #[error("Key cannot be blank")]
    Blank,
    /// Has a character that is not allowed.
    #[error("Key contains invalid characters")]
    Characters,
    /// Longer than [`META_KEY_BYTES_MAX`].
    #[error("Key is too long (limit: {META_KEY_BYTES_MAX} characters)")]
    KeyTooLong,
    /// Longer than [`META_VALUE_BYTES_MAX`].
    #[error("Value is too long (limit: {META_VALUE_BYTES_MAX} characters)")]
    ValueTooLong,
}

/// Whether metadata may be kept: at most 64 pairs; keys of letters, digits, `-` and `_`.
pub fn validate(meta: &Meta) -> Result<(), InvalidMeta> {
    if meta.len() > META_PAIRS_MAX {
        return Err(InvalidMeta::TooMany);
    }
    for (key, value) in meta {
        if let Some(problem) = problem_of(key, value) {
            return Err(InvalidMeta::Pair { key: key.clone(), value: value.clone(), problem });
        }
    }
    Ok(())
}

fn problem_of(key: &str, value: &str) -> Option<PairProblem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if key.is_empty() {
        Some(PairProblem::Blank)
    } else if !key.chars().all(allowed) {
        Some(PairProblem::Characters)
    } else if key.len() > META_KEY_BYTES_MAX {
        Some(PairProblem::KeyTooLong)
    } else if value.len() > META_VALUE_BYTES_MAX {
        Some(PairProblem::ValueTooLong)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_consuls() {
        let one = |key: &str, value: &str| Meta::from([(key.to_string(), value.to_string())]);
        let cases = [
            (one("rack_1-a", "any thing"), ""),
            (one(&"k".repeat(128), &"v".repeat(512)), ""),
            (one("", "v"), "Couldn't load metadata pair ('', 'v'): Key cannot be blank"),
            (one("a b", "v"), "Couldn't load metadata pair ('a b', 'v'): Key contains invalid characters"),
            (
                (0..65).map(|n| (n.to_string(), String::new())).collect(),
                "Node metadata cannot contain more than 64 key/value pairs",
            ),
        ];
        for (meta, problem) in cases {
            assert_eq!(validate(&meta).err().map(|e| e.to_string()).unwrap_or_default(), problem);
        }
        assert!(validate(&one(&"k".repeat(129), "")).is_err());
        assert!(validate(&one("k", &"v".repeat(513))).is_err());
    }
}
