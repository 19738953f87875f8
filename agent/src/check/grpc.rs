//! Checks by gRPC's health protocol (`grpc.health.v1.Health/Check`). Its two messages are small enough to be written here.

use super::Finding;
use api::transport::{Channel, connect, connect_plain};
use model::AgentCheck;
use std::sync::Arc;
use tonic::codegen::http::uri::PathAndQuery;

/// Asks once. The caller limits the time.
pub(crate) async fn run(registration: &AgentCheck) -> Finding {
    match ask(registration).await {
        Ok(serving) if serving == SERVING => Finding::passing(format!("gRPC check {}: success", registration.grpc)),
        Ok(status) => Finding::critical(format!("gRPC {} serving status: {}", registration.grpc, status_name(status))),
        Err(reason) => Finding::critical(format!("gRPC check {}: {reason}", registration.grpc)),
    }
}

const SERVING: i32 = 1;

fn status_name(status: i32) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthReply {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn ask(registration: &AgentCheck) -> Result<i32, String> {
    let (address, service) = registration.grpc.split_once('/').unwrap_or((&registration.grpc, ""));
    let channel = channel(registration, address)?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let request = tonic::Request::new(HealthRequest { service: service.to_string() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthReply>::default();
    match client.unary(request, path, codec).await {
        Ok(reply) => Ok(reply.into_inner().status),
        Err(status) => Err(crate::error::reason(&status)),
    }
}

fn channel(registration: &AgentCheck, address: &str) -> Result<Channel, String> {
    if !registration.grpc_use_tls {
        return connect_plain(address).map_err(|e| e.to_string());
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = if registration.tls_server_name.is_empty() { host } else { &registration.tls_server_name };
    let mut tls = super::tls::client(registration.tls_skip_verify).map_err(|e| e.to_string())?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    connect(address, Arc::new(tls), name).map_err(|e| e.to_string())
}
