//! The session with the coordinator: dial, Hello, then commands down and reports up, for ever.
//!
//! Only this file and `proto` know the wire. A broken session touches no task: whatever was not said is in
//! the next Hello. Messages are numbered in both directions; a silence of the coordinator ends the session.

mod backoff;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use trainyard_core::id::{Epoch, Generation, NodeId};
use trainyard_core::session::{Hello, NodeFacts, Order, Sequence, Welcome};
use trainyard_core::text::Secret;
use trainyard_proto::convert::{Down, WireError, hello_to_wire};
use trainyard_proto::v1::agent_service_client::AgentServiceClient;
use trainyard_proto::v1::{self, FromAgent, ToAgent, from_agent::Body};
use trainyard_proto::{LOG_CHUNK_BYTES, MAX_MESSAGE_BYTES};

use self::backoff::Backoff;
use crate::driver::{Event, Outgoing, boot_ms};
use crate::spool::Spool;

/// Without a Welcome in this time the try is given up.
const WELCOME_WAIT: Duration = Duration::from_secs(10);
/// Heartbeats for whose time the coordinator may be silent.
const MISSED_MAX: u32 = 3;
/// The longest heartbeat, whatever the coordinator asks for: half-open connections are noticed within 12 s.
const HEARTBEAT_MAX: Duration = Duration::from_secs(4);
/// The shortest silence that counts, however short the heartbeats.
const SILENCE_MIN: Duration = Duration::from_secs(3);
/// Pings of HTTP/2 and how long their answers may take, for the other streams of the connection.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(8));
/// Shortest heartbeat, whatever lease a job asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(500);
/// Messages that wait for the network.
const UP_QUEUE: usize = 64;
/// Log blocks that wait for the network: 1 MiB.
const LOG_QUEUE: usize = 4;

/// What a link needs.
pub(crate) struct Link {
    pub(crate) node: String,
    pub(crate) coordinator: String,
    pub(crate) token: Secret,
    pub(crate) facts: NodeFacts,
    pub(crate) inventory: watch::Receiver<v1::Inventory>,
    pub(crate) driver: mpsc::Sender<Event>,
    pub(crate) spool: Spool,
    pub(crate) metrics: mpsc::Receiver<v1::MetricBatch>,
    /// Told what the coordinator asks for.
    pub(crate) metrics_period: watch::Sender<Option<Duration>>,
    /// The shortest lease of what is held.
    pub(crate) lease_ms: watch::Receiver<Option<u64>>,
}

/// Why a session ended, or never began.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("the coordinator cannot be reached: {}", chain(.0))]
    Connect(#[source] tonic::transport::Error),
    #[error("{}", rpc(.0))]
    Rpc(#[source] Status),
    #[error("the coordinator refuses this agent: {0}")]
    Refused(String),
    #[error("the coordinator does not answer")]
    Silent,
    #[error("message {seq} of the coordinator came where {expected} was due")]
    Gap { seq: u64, expected: u64 },
    #[error("the coordinator has ended the session")]
    Closed,
    #[error("this agent has ended the session")]
    Left,
    #[error("the coordinator speaks another language: {0}")]
    Wire(#[from] WireError),
    #[error("the agent is ending")]
    Ending,
}

fn rpc(status: &Status) -> String {
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
            format!("the coordinator does not accept this agent's token: {}", status.message())
        }
        code => format!("the session broke: {code:?}: {}", status.message()),
    }
}

/// tonic's own text says only "transport error": what it is stands behind it.
fn chain(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Link {
    /// Keeps a session for ever; ends only when the driver has.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut last_said = String::new();
        for session in 1.. {
            let mut welcomed = false;
            let end = match self.session(session, &mut welcomed).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            self.spool.detach(session);
            let reason = end.to_string();
            if welcomed {
                backoff = Backoff::new();
            }
            // The same trouble again and again is said once.
            if welcomed || reason != last_said {
                tracing::warn!(reason, "no session with the coordinator: tasks go on, trying again");
            }
            last_said.clone_from(&reason);
            if matches!(end, SessionEnd::Ending)
                || self.driver.send(Event::Lost { session, reason }).await.is_err()
            {
                return;
            }
            let patient = matches!(end, SessionEnd::Refused(_) | SessionEnd::Left | SessionEnd::Wire(_));
            tokio::time::sleep(if patient { backoff.longest() } else { backoff.next() }).await;
        }
    }

    async fn session(
        &mut self,
        session: u64,
        welcomed: &mut bool,
    ) -> Result<std::convert::Infallible, SessionEnd> {
        let channel = self.endpoint()?.connect().await.map_err(SessionEnd::Connect)?;
        let mut client = AgentServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let hello = self.hello(session, outbox).await?;
        let (up, rx) = mpsc::channel(UP_QUEUE);
        let first = envelope(Generation(0), Epoch(0), Body::Hello(hello));
        up.try_send(first).map_err(|_| SessionEnd::Ending)?;
        let heard = Arc::new(AtomicU64::new(0));
        let known = Arc::clone(&heard);
        // Numbered where they go out: what found no room before has no number.
        let mut seq = 0;
        let numbered = ReceiverStream::new(rx).map(move |message| {
            seq += 1;
            FromAgent { seq, heard: known.load(Ordering::Relaxed), ..message }
        });
        let request = authorized(&self.token, numbered);
        let mut sequence = Sequence::default();
        let down = async {
            let mut down = client.session(request).await.map_err(SessionEnd::Rpc)?.into_inner();
            let first = down.message().await.map_err(SessionEnd::Rpc)?.ok_or(SessionEnd::Closed)?;
            sequence.accept(first.seq);
            heard.store(sequence.last(), Ordering::Relaxed);
            Ok::<_, SessionEnd>((down, Down::try_from(first)?))
        };
        let (down, first) =
            tokio::time::timeout(WELCOME_WAIT, down).await.map_err(|_| SessionEnd::Silent)??;
        let welcome = match first {
            Down::Welcome(welcome) => welcome,
            Down::Refused { reason } => return Err(SessionEnd::Refused(reason)),
            Down::HeartbeatAck { .. } | Down::Command(_) | Down::FileRequest(_) => {
                return Err(SessionEnd::Refused("its first word was no Welcome".into()));
            }
        };
        *welcomed = true;
        tracing::info!(generation = %welcome.generation, epoch = %welcome.epoch, "session with the coordinator");
        self.tell(Event::Welcomed { session, welcome }).await?;
        self.metrics_period.send_replace(Some(Duration::from_millis(welcome.metrics_period_ms)));
        let mut logs = tokio::task::JoinSet::new();
        logs.spawn(upload_logs(channel, self.token.clone(), self.spool.clone(), session, welcome.generation));
        self.talk(session, welcome, up, outgoing, Downward { stream: down, sequence, heard }).await
    }

    fn endpoint(&self) -> Result<Endpoint, SessionEnd> {
        Ok(Endpoint::from_shared(self.coordinator.clone())
            .map_err(SessionEnd::Connect)?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(u32::try_from(16 * LOG_CHUNK_BYTES).ok())
            .initial_connection_window_size(u32::try_from(16 * LOG_CHUNK_BYTES).ok()))
    }

    async fn hello(
        &self,
        session: u64,
        outbox: mpsc::UnboundedSender<Outgoing>,
    ) -> Result<v1::Hello, SessionEnd> {
        let (reply, greeting) = oneshot::channel();
        self.tell(Event::Greet { session, outbox, reply }).await?;
        let greeting = greeting.await.map_err(|_| SessionEnd::Ending)?;
        let hello = Hello {
            node: NodeId(self.node.clone()),
            facts: NodeFacts { stuck: greeting.stuck, ..self.facts.clone() },
            held: greeting.held,
            last_generation: greeting.last_generation,
        };
        Ok(hello_to_wire(hello, self.inventory.borrow().clone()))
    }

    async fn talk(
        &mut self,
        session: u64,
        welcome: Welcome,
        up: mpsc::Sender<FromAgent>,
        mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
        mut down: Downward,
    ) -> Result<std::convert::Infallible, SessionEnd> {
        let envelope = |body| envelope(welcome.generation, welcome.epoch, body);
        self.inventory.mark_unchanged();
        let mut pause = self.heartbeat(welcome);
        let mut timer = beats(pause);
        let mut last_word = Instant::now();
        loop {
            let silent = last_word + silence_max(pause);
            tokio::select! {
                message = down.next() => {
                    last_word = Instant::now();
                    if let Some(message) = message? {
                        self.on_message(session, message).await?;
                    }
                }
                () = tokio::time::sleep_until(silent) => return Err(SessionEnd::Silent),
                said = outgoing.recv() => {
                    let body = to_wire(said.ok_or(SessionEnd::Left)?);
                    // A coordinator that takes nothing is as silent as one that says nothing.
                    let sent = tokio::time::timeout_at(silent, up.send(envelope(body))).await;
                    sent.map_err(|_| SessionEnd::Silent)?.map_err(|_| SessionEnd::Closed)?;
                }
                Some(batch) = self.metrics.recv() => {
                    if up.try_send(envelope(Body::Metrics(batch))).is_err() {
                        tracing::debug!("metrics are dropped: the session is full");
                    }
                }
                Ok(()) = self.inventory.changed() => {
                    let inventory = self.inventory.borrow_and_update().clone();
                    let report = v1::Report { body: Some(v1::report::Body::Inventory(inventory)) };
                    let body = Body::Reports(v1::Reports { reports: vec![report] });
                    let sent = tokio::time::timeout_at(silent, up.send(envelope(body))).await;
                    sent.map_err(|_| SessionEnd::Silent)?.map_err(|_| SessionEnd::Closed)?;
                }
                Ok(()) = self.lease_ms.changed() => {
                    let wanted = self.heartbeat(welcome);
                    if wanted != pause {
                        pause = wanted;
                        timer = beats(pause);
                    }
                }
                _ = timer.tick() => {
                    let body = Body::Heartbeat(v1::Heartbeat { boot_ms: boot_ms() });
                    // If there is no room, the next one has to do.
                    up.try_send(envelope(body)).ok();
                }
            }
        }
    }

    /// Hands a message to the driver.
    async fn on_message(&self, session: u64, message: ToAgent) -> Result<(), SessionEnd> {
        let (generation, epoch) = (Generation(message.generation), Epoch(message.epoch));
        match Down::try_from(message) {
            Ok(Down::Command(command)) => {
                self.tell(Event::Commanded { session, generation, epoch, command }).await?;
            }
            Ok(Down::HeartbeatAck { boot_ms }) => {
                self.tell(Event::HeartbeatAcked { session, boot_ms }).await?;
            }
            Ok(Down::FileRequest(request)) => self.tell(Event::FileRequested { session, request }).await?,
            Ok(Down::Refused { reason }) => return Err(SessionEnd::Refused(reason)),
            Ok(Down::Welcome(_)) => tracing::warn!("a second Welcome is ignored"),
            // One bad plan must not take the session, and with it every other job's reports.
            Err(error) => tracing::error!(%error, "a message of the coordinator is ignored"),
        }
        Ok(())
    }

    async fn tell(&self, event: Event) -> Result<(), SessionEnd> {
        self.driver.send(event).await.map_err(|_| SessionEnd::Ending)
    }

    /// Often enough for the coordinator, and for the shortest lease.
    fn heartbeat(&mut self, welcome: Welcome) -> Duration {
        let shortest = self.lease_ms.borrow_and_update().map_or(u64::MAX, |lease_ms| lease_ms / 4);
        Duration::from_millis(welcome.heartbeat_ms.min(shortest)).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
    }
}

/// What comes down a session.
struct Downward {
    stream: Streaming<ToAgent>,
    sequence: Sequence,
    /// The last number, for what goes up.
    heard: Arc<AtomicU64>,
}

impl Downward {
    /// The next message; `None`: it was a repetition.
    async fn next(&mut self) -> Result<Option<ToAgent>, SessionEnd> {
        let message = self.stream.message().await.map_err(SessionEnd::Rpc)?.ok_or(SessionEnd::Closed)?;
        match self.sequence.accept(message.seq) {
            Order::Next => {
                self.heard.store(self.sequence.last(), Ordering::Relaxed);
                Ok(Some(message))
            }
            Order::Repeated => {
                tracing::warn!(seq = message.seq, "a repeated message of the coordinator is dropped");
                Ok(None)
            }
            Order::Gap { expected } => Err(SessionEnd::Gap { seq: message.seq, expected }),
        }
    }
}

/// A message up, not numbered yet.
fn envelope(generation: Generation, epoch: Epoch, body: Body) -> FromAgent {
    FromAgent { generation: generation.0, epoch: epoch.0, body: Some(body), seq: 0, heard: 0 }
}

fn silence_max(pause: Duration) -> Duration {
    (pause * MISSED_MAX).max(SILENCE_MIN)
}

fn beats(pause: Duration) -> tokio::time::Interval {
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + pause, pause);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer
}

fn to_wire(said: Outgoing) -> Body {
    match said {
        Outgoing::Reports(reports) => {
            Body::Reports(v1::Reports { reports: reports.into_iter().map(Into::into).collect() })
        }
        Outgoing::File(reply) => Body::FileReply(reply),
    }
}

fn authorized<T>(token: &Secret, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(mut value) = MetadataValue::<Ascii>::try_from(format!("Bearer {}", token.expose())) {
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Uploads the spool as long as the session lives; the stream alone may break and be made anew.
async fn upload_logs(channel: Channel, token: Secret, spool: Spool, session: u64, generation: Generation) {
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut backoff = Backoff::new();
    loop {
        let (chunks, rx) = mpsc::channel(LOG_QUEUE);
        spool.attach(session, chunks);
        let stream =
            ReceiverStream::new(rx).map(move |chunk| v1::LogChunk { generation: generation.0, ..chunk });
        let mut acked = false;
        let end = match client.upload_logs(authorized(&token, stream)).await {
            Ok(acks) => receive_acks(acks.into_inner(), &spool, session, &mut acked).await,
            Err(status) => status,
        };
        if acked {
            backoff = Backoff::new();
        }
        tracing::debug!(code = ?end.code(), message = end.message(), "log upload ended: trying again");
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn receive_acks(
    mut acks: Streaming<v1::LogAck>,
    spool: &Spool,
    session: u64,
    acked: &mut bool,
) -> Status {
    loop {
        match acks.message().await {
            Ok(Some(ack)) => {
                *acked = true;
                spool.ack(session, ack);
            }
            Ok(None) => return Status::unavailable("the coordinator has ended the stream"),
            Err(status) => return status,
        }
    }
}
