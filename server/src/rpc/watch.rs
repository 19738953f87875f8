//! `Watch`: any blocking HTTP read as a push stream. The same handlers answer it, so the two can never differ.

use std::pin::Pin;

use api::proto::watch_server::Watch as WatchService;
use api::proto::{WatchReply, WatchRequest};
use axum::Router;
use axum::body::Body;
use axum::response::Response as HttpResponse;
use http_body_util::{BodyExt, Limited};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tower::ServiceExt;

use super::Rpc;

/// Answers that wait for a slow reader.
const WAITING_MAX: usize = 2;
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[tonic::async_trait]
impl WatchService for Rpc {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

    async fn stream(&self, request: Request<WatchRequest>) -> Result<Response<Self::StreamStream>, Status> {
        let target = request.into_inner().target;
        if !target.starts_with("/v1/") || target.starts_with("/v1/agent/") {
            return Err(Status::invalid_argument(
                "only the API's reads can be watched: the target must begin with /v1/",
            ));
        }
        self.core.check_not_cut_off()?;
        let (sender, replies) = mpsc::channel(WAITING_MAX);
        let (router, core) = (self.http.clone(), self.core.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = follow(router, target, &sender) => {}
                () = sender.closed() => {}
                () = core.until_cut_off() => {}
                () = core.closing.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

/// Asks again and again, each time for something newer than the last answer.
async fn follow(router: Router, target: String, sender: &mpsc::Sender<Result<WatchReply, Status>>) {
    let (mut index, mut last) = (0, None);
    loop {
        let reply = match ask(&router, &with_index(&target, index)).await {
            Ok(reply) => reply,
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return;
            }
        };
        // Without an index there is nothing to wait for; with an error there may be soon.
        let is_blocking = reply.index > 0 && reply.status < 500;
        index = if is_blocking && reply.index >= index { reply.index } else { 0 };
        let is_news = last.as_ref() != Some(&(reply.status, reply.body.clone()));
        if is_news {
            last = Some((reply.status, reply.body.clone()));
            if sender.send(Ok(reply)).await.is_err() {
                return;
            }
        }
        if !is_blocking {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

fn with_index(target: &str, index: u64) -> String {
    let joint = if target.contains('?') { '&' } else { '?' };
    match index {
        0 => target.to_string(),
        index => format!("{target}{joint}index={index}&wait=600s"),
    }
}

async fn ask(router: &Router, target: &str) -> Result<WatchReply, Status> {
    let request =
        http::Request::get(target).body(Body::empty()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let response: HttpResponse = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let status = u32::from(response.status().as_u16());
    let index =
        response.headers().get("x-consul-index").and_then(|index| index.to_str().ok()?.parse().ok()).unwrap_or(0);
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Status::out_of_range("the answer is larger than 64 MiB"))?.to_bytes();
    Ok(WatchReply { index, status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_added_to_any_target() {
        assert_eq!(with_index("/v1/catalog/nodes", 0), "/v1/catalog/nodes");
        assert_eq!(with_index("/v1/catalog/nodes", 7), "/v1/catalog/nodes?index=7&wait=600s");
        assert_eq!(with_index("/v1/health/service/web?passing", 7), "/v1/health/service/web?passing&index=7&wait=600s");
    }
}
