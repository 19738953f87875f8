//! The session: one stream to one server, which is this node's liveness.
//!
//! It is lost when the stream ends or the server is silent for [`SILENCE_MAX`]; then the next server is tried at once. The
//! servers judge this node by the stream alone, and give it time to come back (docs/ARCHITECTURE.md, "Sessions").

use crate::backoff::Backoff;
use crate::error::{ServerError, reason};
use crate::metrics::Metrics;
use crate::servers::Servers;
use crate::trust::{self, Keeper};
use api::proto::agent_message::Message as Said;
use api::proto::server_message::Message as Heard;
use api::proto::session_client::SessionClient;
use api::proto::{AgentHello, AgentMessage, Leave, Ping, ServerMessage, TrustBundle, Welcome};
use bytes::Bytes;
use identity::Identity;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Longest silence of a server: three pings unanswered.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Most time until a server welcomes us.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a goodbye may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps a session with one of the servers.
pub(crate) struct Session {
    pub(crate) servers: Servers,
    /// None on a server node: the server looks after its own identity.
    pub(crate) identity: Option<(Identity, Keeper)>,
    /// This node, as MessagePack.
    pub(crate) node_mp: Bytes,
    pub(crate) version: String,
    pub(crate) metrics: Arc<Metrics>,
    /// Rung when a session is open.
    pub(crate) opened: Arc<Notify>,
    /// Rung when a server is not one that this node trusts: perhaps the cluster was made anew.
    pub(crate) strangers: Arc<Notify>,
    /// Says true when this node is to leave.
    pub(crate) leaving: watch::Receiver<bool>,
}

/// How a session ended.
enum End {
    /// We said goodbye.
    Left,
    /// It was open and was lost.
    Lost(String),
    /// It was never open.
    Refused(ServerError),
}

impl Session {
    /// Runs until this node has left, or it is dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut said = String::new();
        loop {
            let mut was_open = false;
            for address in self.servers.candidates() {
                match self.hold(&address).await {
                    End::Left => return,
                    End::Lost(reason) => {
                        tracing::warn!(server = address, reason, "the session was lost; moving to another server");
                        was_open = true;
                    }
                    End::Refused(error) => {
                        if matches!(error, ServerError::Stranger { .. }) {
                            self.strangers.notify_one();
                        }
                        let text = error.to_string();
                        if text != said {
                            tracing::warn!(server = address, error = text, "no session with this server");
                            said = text;
                        }
                    }
                }
                self.servers.avoid(&address);
                if was_open {
                    break;
                }
            }
            if *self.leaving.borrow() {
                return;
            }
            if was_open {
                backoff.reset();
                said.clear();
                // At once, but not all agents of a dead server in the same instant.
                sleep(Duration::from_millis(rand::random_range(0..50))).await;
            } else {
                sleep(backoff.next()).await;
            }
        }
    }

    /// Opens a session and keeps it as long as it lasts.
    async fn hold(&mut self, address: &str) -> End {
        let (say, said) = mpsc::channel(16);
        let mut heard = match timeout(OPEN_TIMEOUT, self.open(address, &say, said)).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(error)) => return End::Refused(error),
            Err(_) => {
                let reason = format!("no welcome within {OPEN_TIMEOUT:?}");
                return End::Refused(ServerError::Refused { address: address.to_string(), reason });
            }
        };
        tracing::info!(server = address, "the session is open");
        self.metrics.sessions.add_one();
        self.servers.prefer(address);
        self.opened.notify_one();
        self.keep(say, &mut heard).await
    }

    async fn open(
        &self,
        address: &str,
        say: &mpsc::Sender<AgentMessage>,
        said: mpsc::Receiver<AgentMessage>,
    ) -> Result<Streaming<ServerMessage>, ServerError> {
        let hello = AgentHello { node_mp: self.node_mp.clone(), version: self.version.clone() };
        // The channel is empty and has room.
        say.try_send(message(Said::Hello(hello))).ok();
        let mut client = SessionClient::new(self.servers.channel(address)?);
        let heard =
            client.open(ReceiverStream::new(said)).await.map_err(|status| ServerError::of_call(address, &status))?;
        let mut heard = heard.into_inner();
        match heard.message().await {
            Ok(Some(ServerMessage { message: Some(Heard::Welcome(welcome)) })) => {
                self.take_welcome(welcome);
                Ok(heard)
            }
            Ok(_) => Err(ServerError::Malformed {
                address: address.to_string(),
                reason: "it did not welcome this node".to_string(),
            }),
            Err(status) => Err(ServerError::of_call(address, &status)),
        }
    }

    /// Pings, listens, and says goodbye when told to.
    async fn keep(&mut self, say: mpsc::Sender<AgentMessage>, heard: &mut Streaming<ServerMessage>) -> End {
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seq = 0;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                _ = ping.tick() => {
                    seq += 1;
                    // If 16 wait unsent, the silence will tell.
                    say.try_send(message(Said::Ping(Ping { seq }))).ok();
                }
                answer = timeout_at(last + SILENCE_MAX, heard.message()) => match answer {
                    Ok(Ok(Some(word))) => {
                        last = Instant::now();
                        self.take(word);
                    }
                    Ok(Ok(None)) => return End::Lost("the server closed it".to_string()),
                    Ok(Err(status)) => return End::Lost(reason(&status)),
                    Err(_) => return End::Lost(format!("the server was silent for {SILENCE_MAX:?}")),
                },
                () = left(&mut self.leaving) => {
                    say.send(message(Said::Leave(Leave {}))).await.ok();
                    drop(say);
                    timeout(LEAVE_TIMEOUT, drain(heard)).await.ok();
                    return End::Left;
                }
            }
        }
    }

    fn take(&self, word: ServerMessage) {
        match word.message {
            Some(Heard::Bundle(bundle)) => self.take_bundle(&bundle),
            Some(Heard::Servers(servers)) => self.take_servers(servers.servers),
            Some(Heard::Welcome(welcome)) => self.take_welcome(welcome),
            Some(Heard::Pong(_)) | None => {}
        }
    }

    fn take_welcome(&self, welcome: Welcome) {
        if let Some(bundle) = &welcome.bundle {
            self.take_bundle(bundle);
        }
        if let Some(servers) = welcome.servers {
            self.take_servers(servers.servers);
        }
    }

    fn take_servers(&self, servers: Vec<api::proto::ServerInfo>) {
        if *self.servers.known() == servers {
            return;
        }
        self.servers.learn(servers);
        if let Some((_, keeper)) = &self.identity {
            let known = self.servers.known().iter().filter(|s| !s.wan).map(|s| s.rpc_address.clone()).collect();
            keeper.change(|kept| kept.servers = known);
        }
    }

    fn take_bundle(&self, wire: &TrustBundle) {
        let Some((identity, keeper)) = &self.identity else { return };
        match trust::bundle(wire) {
            Ok(bundle) => {
                identity.update_bundle(bundle);
                keeper.change(|kept| kept.set_bundle(wire));
            }
            Err(error) => {
                tracing::error!(error, "a server sent a trust bundle that cannot be used; the one before stays");
            }
        }
    }
}

fn message(said: Said) -> AgentMessage {
    AgentMessage { message: Some(said) }
}

/// Returns when this node is to leave; never, if nobody can say so any more.
async fn left(leaving: &mut watch::Receiver<bool>) {
    if leaving.wait_for(|leaving| *leaving).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn drain(heard: &mut Streaming<ServerMessage>) {
    while let Ok(Some(_)) = heard.message().await {}
}
