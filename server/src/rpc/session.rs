//! `Session`: one stream for each agent; it is the node's liveness. And what servers report of their streams to the leader.

use std::pin::Pin;
use std::time::Duration;

use api::proto::agent_message::Message as Said;
use api::proto::server_message::Message as Told;
use api::proto::session_server::Session as SessionService;
use api::proto::{AgentMessage, Pong, ReportAck, ServerMessage, SessionReport, Welcome};
use identity::Peer;
use model::Node;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::admit::may_speak_for;
use super::sync::noun;
use super::{Rpc, caller};
use crate::core::Core;
use crate::leader::nodes;
use crate::leader::sessions::{self, Event, Report, Reporter};

/// An agent that is silent for so long is not there. (It pings every second.)
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Messages that wait for a slow agent.
const WAITING_MAX: usize = 16;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Rpc {
    type OpenStream = Replies<ServerMessage>;
    type ReportStream = Replies<ReportAck>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        let peer = caller(&request)?;
        let mut messages = request.into_inner();
        let node = first_words(&mut messages).await?;
        let datacenter = &self.core.config.datacenter;
        if !may_speak_for(&peer, &node.name, datacenter) {
            return Err(Status::permission_denied(format!("this certificate does not speak for node {:?}", node.name)));
        }
        let is_own = is_own(&self.core, &node);
        if !is_own {
            self.core.check_not_cut_off()?;
        }
        // Which server has a name, the members say.
        if !(is_own && self.core.members.has_joined()) {
            free_name(&self.core, &node)?;
        }
        let (sender, replies) = mpsc::channel(WAITING_MAX);
        let core = self.core.clone();
        self.core.tasks.spawn(async move { attend(&core, node, messages, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }

    async fn report(&self, request: Request<Streaming<SessionReport>>) -> Result<Response<Self::ReportStream>, Status> {
        let peer = caller(&request)?;
        let Peer::Server { node: server, .. } = (*peer).clone() else {
            return Err(Status::permission_denied("only servers report"));
        };
        let events = self.core.sessions.judge().ok_or_else(|| Status::failed_precondition("not the leader"))?;
        let ((from, is_over), reports) = (self.core.sessions.reporter(server), request.into_inner());
        let (sender, replies) = mpsc::channel(WAITING_MAX);
        self.core.tasks.spawn(async move {
            tokio::select! {
                () = hand_on(reports, &from, &events, &sender) => {
                    // A leader that has stepped down does not judge any more.
                    let _ = events.send(Event::ServerLost(from)).await;
                }
                () = is_over.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

/// Hands a server's reports to the judge, until one of them is gone. A leader that was without its majority for a moment judges
/// anew in the same term: the server must learn of it even if it has nothing to tell, for the new judge knows nothing.
async fn hand_on(
    mut reports: impl Stream<Item = Result<SessionReport, Status>> + Unpin,
    from: &Reporter,
    events: &mpsc::Sender<Event>,
    acks: &mpsc::Sender<Result<ReportAck, Status>>,
) {
    let mut seq = 0;
    loop {
        let report = tokio::select! {
            report = reports.next() => report,
            () = events.closed() => return,
        };
        let Some(Ok(report)) = report else { return };
        seq += 1;
        let is_heard = events.send(Event::Report(from.clone(), read_report(report))).await.is_ok();
        if !is_heard || acks.send(Ok(ReportAck { seq })).await.is_err() {
            return;
        }
    }
}

async fn first_words(messages: &mut Streaming<AgentMessage>) -> Result<Node, Status> {
    let first = tokio::time::timeout(SILENCE_MAX, messages.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello"))??.and_then(|message| message.message);
    match first {
        Some(Said::Hello(hello)) => noun(&hello.node_mp),
        Some(Said::Ping(_) | Said::Leave(_)) | None => Err(Status::invalid_argument("a session begins with hello")),
    }
}

/// A server's own agent has nowhere else to go.
fn is_own(core: &Core, node: &Node) -> bool {
    node.name == core.config.node_name
}

/// A second machine of one name would take it from the first, which is alive; one that has lost its data has to wait until its old
/// session is over.
fn free_name(core: &Core, node: &Node) -> Result<(), Status> {
    let holder = core.watch.read(|view| nodes::passing(view, &node.name).cloned()).0;
    match holder.filter(|holder| sessions::is_another(node, holder)) {
        Some(holder) => Err(Status::already_exists(format!(
            "Node name {} is reserved by node {} at {}, which is alive: give this node a name of its own, or wait until that one is known to be gone",
            node.name, holder.id, holder.address
        ))),
        None => Ok(()),
    }
}

/// Attends to one agent until it leaves, falls silent, or its connection breaks.
async fn attend(
    core: &Core,
    node: Node,
    mut messages: Streaming<AgentMessage>,
    sender: mpsc::Sender<Result<ServerMessage, Status>>,
) {
    let (name, is_own) = (node.name.clone(), is_own(core, &node));
    let session = core.sessions.opened(node);
    let (mut bundle, mut servers) = (core.trust.bundle(), core.servers.subscribe());
    servers.mark_unchanged();
    let welcome = Told::Welcome(Welcome {
        server: core.config.node_name.clone(),
        servers: Some(core.members.servers()),
        bundle: Some(bundle.borrow_and_update().clone()),
    });
    let mut is_heard = tell(&sender, welcome).await;
    let mut has_left = false;
    let mut silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
    let mut cut_off = Box::pin(core.until_cut_off());
    while is_heard {
        let news = tokio::select! {
            said = messages.message() => match said {
                Ok(Some(AgentMessage { message: Some(Said::Ping(ping)) })) => {
                    silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
                    Told::Pong(Pong { seq: ping.seq })
                }
                Ok(Some(AgentMessage { message: Some(Said::Leave(_)) })) => {
                    has_left = true;
                    break;
                }
                Ok(Some(AgentMessage { message: Some(Said::Hello(hello)) })) => {
                    // The node's description has changed.
                    match noun::<Node>(&hello.node_mp) {
                        Ok(node) if node.name == name => core.sessions.changed(&session, node),
                        Ok(_) | Err(_) => break,
                    }
                    continue;
                }
                Ok(Some(AgentMessage { message: None })) => continue,
                Ok(None) | Err(_) => break,
            },
            Ok(()) = bundle.changed() => Told::Bundle(bundle.borrow_and_update().clone()),
            Ok(()) = servers.changed() => Told::Servers(servers.borrow_and_update().clone()),
            () = &mut silence => break,
            () = &mut cut_off, if !is_own => break,
            () = core.closing.cancelled() => break,
        };
        is_heard = tell(&sender, news).await;
    }
    if !core.closing.is_cancelled() {
        core.sessions.closed(&session, has_left);
    }
}

async fn tell(sender: &mpsc::Sender<Result<ServerMessage, Status>>, message: Told) -> bool {
    sender.send(Ok(ServerMessage { message: Some(message) })).await.is_ok()
}

fn read_report(report: SessionReport) -> Report {
    // A node that cannot be read is as if it had no session: its server runs another version, and says so in its log.
    let opened = report.opened.iter().filter_map(|opened| noun::<Node>(&opened.node_mp).ok()).collect();
    Report { full: report.full, opened, closed: report.closed, left: report.left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_has_nothing_to_tell_learns_that_its_judge_is_gone() {
        let (events, judge) = mpsc::channel(1);
        let (acks, mut acknowledged) = mpsc::channel(1);
        let handing_on = async {
            let from = Reporter { server: "s1".into(), stream: 1 };
            hand_on(tokio_stream::pending(), &from, &events, &acks).await;
            drop(acks);
        };
        drop(judge);
        let ends = async { tokio::join!(handing_on, acknowledged.recv()).1 };
        let ended = tokio::time::timeout(Duration::from_secs(10), ends).await.expect("it ends");
        assert!(ended.is_none());
    }
}
