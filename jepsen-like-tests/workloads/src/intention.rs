//! One service calls another of its datacenter through their sidecars while the intention between them flips: see [`crate::flips`].

use std::time::Duration;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, typed};

use crate::client::{Client, Need, Workload};
use crate::flips::{self, Flips};

/// The agent of the callee.
const CALLEE: usize = 1;

const FLIPS: Flips = Flips {
    source: "web",
    destination: "api",
    upstream: Client::upstream,
    agent: |client| client.agent(CALLEE),
    reach: "jlt/none",
    patience: Duration::from_secs(5),
    lag: Duration::from_secs(2),
    calm: Duration::from_secs(6),
};

pub(crate) struct Intention;

#[async_trait(?Send)]
impl Workload for Intention {
    fn name(&self) -> &'static str {
        "intention"
    }

    fn clients(&self) -> usize {
        flips::CLIENTS
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Agents, Need::Sidecars]
    }

    async fn run(&self, client: &mut Client) {
        FLIPS.run(client).await;
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        FLIPS.finish(client).await
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        FLIPS.clear(client).await
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<flips::Call, bool>(history, self.name()) {
            Ok(operations) => FLIPS.judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}
