//! Health checks: what a registration asks for ([`Plan`]), and the tasks that carry it out ([`Runners`]).

mod grpc;
mod http;
mod plan;
mod run;
mod script;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use plan::{Plan, Probe, spec};
pub(crate) use run::Runners;

use model::CheckStatus;

/// What one run of a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) status: CheckStatus,
    pub(crate) output: String,
}

impl Finding {
    pub(crate) fn passing(output: impl Into<String>) -> Self {
        Finding { status: CheckStatus::Passing, output: output.into() }
    }

    pub(crate) fn warning(output: impl Into<String>) -> Self {
        Finding { status: CheckStatus::Warning, output: output.into() }
    }

    pub(crate) fn critical(output: impl Into<String>) -> Self {
        Finding { status: CheckStatus::Critical, output: output.into() }
    }
}
