//! Generates the wire types and the gRPC service with protox: no system `protoc` is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=trainyard");
    let descriptors = protox::compile(["trainyard/v1/agent.proto"], ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".trainyard.v1.LogChunk.data")
        .bytes(".trainyard.v1.FileReply.data")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
