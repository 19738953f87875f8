//! The contract on the wire: Consul's JSON, the gRPC protocol, and the client library.
