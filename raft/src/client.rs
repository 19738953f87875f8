//! Speaks to the other members for openraft. Every call has a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::consensus::{CoreSnapshot, TypeConfig, Vote};
use crate::disk::DiskFile;
use crate::snapshot::{PIECE_BYTES, SnapshotFile, Snapshots};
use crate::types::{Dial, Member, NodeId};
use crate::wire::proto::raft_client::RaftClient;
use crate::wire::{Envelope, MESSAGE_BYTES_MAX, pack, piece, unpack};
use crate::work::blocking;

/// A snapshot has this time, and more for its size.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);
/// The slowest link that a snapshot may take.
const SNAPSHOT_BYTES_PER_SECOND_MIN: u64 = 1024 * 1024;
/// Pieces of a snapshot that were read and not sent yet.
const PIECES_WAITING_MAX: usize = 4;
/// How long to leave a member alone that could not be reached.
const BACKOFF: Duration = Duration::from_millis(100);

type RpcError = RPCError<NodeId, Member, RaftError<NodeId>>;

/// Makes clients for openraft.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) snapshots: Arc<Snapshots>,
}

impl Network {
    pub(crate) fn client(&self, to: &Member) -> Client {
        let channel = self.dial.channel(to);
        let client = RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Client { to: to.id, client, snapshots: Arc::clone(&self.snapshots) }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Client {
        self.client(&Member { id: target, ..node.clone() })
    }
}

/// A handle on the way to one member.
pub(crate) struct Client {
    to: NodeId,
    client: RaftClient<Channel>,
    snapshots: Arc<Snapshots>,
}

impl Client {
    /// Asks the member to stand for election now.
    pub(crate) async fn elect(&mut self, deadline: Duration) -> Result<(), Status> {
        let request = self.request(&(), deadline)?;
        self.client.elect(request).await?;
        Ok(())
    }

    fn request<T: Serialize>(&self, body: &T, deadline: Duration) -> Result<tonic::Request<Envelope>, Status> {
        let mut request = tonic::Request::new(pack(self.to, body)?);
        request.set_timeout(deadline);
        Ok(request)
    }

    async fn send_snapshot(&mut self, vote: Vote, file: &SnapshotFile) -> Result<SnapshotResponse<NodeId>, Status> {
        let open = self.snapshots.open_file(file).map_err(|e| Status::internal(e.to_string()))?;
        let (pieces, sent) = mpsc::channel(PIECES_WAITING_MAX);
        // Nobody else holds the channel yet, so this cannot fail.
        let _ = pieces.send(pack(self.to, &vote)?).await;
        let (to, bytes) = (self.to, file.bytes);
        tokio::spawn(send_pieces(open, bytes, to, pieces));
        let mut request = tonic::Request::new(ReceiverStream::new(sent));
        let deadline = SNAPSHOT_DEADLINE + Duration::from_secs(file.bytes / SNAPSHOT_BYTES_PER_SECOND_MIN);
        request.set_timeout(deadline);
        answer(self.client.snapshot(request).await)
    }
}

/// Reads the file and hands its pieces on, until all are sent or nobody wants them any more. A stream of requests cannot
/// fail: if the file cannot be read, it ends early, and is refused for its checksum.
async fn send_pieces(file: Arc<dyn DiskFile>, end: u64, to: NodeId, pieces: mpsc::Sender<Envelope>) {
    let mut at = 0;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let from = Arc::clone(&file);
        let read = blocking(move || {
            let mut bytes = vec![0; left.min(PIECE_BYTES)];
            from.read_at(&mut bytes, at).map(|()| bytes)
        });
        let bytes = match read.await.and_then(|read| read) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a snapshot cannot be read");
                return;
            }
        };
        at += bytes.len() as u64;
        if pieces.send(piece(to, bytes.into())).await.is_err() {
            return;
        }
    }
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let request = self.request(&rpc, option.hard_ttl()).map_err(unreachable_now)?;
        answer(self.client.append(request).await).map_err(unreachable_now)
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, option: RPCOption) -> Result<VoteResponse<NodeId>, RpcError> {
        let request = self.request(&rpc, option.hard_ttl()).map_err(unreachable_now)?;
        answer(self.client.vote(request).await).map_err(unreachable_now)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: CoreSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, &snapshot.snapshot) => {
                sent.map_err(|status| StreamingError::Unreachable(Unreachable::new(&status)))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

fn answer<T: DeserializeOwned>(response: Result<Response<Envelope>, Status>) -> Result<T, Status> {
    unpack(&response?.into_inner())
}

/// Any failure: openraft leaves the member alone for a moment and asks again.
fn unreachable_now(status: Status) -> RpcError {
    RPCError::Unreachable(Unreachable::from(AnyError::new(&status)))
}
