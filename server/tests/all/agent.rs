//! What an agent does with a server, by hand: enroll with the join secret, then speak with its certificate.

use std::sync::Arc;

use api::proto::join_client::JoinClient;
use api::proto::session_client::SessionClient;
use api::proto::sync_client::SyncClient;
use api::proto::{
    AgentHello, AgentMessage, EnrollReply, EnrollRequest, HelloRequest, Leave, Ping, PushRequest, ServerMessage,
    agent_message,
};
use api::transport::{Channel, connect};
use identity::{Csr, Identity, JOIN_TRUST_DOMAIN, LeafName, Role, RpcIdentity, TrustBundle};
use model::{Check, ServiceInstance};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::support::{Node, secret};

const ALPN: &[&[u8]] = &[b"h2"];

/// A client agent of a test.
pub(crate) struct Agent {
    pub(crate) node: model::Node,
    pub(crate) reply: EnrollReply,
    rpc: RpcIdentity,
}

/// An open session. Dropping it closes the stream.
pub(crate) struct Session {
    pub(crate) to_server: mpsc::Sender<AgentMessage>,
    pub(crate) replies: Streaming<ServerMessage>,
}

impl Agent {
    /// Enrolls at a server.
    pub(crate) async fn enroll(name: &str, datacenter: &str, server: &str) -> Result<Agent, Status> {
        Self::enroll_as(name, datacenter, server, name).await
    }

    /// Enrolls with a request for the certificate of some other node.
    pub(crate) async fn enroll_as(name: &str, datacenter: &str, server: &str, asked: &str) -> Result<Agent, Status> {
        let rpc = RpcIdentity::new(Identity::new(TrustBundle::empty()), &secret(), Role::Client, datacenter, name)
            .expect("identity");
        let tls = Arc::new(rpc.join_client_config(ALPN).expect("TLS"));
        let mut join = JoinClient::new(connect(server, tls, JOIN_TRUST_DOMAIN).expect("address"));
        let trust_domain = join.hello(HelloRequest::default()).await?.into_inner().trust_domain;
        let csr = Csr::new(&LeafName::agent(&trust_domain, datacenter, asked).expect("name")).expect("CSR");
        let request = EnrollRequest { csr_pem: csr.pem.clone(), node: asked.into(), ..EnrollRequest::default() };
        let reply = join.enroll(request).await?.into_inner();
        let bundle = reply.bundle.clone().expect("a bundle");
        rpc.identity().update_bundle(TrustBundle::new(&bundle.trust_domain, &bundle.roots_pem).expect("roots"));
        rpc.identity().update_leaf(&csr.with_chain(reply.chain_pem.clone())).expect("leaf");
        let node = model::Node {
            name: name.into(),
            address: "10.9.9.9".into(),
            datacenter: datacenter.into(),
            ..model::Node::default()
        };
        Ok(Agent { node, reply, rpc })
    }

    /// A server's own agent.
    pub(crate) fn of_server(server: &Node, id: &str) -> Agent {
        let node = model::Node {
            id: id.into(),
            name: server.config.node_name.clone(),
            address: "127.0.0.1".into(),
            datacenter: server.config.datacenter.clone(),
            ..model::Node::default()
        };
        Agent { node, reply: EnrollReply::default(), rpc: server.server.rpc_identity().clone() }
    }

    /// A channel with this agent's certificate.
    pub(crate) fn channel(&self, server: &str) -> Channel {
        let tls = self.rpc.client_config(&self.node.datacenter, ALPN).expect("TLS");
        connect(server, Arc::new(tls), &format!("server.{}.consul", self.node.datacenter)).expect("address")
    }

    pub(crate) async fn open_session(&self, server: &str) -> Result<Session, Status> {
        let (to_server, messages) = mpsc::channel(16);
        let hello =
            agent_message::Message::Hello(AgentHello { node_mp: api::mp::encode(&self.node), version: "test".into() });
        to_server.send(AgentMessage { message: Some(hello) }).await.expect("room");
        let mut client = SessionClient::new(self.channel(server));
        let replies = client.open(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Session { to_server, replies })
    }

    pub(crate) async fn push(
        &self,
        server: &str,
        services: &[ServiceInstance],
        checks: &[Check],
    ) -> Result<api::proto::PushReply, Status> {
        self.push_for(server, &self.node, services, checks).await
    }

    pub(crate) async fn push_for(
        &self,
        server: &str,
        node: &model::Node,
        services: &[ServiceInstance],
        checks: &[Check],
    ) -> Result<api::proto::PushReply, Status> {
        let checks_mp = checks.iter().map(api::mp::encode).collect();
        self.send_push(server, PushRequest { checks_mp, ..pushed(node, services) }).await
    }

    /// Pushes all that this node has, if its last push was at index `after`.
    pub(crate) async fn push_all_after(
        &self,
        server: &str,
        services: &[ServiceInstance],
        after: u64,
    ) -> Result<api::proto::PushReply, Status> {
        self.send_push(server, PushRequest { full: true, after: Some(after), ..pushed(&self.node, services) }).await
    }

    async fn send_push(&self, server: &str, push: PushRequest) -> Result<api::proto::PushReply, Status> {
        Ok(SyncClient::new(self.channel(server)).push(push).await?.into_inner())
    }
}

fn pushed(node: &model::Node, services: &[ServiceInstance]) -> PushRequest {
    let services_mp = services.iter().map(api::mp::encode).collect();
    PushRequest { node_mp: api::mp::encode(node), services_mp, ..PushRequest::default() }
}

/// What an agent says once a second.
pub(crate) fn ping(seq: u64) -> AgentMessage {
    AgentMessage { message: Some(agent_message::Message::Ping(Ping { seq })) }
}

impl Session {
    pub(crate) async fn ping(&self, seq: u64) {
        self.to_server.send(ping(seq)).await.expect("a stream");
    }

    pub(crate) async fn leave(&self) {
        self.say(agent_message::Message::Leave(Leave {})).await;
    }

    async fn say(&self, message: agent_message::Message) {
        self.to_server.send(AgentMessage { message: Some(message) }).await.expect("room");
    }

    /// Pings every half second until it is dropped with the task.
    pub(crate) fn keep(self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut session = self;
            for seq in 0.. {
                session.ping(seq).await;
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
                    () = async { while let Ok(Some(_)) = session.replies.message().await {} } => return,
                }
            }
        })
    }
}
