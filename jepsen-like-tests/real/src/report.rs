//! `index.html` and `timeline.svg`.
use std::path::Path;

use jlt_core::plan::Plan;
use jlt_core::record::Record;

pub(crate) fn write(_folder: &Path, _plan: &Plan, _history: &[Record], _verdict: &str) -> std::io::Result<()> {
    Ok(())
}
