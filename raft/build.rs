//! Compiles the members' protocol without a `protoc` to install.

use std::io;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto/raft.proto");
    let files = protox::compile(["raft.proto"], ["proto"]).map_err(io::Error::other)?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)
}
