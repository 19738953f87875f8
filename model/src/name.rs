//! Which names are allowed, and how names compare.

/// Why a name was refused. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// There is no name.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// Longer than the limit in bytes.
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// What kind of name.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Has a character that would break DNS, URLs or logs.
    #[error("{what} {name:?} has a character that is not allowed: use letters, digits, '-', '_' and '.'")]
    Character {
        /// What kind of name.
        what: &'static str,
        /// The name.
        name: String,
    },
}

/// A datacenter's name: letters, digits, `-` and `_`, so that it is one DNS label.
pub fn check_datacenter(name: &str) -> Result<(), InvalidName> {
    check("datacenter name", name, 63, |c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A node's name. Dots are allowed, as in Consul; what DNS cannot carry is reachable by API only.
pub fn check_node(name: &str) -> Result<(), InvalidName> {
    check("node name", name, 253, |c| !c.is_control() && c != '/' && c != ' ')
}

/// A service's name or instance id. Consul takes nearly anything; control characters break logs and headers.
pub fn check_service(name: &str) -> Result<(), InvalidName> {
    check("service name", name, 512, |c| !c.is_control())
}

/// A check's id.
pub fn check_check(id: &str) -> Result<(), InvalidName> {
    check("check id", id, 512, |c| !c.is_control())
}

/// Whether two names of services, or of nodes, mean the same: they compare without case, as in Consul.
pub fn same(a: &str, b: &str) -> bool {
    let is_ascii = a.is_ascii() && b.is_ascii();
    a.eq_ignore_ascii_case(b) || (!is_ascii && a.to_lowercase() == b.to_lowercase())
}

fn check(what: &'static str, name: &str, max: usize, allowed: fn(char) -> bool) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty(what));
    }
    if name.len() > max {
        return Err(InvalidName::TooLong { what, max });
    }
    if !name.chars().all(allowed) {
        return Err(InvalidName::Character { what, name: name.to_string() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datacenters_are_one_dns_label() {
        for good in ["dc1", "us-east-1", "eu_west"] {
            assert_eq!(check_datacenter(good), Ok(()));
        }
        for bad in ["", "a.b", "dc 1", "dc/1", &"x".repeat(64)] {
            assert!(check_datacenter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_compare_without_case() {
        for (a, b, expected) in [("web", "WEB", true), ("web", "web2", false), ("É", "é", true), ("", "", true)] {
            assert_eq!(same(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn control_characters_are_refused_everywhere() {
        assert!(check_node("a\nb").is_err());
        assert!(check_service("a\0b").is_err());
        assert_eq!(check_node("web.rack1"), Ok(()));
    }
}
