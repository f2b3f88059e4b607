//! A coordinator that can only listen and command: a real gRPC server on a runtime of its own, which can
//! be killed like a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use trainyard_core::id::{Epoch, GangId, Generation};
use trainyard_core::plan::NodePlan;
use trainyard_core::session::{Command, Hello, Report, Welcome};
use trainyard_proto::convert::{Down, Up};
use trainyard_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use trainyard_proto::v1::{self, FromAgent, LogAck, LogChunk, ToAgent};

/// Bytes and end of each file. Kept over kills: it is the coordinator's disk.
type Logs = BTreeMap<(GangId, String), (Vec<u8>, bool)>;

pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    sessions: mpsc::UnboundedReceiver<Session>,
    logs: watch::Receiver<Logs>,
}

impl Coordinator {
    pub(crate) fn start(generation: u64) -> Coordinator {
        Coordinator::start_at("127.0.0.1:0".parse().unwrap(), generation)
    }

    pub(crate) fn start_at(address: SocketAddr, generation: u64) -> Coordinator {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, sessions) = mpsc::unbounded_channel();
        let (kept, logs) = watch::channel(Logs::default());
        let service = Service { generation, sessions: sender, logs: kept, epoch: Arc::default() };
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(AgentServiceServer::new(service));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Coordinator { address, runtime: Some(runtime), sessions, logs }
    }

    /// As SIGKILL does: nobody says goodbye. Gives the address for a successor.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        let ending = move || runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        tokio::task::spawn_blocking(ending).await.unwrap();
        self.address
    }

    /// The next agent that says Hello, with its Welcome sent.
    pub(crate) async fn session(&mut self) -> Session {
        self.sessions.recv().await.unwrap()
    }

    /// The whole of a file, once its end has come.
    pub(crate) async fn log(&self, gang: GangId, file: &str) -> Vec<u8> {
        let key = (gang, file.to_owned());
        let mut logs = self.logs.clone();
        let logs = logs.wait_for(|logs| logs.get(&key).is_some_and(|(_, end)| *end)).await.unwrap();
        logs[&key].0.clone()
    }

    /// Waits until a file begins with this.
    pub(crate) async fn log_holds(&self, gang: GangId, file: &str, start: &[u8]) {
        let key = (gang, file.to_owned());
        let mut logs = self.logs.clone();
        logs.wait_for(|logs| logs.get(&key).is_some_and(|(bytes, _)| bytes.starts_with(start)))
            .await
            .unwrap();
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One agent's session, seen from here.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    generation: Generation,
    epoch: Epoch,
    up: Streaming<FromAgent>,
    down: mpsc::Sender<Result<ToAgent, Status>>,
    waiting: std::collections::VecDeque<Report>,
}

impl Session {
    pub(crate) async fn command(&mut self, command: Command) {
        self.send(Down::Command(command)).await;
    }

    pub(crate) async fn prepare(&mut self, plan: NodePlan, start_when_prepared: bool) {
        self.prepare_gang(crate::GANG, plan, start_when_prepared).await;
    }

    pub(crate) async fn prepare_gang(&mut self, gang: GangId, plan: NodePlan, start_when_prepared: bool) {
        let command = Command::Prepare { gang, plan: Box::new(plan), start_when_prepared, lease_ms: 600_000 };
        // A stale message of an earlier session must change nothing.
        let stale = Down::Command(Command::Stop { gang, grace_ms: 0, reason: "stale".into() });
        self.down.send(Ok(stale.into_wire(self.generation, Epoch(self.epoch.0 - 1)))).await.unwrap();
        self.command(command).await;
    }

    /// The next report.
    pub(crate) async fn report(&mut self) -> Report {
        loop {
            if let Some(report) = self.waiting.pop_front() {
                return report;
            }
            match self.next().await.expect("the session goes on") {
                Up::Reports(reports, _) => self.waiting.extend(reports),
                other => drop(other),
            }
        }
    }

    pub(crate) async fn ask_file(&mut self, request: v1::FileRequest) -> v1::FileReply {
        self.send(Down::FileRequest(request)).await;
        loop {
            match self.next().await.expect("the session goes on") {
                Up::FileReply(reply) => return reply,
                Up::Reports(reports, _) => self.waiting.extend(reports),
                other => drop(other),
            }
        }
    }

    /// Whether the agent hangs up by itself.
    pub(crate) async fn is_left(&mut self) -> bool {
        while let Some(message) = self.next().await {
            if let Up::Reports(..) = message {
                return false;
            }
        }
        true
    }

    async fn next(&mut self) -> Option<Up> {
        loop {
            let message = self.up.message().await.ok()??;
            match Up::try_from(message).unwrap() {
                Up::Heartbeat { boot_ms } => self.send(Down::HeartbeatAck { boot_ms }).await,
                other => return Some(other),
            }
        }
    }

    async fn send(&mut self, down: Down) {
        self.down.send(Ok(down.into_wire(self.generation, self.epoch))).await.unwrap();
    }
}

struct Service {
    generation: u64,
    sessions: mpsc::UnboundedSender<Session>,
    logs: watch::Sender<Logs>,
    epoch: Arc<Mutex<u64>>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer token-of-the-test");
        let mut up = request.into_inner();
        let epoch = {
            let mut epoch = self.epoch.lock().unwrap();
            *epoch += 10;
            Epoch(*epoch)
        };
        let (down, messages) = mpsc::channel(64);
        let (sessions, generation) = (self.sessions.clone(), Generation(self.generation));
        tokio::spawn(async move {
            let first = Up::try_from(up.message().await.unwrap().unwrap()).unwrap();
            let Up::Hello(hello, _) = first else { panic!("no Hello") };
            let welcome = Welcome {
                generation,
                epoch,
                lease_ms: 900_000,
                heartbeat_ms: 2_000,
                metrics_period_ms: 5_000,
            };
            down.send(Ok(Down::Welcome(welcome).into_wire(generation, epoch))).await.unwrap();
            let session = Session { hello: *hello, generation, epoch, up, down, waiting: Default::default() };
            // The test may have ended.
            sessions.send(session).ok();
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    type UploadLogsStream = Pin<Box<dyn Stream<Item = Result<LogAck, Status>> + Send>>;

    async fn upload_logs(
        &self,
        request: Request<Streaming<LogChunk>>,
    ) -> Result<Response<Self::UploadLogsStream>, Status> {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer token-of-the-test");
        let logs = self.logs.clone();
        Ok(Response::new(Box::pin(request.into_inner().map(move |chunk| Ok(take(&logs, chunk?))))))
    }
}

fn take(logs: &watch::Sender<Logs>, chunk: LogChunk) -> LogAck {
    let gang: GangId = chunk.gang.unwrap().into();
    let mut ack = LogAck { gang: chunk.gang, file: chunk.file.clone(), durable_offset: 0, end: false };
    logs.send_modify(|logs| {
        let (bytes, end) = logs.entry((gang, chunk.file)).or_default();
        let offset = usize::try_from(chunk.offset).unwrap();
        // The disk of a killed coordinator is not kept here: what was acknowledged there is missing.
        if offset > bytes.len() {
            ack.durable_offset = bytes.len() as u64;
            return;
        }
        if offset + chunk.data.len() > bytes.len() {
            bytes.extend_from_slice(&chunk.data[bytes.len() - offset..]);
        }
        *end |= chunk.end && offset + chunk.data.len() == bytes.len();
        ack.durable_offset = bytes.len() as u64;
        ack.end = *end;
    });
    ack
}
