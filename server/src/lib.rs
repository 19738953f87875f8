//! The control plane: HTTP and gRPC, the one watch, proposals, leader duties, federation.
