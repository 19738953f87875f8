//! The agent's configuration: files (JSON or HCL) and flags, merged in order, checked key by key, then typed.
//!
//! Flags are turned into the same keys as files and merged last, so that there is one path for everything.

mod file;
mod keys;
mod settings;

pub(crate) use file::{ConfigError, Source, object_of};
pub(crate) use settings::{Node, Settings};

use serde_json::Value;

/// What a configuration says, and what the operator should know about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The settings, typed and defaulted.
    pub(crate) settings: Settings,
    /// Keys that are accepted but do nothing here, each with the reason.
    pub(crate) ignored: Vec<String>,
}

/// Reads, merges and checks every source. Later sources win; lists are joined, as in Consul.
///
/// # Errors
/// A file that cannot be read or parsed, a key that nobody knows (with a suggestion), or a value of the wrong type: the
/// operator's to mend; nothing was started.
pub(crate) fn load(sources: &[Source]) -> Result<Loaded, ConfigError> {
    let mut merged = Value::Object(serde_json::Map::new());
    let mut ignored = Vec::new();
    for source in sources {
        for (origin, mut value) in source.read()? {
            keys::check(&origin, &mut value, &mut ignored)?;
            file::merge(&mut merged, value);
        }
    }
    let settings = Settings::from_value(merged)?;
    settings.validate()?;
    ignored.sort();
    ignored.dedup();
    Ok(Loaded { settings, ignored })
}

#[cfg(test)]
mod tests;
