//! Wiring: an agent, and on a server node a server, from settings.

mod definitions;

pub(crate) use definitions::Definitions;

use crate::config::Settings;

/// Runs a node until it is told to stop.
pub(crate) fn run(_settings: Settings) -> Result<(), std::io::Error> {
    Ok(())
}
