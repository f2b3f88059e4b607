//! The wire between coordinator and agent, and nothing but: generated types and their conversions.

pub mod convert;

/// Generated from `trainyard/v1/*.proto`.
#[expect(missing_docs, clippy::all, reason = "generated; documented in the .proto files")]
pub mod v1 {
    tonic::include_proto!("trainyard.v1");
}

/// For server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Grows with each change that an older side cannot read.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of one message: log chunks are 256 KiB, plans of 10,000 tasks are sent per node.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of log data in one chunk.
pub const LOG_CHUNK_BYTES: usize = 256 * 1024;
