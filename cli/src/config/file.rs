//! Where configuration comes from, and how several sources become one.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One place that configuration comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A JSON or HCL file.
    File(PathBuf),
    /// Every `.json` and `.hcl` file of a folder, in alphabetical order.
    Dir(PathBuf),
    /// A piece of HCL given on the command line.
    Hcl(String),
    /// Keys and values given on the command line.
    Flags(Value),
}

/// What is wrong with a configuration. Always the operator's to mend; nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{path} is not valid {format}: {message}")]
    Syntax { path: PathBuf, format: &'static str, message: String },
    #[error("{path}: a configuration file must end in .json or .hcl")]
    Extension { path: PathBuf },
    #[error("{origin}: unknown key {key:?}{}", suggestion.as_ref().map(|s| format!(": did you mean {s:?}?")).unwrap_or_default())]
    UnknownKey { origin: String, key: String, suggestion: Option<String> },
    #[error("{key}: {message}")]
    Value { key: String, message: String },
    #[error("{0}")]
    Conflict(String),
}

impl Source {
    /// The source's documents, each with the name that errors use for it.
    pub(crate) fn read(&self) -> Result<Vec<(String, Value)>, ConfigError> {
        match self {
            Source::File(path) => Ok(vec![(path.display().to_string(), parse(path)?)]),
            Source::Dir(dir) => {
                let mut files = list(dir)?;
                files.sort();
                files.iter().map(|path| Ok((path.display().to_string(), parse(path)?))).collect()
            }
            Source::Hcl(text) => {
                let value = hcl::from_str(text).map_err(|e| ConfigError::Syntax {
                    path: "-hcl".into(),
                    format: "HCL",
                    message: e.to_string(),
                })?;
                Ok(vec![("-hcl".to_string(), value)])
            }
            Source::Flags(value) => Ok(vec![("the command line".to_string(), value.clone())]),
        }
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: dir.to_path_buf(), error };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let known = path.extension().is_some_and(|e| e == "json" || e == "hcl");
        if path.is_file() && known {
            files.push(path);
        }
    }
    Ok(files)
}

fn parse(path: &Path) -> Result<Value, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_path_buf(), error })?;
    let syntax = |format, message| ConfigError::Syntax { path: path.to_path_buf(), format, message };
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|e| syntax("JSON", e.to_string())),
        Some("hcl") => hcl::from_str(&text).map_err(|e| syntax("HCL", e.to_string())),
        _ => Err(ConfigError::Extension { path: path.to_path_buf() }),
    }
}

/// Merges `from` into `into`: objects key by key, lists joined, anything else replaced.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from),
        (into, from) => *into = from,
    }
}

/// Makes an object of `a.b.c = value` pairs, as flags give them.
pub(crate) fn object_of(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut root = Value::Object(Map::new());
    for (path, value) in pairs {
        let nested =
            path.rsplit('.').fold(value, |inner, key| Value::Object(Map::from_iter([(key.to_string(), inner)])));
        merge(&mut root, nested);
    }
    root
}
