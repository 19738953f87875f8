//! Wiring: an agent, and on a server node a server, from settings.

use crate::config::Settings;

/// Services and checks that the configuration defines, checked.
pub(crate) fn definitions(_settings: &Settings) -> Result<(), String> {
    Ok(())
}

/// Runs a node until it is told to stop.
pub(crate) fn run(_settings: Settings) -> Result<(), std::io::Error> {
    Ok(())
}
