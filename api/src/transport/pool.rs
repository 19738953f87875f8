//! One channel for each address.

use super::{Channel, InvalidAddress, connect};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most addresses that a pool remembers. A channel that is dropped here lives on as long as someone uses it.
const CHANNELS_MAX: usize = 512;

/// One channel for each address, so that a handle costs a look-up and many callers share one connection.
#[derive(Clone)]
pub struct Pool {
    tls: Arc<rustls::ClientConfig>,
    server_name: Arc<str>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Pool {
    /// A pool whose connections trust whom `tls` trusts and send `server_name` in the handshake.
    pub fn new(tls: Arc<rustls::ClientConfig>, server_name: &str) -> Self {
        Pool { tls, server_name: server_name.into(), channels: Arc::default() }
    }

    /// The channel to `host:port`. It connects when it is first used.
    pub fn channel(&self, address: &str) -> Result<Channel, InvalidAddress> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = connect(address, self.tls.clone(), &self.server_name)?;
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_string(), channel.clone());
        Ok(channel)
    }

    /// Forgets the channels of all other addresses: servers that are gone.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|address, _| keep(address));
    }

    /// Forgets one channel, so that the next caller gets a new connection.
    pub fn forget(&self, address: &str) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}
