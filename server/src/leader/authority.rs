//! The leader sees to it that there is a certificate authority: a root in the primary datacenter, an intermediate elsewhere.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::proto::SignRequest;
use api::proto::peer_client::PeerClient;
use catalog::query::ca;
use catalog::{CaState, Command, Response};
use identity::{BACKDATE, Csr};
use model::Index;

use crate::core::Core;
use crate::rpc::dial::CALL_TIMEOUT;

/// How often the lifetime of the intermediate, the primary's roots and old revocations are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// An intermediate is replaced when it has so long to go.
const RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);
/// How often the primary is asked while there is no CA at all.
const ASK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn keep(core: &Arc<Core>) {
    loop {
        let current = core.watch.read(|view| ca::ca(view).map(|row| (row.modify_index, row.value.clone()))).0;
        let is_there = current.is_some();
        let result =
            if core.config.is_primary() { primary(core, current).await } else { secondary(core, current).await };
        match result {
            Ok(()) => {}
            Err(reason) if is_there => tracing::warn!(reason, "the certificate authority could not be renewed yet"),
            Err(reason) => tracing::debug!(reason, "there is no certificate authority yet"),
        }
        if is_there {
            forget_revoked(core).await;
        }
        tokio::time::sleep(if is_there { LOOK_AGAIN } else { ASK_AGAIN }).await;
    }
}

async fn primary(core: &Core, current: Option<(Index, CaState)>) -> Result<(), String> {
    if current.is_some() {
        return Ok(());
    }
    let trust_domain = format!("{}.consul", uuid::Uuid::new_v4());
    let state = crate::ca::first_root(&trust_domain).map_err(|error| error.to_string())?;
    if set(core, 0, state).await? {
        tracing::info!(trust_domain, "the certificate authority was made");
    }
    Ok(())
}

async fn secondary(core: &Arc<Core>, current: Option<(Index, CaState)>) -> Result<(), String> {
    let expected = current.as_ref().map_or(0, |(index, _)| *index);
    if let Some((_, state)) = &current
        && !must_be_replaced(state)
        && !roots_have_changed(core, state).await
    {
        return Ok(());
    }
    if core.trust.identity().leaf().is_none() {
        crate::join::enroll_in_primary(core).await?;
    }
    let trust_domain = core.trust.identity().bundle().trust_domain().to_string();
    let request = Csr::intermediate(&trust_domain, &core.config.datacenter).map_err(|error| error.to_string())?;
    let reply = ask_primary(core, &request.pem).await?;
    let bundle = reply.bundle.ok_or("the primary sent no roots")?;
    let state = crate::ca::secondary(&bundle.trust_domain, &bundle.roots_pem, request, reply.chain_pem)
        .map_err(|error| error.to_string())?;
    // Otherwise it would be asked for anew each time, and each time every leaf with it.
    if !is_valid_now(&state) {
        return Err(
            "the intermediate that the primary has signed is not valid by this server's clock: set the clocks".into()
        );
    }
    if set(core, expected, state).await? {
        tracing::info!(
            primary = core.config.primary(),
            "the primary datacenter has signed this datacenter's intermediate CA"
        );
    }
    Ok(())
}

async fn ask_primary(core: &Core, csr_pem: &str) -> Result<api::proto::SignReply, String> {
    let primary = core.config.primary();
    let mut last = format!("no server of the primary datacenter {primary:?} is known: set `retry_join_wan`");
    for address in core.servers_of(primary) {
        let Ok(channel) = core.peers.remote(primary, &address) else { continue };
        let request = SignRequest { csr_pem: csr_pem.into(), node: core.config.node_name.clone() };
        match tokio::time::timeout(CALL_TIMEOUT, PeerClient::new(channel).sign_intermediate(request)).await {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => last = format!("{address}: {}", status.message()),
            Err(_) => last = format!("{address} did not answer"),
        }
    }
    Err(last)
}

fn must_be_replaced(state: &CaState) -> bool {
    let is_ending = |state| crate::ca::load(state).map_or(true, |ca| ca.not_after() < SystemTime::now() + RENEW_BEFORE);
    !is_valid_now(state) || is_ending(state)
}

fn is_valid_now(state: &CaState) -> bool {
    crate::ca::load(state).is_ok_and(|ca| ca.is_valid_at(SystemTime::now()))
}

/// Whether the primary has another active root than this datacenter's intermediate is of. If it cannot be asked, it has not.
async fn roots_have_changed(core: &Core, state: &CaState) -> bool {
    let Some(active) = state.roots.iter().find(|root| root.active) else { return true };
    match super::federation::ask(core, core.config.primary(), "/v1/connect/ca/roots").await {
        Ok(body) => {
            api::json::from_slice::<api::reply::CaRoots>(&body).is_ok_and(|roots| roots.active_root_id != active.id)
        }
        Err(_) => false,
    }
}

async fn set(core: &Core, expected: Index, state: CaState) -> Result<bool, String> {
    let command = Command::SetCa { expected, state: Box::new(state) };
    match core.proposer.propose_here(&command).await {
        Ok(Response::Done) => Ok(true),
        Ok(Response::CasFailed) => Ok(false),
        Ok(
            other @ (Response::Refused(_)
            | Response::LockFailed
            | Response::Txn(_)
            | Response::Synced { .. }
            | Response::Outdated { .. }),
        ) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn forget_revoked(core: &Core) {
    let (is_any, _) = core.watch.read(|view| {
        let (serials, ids) = ca::revoked(view);
        !(serials.is_empty() && ids.is_empty())
    });
    if is_any {
        // Others may have a clock that is behind ours, and take the revoked certificate for so long.
        let before_secs = crate::time::unix_secs(SystemTime::now() - BACKDATE);
        // It is tried again in a minute.
        let _ = core.proposer.propose_here(&Command::ForgetRevoked { before_secs }).await;
    }
}
