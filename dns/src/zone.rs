//! The settings made ready for answering: checked once, and domains as they are on the wire.

use crate::Error;
use crate::config::{Config, UDP_ANSWER_BYTES_MAX, UDP_PLAIN_BYTES_MAX};

/// Longest domain, in bytes: the labels before it take at most 200 of a name's 255.
const DOMAIN_BYTES_MAX: usize = 50;

/// Checked settings. Made once, shared by all listeners.
#[derive(Debug)]
pub struct Zone {
    pub(crate) config: Config,
    /// `domain`, then `alt_domain` if there is one.
    pub(crate) domains: Vec<Domain>,
}

impl Zone {
    /// Checks the settings. Fails with [`Error::BadDomain`] or [`Error::BadSetting`], the operator's fault.
    pub fn new(config: Config) -> Result<Self, Error> {
        let limits = UDP_PLAIN_BYTES_MAX..=UDP_ANSWER_BYTES_MAX;
        if !limits.contains(&config.udp_bytes_max) {
            let reason = format!(
                "the largest UDP answer must be 512 to {UDP_ANSWER_BYTES_MAX} bytes, not {}",
                config.udp_bytes_max
            );
            return Err(Error::BadSetting { reason });
        }
        let names = std::iter::once(&config.domain).chain(&config.alt_domain);
        let domains = names.map(|name| Domain::parse(name)).collect::<Result<_, _>>()?;
        Ok(Self { config, domains })
    }
}

/// A domain that is answered.
#[derive(Debug)]
pub(crate) struct Domain {
    /// In lower case, without the last dot.
    text: String,
    /// Labels and the root.
    pub(crate) wire: Box<[u8]>,
}

impl Domain {
    fn parse(name: &str) -> Result<Self, Error> {
        let text = name.trim_end_matches('.').to_ascii_lowercase();
        let fits = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
        if text.len() > DOMAIN_BYTES_MAX || !text.split('.').all(fits) {
            return Err(Error::BadDomain { domain: name.to_string() });
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            wire.push(u8::try_from(label.len()).unwrap_or(0));
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        Ok(Self { text, wire: wire.into() })
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.text
    }
}
