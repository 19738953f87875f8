//! A session: what holds locks. It lives as long as its node, its checks, and whoever renews it.

use crate::GoDuration;
use crate::name::{InvalidName, check_check, check_node};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// A lock delay if none is said.
pub const LOCK_DELAY_DEFAULT: Duration = Duration::from_secs(15);
/// The longest lock delay; a longer one counts as this.
pub const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
/// The shortest time to live, unless the servers are told otherwise.
pub const TTL_MIN: Duration = Duration::from_secs(10);
/// The longest time to live.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most checks of one session.
pub const CHECKS_MAX: usize = 64;
/// Longest display name, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// What holds locks. (Consul: `structs.Session`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Session {
    /// A UUID, made when the session is.
    #[serde(rename = "ID")]
    pub id: String,
    /// For people.
    pub name: String,
    /// The node that it lives and dies with.
    pub node: String,
    /// For so long after its end nobody may lock what it held.
    pub lock_delay: LockDelay,
    /// What becomes of the keys that it holds.
    pub behavior: Behavior,
    /// It ends when nobody renews it for so long; empty: it needs no renewal. The text is the client's.
    #[serde(rename = "TTL")]
    pub ttl: String,
    /// Checks of its node that it dies with.
    #[serde(deserialize_with = "null_is_empty")]
    pub node_checks: Vec<String>,
    /// Checks of instances on its node that it dies with.
    #[serde(serialize_with = "empty_is_null", deserialize_with = "null_is_empty")]
    pub service_checks: Vec<SessionCheck>,
    /// The old name of both.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub checks: Vec<String>,
}

/// A check of an instance. (Consul: `structs.ServiceCheck`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SessionCheck {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Consul Enterprise only; kept as it came.
    pub namespace: String,
}

/// What becomes of the keys that a session holds when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Behavior {
    /// They are unlocked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// Why a session was refused. The user's fault; nothing changed. The texts are Consul's where it has the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSession {
    /// There is no node.
    #[error("Must provide Node")]
    NoNode,
    /// There is no such behaviour.
    #[error("Invalid Behavior setting '{0}'")]
    Behavior(String),
    /// The time to live is no duration.
    #[error("Session TTL '{0}' invalid: time: invalid duration {0:?}")]
    TtlText(String),
    /// The time to live is too short or too long.
    #[error("Invalid Session TTL '{ns}', must be between [{min}={max}]", max = GoDuration(TTL_MAX))]
    Ttl {
        /// What was asked for, in nanoseconds.
        ns: u128,
        /// The shortest that is allowed.
        min: GoDuration,
    },
    /// More than [`CHECKS_MAX`].
    #[error("a session cannot have more than {CHECKS_MAX} checks")]
    TooManyChecks,
    /// The display name is longer than [`NAME_BYTES_MAX`].
    #[error("the name of a session cannot be longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// The node's name or a check's id cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Session {
    /// The ids of all checks that it dies with; one may be named twice.
    pub fn check_ids(&self) -> impl Iterator<Item = &str> {
        let node = self.checks.iter().chain(&self.node_checks).map(String::as_str);
        node.chain(self.service_checks.iter().map(|check| check.id.as_str()))
    }

    /// For how long it lives without being renewed; `None`: for ever. (One that is no duration is not kept.)
    pub fn ttl(&self) -> Option<Duration> {
        let ttl = self.ttl.parse::<GoDuration>().ok()?;
        Some(ttl.0).filter(|ttl| !ttl.is_zero())
    }

    /// Whether it can be kept; `ttl_min` is the servers' setting.
    pub fn validate(&self, ttl_min: Duration) -> Result<(), InvalidSession> {
        if self.node.is_empty() {
            return Err(InvalidSession::NoNode);
        }
        check_node(&self.node)?;
        if self.name.len() > NAME_BYTES_MAX {
            return Err(InvalidSession::NameTooLong);
        }
        if self.check_ids().count() > CHECKS_MAX {
            return Err(InvalidSession::TooManyChecks);
        }
        self.check_ids().try_for_each(check_check)?;
        if self.ttl.is_empty() {
            return Ok(());
        }
        let ttl: GoDuration = self.ttl.parse().map_err(|_| InvalidSession::TtlText(self.ttl.clone()))?;
        if !ttl.is_zero() && !(ttl_min..=TTL_MAX).contains(&ttl.0) {
            return Err(InvalidSession::Ttl { ns: ttl.0.as_nanos(), min: GoDuration(ttl_min) });
        }
        Ok(())
    }
}

impl std::str::FromStr for Behavior {
    type Err = InvalidSession;

    /// Empty means [`Behavior::Release`].
    fn from_str(text: &str) -> Result<Self, InvalidSession> {
        match text {
            "" | "release" => Ok(Behavior::Release),
            "delete" => Ok(Behavior::Delete),
            other => Err(InvalidSession::Behavior(other.to_string())),
        }
    }
}

/// A lock delay. In JSON it is read as a duration (`"15s"`) or a number, and written as a number of nanoseconds. What is
/// less than a microsecond was meant in seconds: `15` is fifteen seconds. (Consul: `lockDelayMinThreshold`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockDelay(pub Duration);

impl LockDelay {
    /// How long it is counted: at most [`LOCK_DELAY_MAX`].
    pub fn effective(self) -> Duration {
        self.0.min(LOCK_DELAY_MAX)
    }
}

impl Default for LockDelay {
    fn default() -> Self {
        LockDelay(LOCK_DELAY_DEFAULT)
    }
}

/// Numbers below this are seconds.
const NS_MIN: u128 = 1000;

impl Serialize for LockDelay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for LockDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let GoDuration(read) = GoDuration::deserialize(deserializer)?;
        let ns = read.as_nanos();
        let seconds = u64::try_from(ns).ok().filter(|_| ns < NS_MIN).map(Duration::from_secs);
        Ok(LockDelay(seconds.unwrap_or(read)))
    }
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn empty_is_null<S: Serializer, T: Serialize>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { serializer.serialize_none() } else { list.serialize(serializer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(ttl: &str) -> Session {
        Session { id: "i".into(), node: "n1".into(), ttl: ttl.into(), ..Session::default() }
    }

    #[test]
    fn the_shape_is_consuls() {
        let session = Session { node_checks: vec!["serfHealth".into()], ..session("30s") };
        let json = serde_json::to_value(&session).expect("prints");
        let wanted = serde_json::json!({
            "ID": "i", "Name": "", "Node": "n1", "LockDelay": 15_000_000_000_u64, "Behavior": "release", "TTL": "30s",
            "NodeChecks": ["serfHealth"], "ServiceChecks": null,
        });
        assert_eq!(json, wanted);
        assert_eq!(serde_json::from_value::<Session>(json).expect("reads"), session);
    }

    #[test]
    fn small_numbers_are_seconds() {
        for (text, ms) in [
            ("15", 15_000),
            ("\"15s\"", 15_000),
            ("15000000000", 15_000),
            ("0", 0),
            ("\"0s\"", 0),
            ("\"1m30s\"", 90_000),
            ("2.0", 2_000),
            ("999", 999_000),
            ("\"250ms\"", 250),
        ] {
            let delay: LockDelay = serde_json::from_str(text).expect(text);
            assert_eq!(delay.0.as_millis(), ms, "{text}");
            let again: LockDelay = serde_json::from_value(serde_json::to_value(delay).expect("prints")).expect("reads");
            assert_eq!(again, delay, "{text}");
        }
        assert!(serde_json::from_str::<LockDelay>("-1").is_err());
        assert_eq!(LockDelay(Duration::from_secs(90)).effective(), LOCK_DELAY_MAX);
    }

    #[test]
    fn times_to_live_are_bounded() {
        let refusal = |ttl: &str| session(ttl).validate(TTL_MIN).err().map(|e| e.to_string()).unwrap_or_default();
        for good in ["", "0s", "10s", "24h", "86400s"] {
            assert_eq!(refusal(good), "", "{good}");
        }
        for (bad, text) in [
            ("9s", "Invalid Session TTL '9000000000', must be between [10s=24h0m0s]"),
            ("25h", "Invalid Session TTL '90000000000000', must be between [10s=24h0m0s]"),
            ("x", "Session TTL 'x' invalid: time: invalid duration \"x\""),
        ] {
            assert_eq!(refusal(bad), text);
        }
        assert_eq!(session("").ttl(), None);
        assert_eq!(session("0s").ttl(), None);
        assert_eq!(session("1m").ttl(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let many = (0..=CHECKS_MAX).map(|n| n.to_string()).collect();
        for (bad, text) in [
            (Session { node: String::new(), ..session("") }, "Must provide Node"),
            (Session { node_checks: many, ..session("") }, "a session cannot have more than 64 checks"),
            (Session { name: "x".repeat(513), ..session("") }, "the name of a session cannot be longer than 512 bytes"),
            (Session { checks: vec![String::new()], ..session("") }, "check id must not be empty"),
        ] {
            assert_eq!(bad.validate(TTL_MIN).err().map(|e| e.to_string()).unwrap_or_default(), text);
        }
        assert_eq!("x".parse::<Behavior>(), Err(InvalidSession::Behavior("x".into())));
        assert_eq!("".parse(), Ok(Behavior::Release));
    }
}
