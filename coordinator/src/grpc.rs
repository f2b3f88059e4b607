//! gRPC for agents: one session each, log upload, reflection and the standard health service.
//!
//! Generated wire types end here: further in, domain types are spoken.

mod files;
mod from_wire;
mod session;
mod sessions;
mod uploads;

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use trainyard_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use trainyard_proto::{DESCRIPTORS, MAX_MESSAGE_BYTES, v1};

use crate::driver::Driver;
use crate::logs::LogStore;
use crate::metrics::History;
use crate::store::Read;

pub use files::{FileAnswer, FileAsk, FileError, FileItem, FileWanted};
pub(crate) use sessions::Link;
pub use sessions::{Note, Sessions};

/// Of one message from an agent, bytes; logs come in chunks of 256 KiB.
const RECEIVE_BYTES: usize = 4 * 1024 * 1024;

/// What the services work with.
#[derive(Clone)]
pub(crate) struct Agents {
    pub(crate) driver: Driver,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) logs: Arc<LogStore>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) reader: Arc<dyn Read>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Answers<v1::ToAgent>;
    type UploadLogsStream = Answers<v1::LogAck>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(Box::pin(session::serve(self.clone(), request.into_inner()))))
    }

    async fn upload_logs(
        &self,
        request: Request<Streaming<v1::LogChunk>>,
    ) -> Result<Response<Self::UploadLogsStream>, Status> {
        Ok(Response::new(Box::pin(uploads::serve(self.clone(), request.into_inner()))))
    }
}

/// All services as routes, for the one port.
///
/// # Errors
/// The descriptors do not fit the build.
pub(crate) async fn routes(agents: Agents) -> Result<axum::Router, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<Agents>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let agents = AgentServiceServer::new(agents)
        .max_decoding_message_size(RECEIVE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let routes = Routes::new(agents).add_service(health_service).add_service(reflection.build_v1()?);
    Ok(routes.into_axum_router().reset_fallback())
}
