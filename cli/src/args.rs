//! Go's flags in clap's clothes: `-server`, `-node=web` and `-data-dir /x` are read as `--server`, `--node=web`, `--data-dir /x`.

use std::ffi::OsString;

/// Rewrites single-dash long flags to double-dash ones, so that scripts made for Consul go on working. `-h`, `-` and
/// negative numbers stay as they are; nothing after a bare `--` is touched.
pub(crate) fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.into_iter()
        .enumerate()
        .map(|(position, arg)| {
            let Some(text) = arg.to_str() else { return arg };
            literal |= text == "--";
            if position > 0 && !literal && is_long_flag(text) {
                return OsString::from(format!("-{text}"));
            }
            arg
        })
        .collect()
}

fn is_long_flag(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('-') else {
        return false;
    };
    rest.len() > 1 && rest.starts_with(|c: char| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_dash_flags_become_long_ones() {
        let cases = [
            (vec!["t", "agent", "-dev"], vec!["t", "agent", "--dev"]),
            (vec!["t", "agent", "-node=x", "-bind", "1.2.3.4"], vec!["t", "agent", "--node=x", "--bind", "1.2.3.4"]),
            (vec!["t", "kv", "put", "k", "-"], vec!["t", "kv", "put", "k", "-"]),
            (vec!["t", "-h"], vec!["t", "-h"]),
            (vec!["t", "kv", "put", "k", "-5"], vec!["t", "kv", "put", "k", "-5"]),
            (vec!["t", "--server"], vec!["t", "--server"]),
            (vec!["t", "kv", "put", "k", "--", "-value"], vec!["t", "kv", "put", "k", "--", "-value"]),
        ];
        for (given, want) in cases {
            let got = normalise(given.iter().map(OsString::from));
            assert_eq!(got, want.iter().map(OsString::from).collect::<Vec<_>>(), "{given:?}");
        }
    }
}
