//! Durations as Go prints and parses them: `1h2m3.5s`, `250ms`, `0s`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration in Consul's text form. In JSON a string (`"10s"`) or an integer of nanoseconds is read; a string is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration(pub Duration);

/// The text is no duration. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}: write a number and a unit, such as \"10s\", \"1m30s\" or \"250ms\"")]
pub struct InvalidDuration(pub String);

impl GoDuration {
    /// No time at all, which most settings read as "not set".
    pub const ZERO: GoDuration = GoDuration(Duration::ZERO);

    /// A duration of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        GoDuration(Duration::from_secs(secs))
    }

    /// Whether it is zero ("not set").
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

const UNITS_NS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    /// Parses Go's form (`time.ParseDuration`). Negative durations are refused: no setting of ours has a use for one.
    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let bad = || InvalidDuration(text.to_string());
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total_ns = 0u128;
        while !rest.is_empty() {
            let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let (number, tail) = rest.split_at(number_len);
            let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_len);
            let unit_ns = UNITS_NS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1;
            total_ns += number_ns(number, unit_ns).ok_or_else(bad)?;
            if total_ns > MAX_NS {
                return Err(bad());
            }
            rest = next;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_NS")]
        Ok(GoDuration(Duration::from_nanos(total_ns as u64)))
    }
}

/// The longest that Go can hold, about 292 years.
const MAX_NS: u128 = i64::MAX as u128;

/// `12.5` of a unit. What is less than a nanosecond is cut off, as in Go.
fn number_ns(number: &str, unit_ns: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // The unit has at most 13 digits: what comes after the 18th of a fraction is less than a nanosecond.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole_ns = digits(whole).filter(|whole| *whole <= MAX_NS)?.checked_mul(unit_ns)?;
    let fraction_ns = digits(fraction)? * unit_ns / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole_ns + fraction_ns)
}

impl fmt::Display for GoDuration {
    /// Prints Go's form (`time.Duration.String`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        if ns == 0 {
            return f.write_str("0s");
        }
        if ns < 1_000 {
            return write!(f, "{ns}ns");
        }
        if ns < 1_000_000 {
            return write!(f, "{}µs", decimal(ns, 1_000));
        }
        if ns < 1_000_000_000 {
            return write!(f, "{}ms", decimal(ns, 1_000_000));
        }
        let minutes = ns / 60_000_000_000;
        let seconds = decimal(ns % 60_000_000_000, 1_000_000_000);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds}s"),
            (0, m) => write!(f, "{m}m{seconds}s"),
            (h, m) => write!(f, "{h}h{m}m{seconds}s"),
        }
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let text = format!("{whole}.{fraction:0digits$}");
    text.trim_end_matches('0').to_string()
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"10s\", or nanoseconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                if text.is_empty() {
                    return Ok(GoDuration::ZERO);
                }
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, ns: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(ns)))
            }
            fn visit_i64<E: de::Error>(self, ns: i64) -> Result<GoDuration, E> {
                u64::try_from(ns)
                    .map(|ns| GoDuration(Duration::from_nanos(ns)))
                    .map_err(|_| E::custom("a duration cannot be negative"))
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
            fn visit_f64<E: de::Error>(self, ns: f64) -> Result<GoDuration, E> {
                if !(0.0..=i64::MAX as f64).contains(&ns) {
                    return Err(E::custom("a duration cannot be negative"));
                }
                Ok(GoDuration(Duration::from_nanos(ns as u64)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_as_go_does() {
        let cases = [
            ("10s", 10_000_000_000, "10s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("72h", 259_200_000_000_000, "72h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("250ms", 250_000_000, "250ms"),
            ("1h0m0.001s", 3_600_001_000_000, "1h0m0.001s"),
            ("3us", 3_000, "3µs"),
            ("17ns", 17, "17ns"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            (".5s", 500_000_000, "500ms"),
            ("5.s", 5_000_000_000, "5s"),
            ("0.0000000019s", 1, "1ns"),
            ("9223372036854775807ns", i64::MAX as u128, "2562047h47m16.854775807s"),
            ("87600h", 315_360_000_000_000_000, "87600h0m0s"),
        ];
        for (text, ns, printed) in cases {
            let d: GoDuration = text.parse().expect(text);
            assert_eq!(d.0.as_nanos(), ns, "{text}");
            assert_eq!(d.to_string(), printed);
            assert_eq!(d, d.to_string().parse().expect(printed));
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1x",
            "1s1",
            ".s",
            "1..5s",
            "9999999999999h",
            "9223372036854775808ns",
            "1..s",
            "1.2.3s",
            "é",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_takes_strings_and_nanoseconds() {
        assert_eq!(serde_json::from_str::<GoDuration>("\"15s\"").expect("string"), GoDuration::from_secs(15));
        assert_eq!(serde_json::from_str::<GoDuration>("15000000000").expect("number"), GoDuration::from_secs(15));
        assert_eq!(serde_json::to_string(&GoDuration::from_secs(15)).expect("prints"), "\"15s\"");
        assert!(serde_json::from_str::<GoDuration>("-1").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read_back(ns in 0..=i64::MAX as u64) {
            let duration = GoDuration(Duration::from_nanos(ns));
            proptest::prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.hmsnuµ+-]{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
