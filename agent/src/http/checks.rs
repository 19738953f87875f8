//! Checks of this node.

use super::{Answer, Failure, Params, done, filter};
use crate::agent::Agent;
use crate::config::Source;
use api::Error;
use api::agent::{CheckRegistration, CheckUpdate};
use api::json::from_slice;
use axum::body::Bytes;
use axum::extract::{Path, State};
use model::{Check, CheckStatus};
use std::collections::BTreeMap;

pub(super) async fn list(State(agent): State<Agent>, params: Params) -> Answer {
    let filter = filter::<Check>(&params.options()?)?;
    let checks = agent.inner.local.checks();
    let wanted = checks.iter().filter(|c| filter.as_ref().is_none_or(|f| f.matches(c)));
    let rows: BTreeMap<&str, &Check> = wanted.map(|c| (c.check_id.as_str(), &**c)).collect();
    Ok(params.json(&rows))
}

pub(super) async fn register(State(agent): State<Agent>, body: Bytes) -> Answer {
    let registration: CheckRegistration = from_slice(&body)?;
    agent.register_check(&registration, Source::Http).await?;
    done()
}

pub(super) async fn deregister(State(agent): State<Agent>, Path(id): Path<String>) -> Answer {
    if agent.deregister_check(&id).await? {
        return done();
    }
    Err(Failure(Error::not_found(format!(
        "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
    ))))
}

pub(super) async fn pass(State(agent): State<Agent>, Path(id): Path<String>, params: Params) -> Answer {
    report(&agent, &id, CheckStatus::Passing, params.0.get("note")).await
}

pub(super) async fn warn(State(agent): State<Agent>, Path(id): Path<String>, params: Params) -> Answer {
    report(&agent, &id, CheckStatus::Warning, params.0.get("note")).await
}

pub(super) async fn fail(State(agent): State<Agent>, Path(id): Path<String>, params: Params) -> Answer {
    report(&agent, &id, CheckStatus::Critical, params.0.get("note")).await
}

pub(super) async fn update(State(agent): State<Agent>, Path(id): Path<String>, body: Bytes) -> Answer {
    let update: CheckUpdate = from_slice(&body)?;
    report(&agent, &id, update.parse_status()?, Some(&update.output)).await
}

async fn report(agent: &Agent, id: &str, status: CheckStatus, output: Option<&str>) -> Answer {
    agent.report(id, status, output.unwrap_or_default().to_string()).await?;
    done()
}
