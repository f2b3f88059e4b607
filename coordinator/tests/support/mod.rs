//! A coordinator on a loopback port, a REST client for it, and an agent that does what the test says.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};
use trainyard_coordinator::{Config, CoordinatorError, Retention, serve};
use trainyard_core::coordinator as core;
use trainyard_core::id::{GangId, Generation, NodeId, Rank};
use trainyard_core::plan::{NodePlan, PortSpace};
use trainyard_core::session::{Command, EndCause, HeldGang, Hello, NodeFacts, Report, TaskEnded};
use trainyard_core::text::Secret;
use trainyard_core::unit::{Exit, WallMs};
use trainyard_proto::convert::{Down, hello_to_wire};
use trainyard_proto::v1;
use trainyard_proto::v1::agent_service_client::AgentServiceClient;

pub(crate) const TOKEN: &str = "a-token-for-tests-only";
pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";
pub(crate) const WORKSPACE: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/Microsoft.BatchAI/workspaces/default";

/// Far beyond what anything here takes: only a failing test waits for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn config(state_dir: &Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        state_dir: state_dir.to_owned(),
        token: Secret::new(TOKEN.to_owned()),
        insecure_listen: false,
        core: core::Config::default(),
        retention: Retention::default(),
        init: false,
        commit: "abcdef0".to_owned(),
    }
}

pub(crate) struct Yard {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), CoordinatorError>>,
    http: reqwest::Client,
}

impl Yard {
    pub(crate) async fn start(state_dir: &Path) -> Yard {
        let config = config(state_dir);
        Yard::start_with(|ready, stop| serve(config, ready, stop)).await
    }

    pub(crate) async fn start_with<F>(serve: impl FnOnce(oneshot::Sender<SocketAddr>, Stop) -> F) -> Yard
    where
        F: Future<Output = Result<(), CoordinatorError>> + Send + 'static,
    {
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(ready, Stop(stopped)));
        let address = match address.await {
            Ok(address) => address,
            Err(_) => panic!("the coordinator did not start: {:?}", task.await),
        };
        Yard { address, stop, task, http: reqwest::Client::new() }
    }

    pub(crate) async fn stop(self) -> Result<(), CoordinatorError> {
        self.stop.send(()).ok();
        self.task.await.unwrap()
    }

    pub(crate) async fn end(self) -> Result<(), CoordinatorError> {
        self.task.await.unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.anonymous(method, path).bearer_auth(TOKEN)
    }

    pub(crate) fn anonymous(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.http.request(method, self.url(path)).timeout(PATIENCE)
    }

    /// Status and JSON body (null where there is none).
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        };
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) async fn submit(&self, name: &str, body: &Value) -> u16 {
        let (status, answer) = self.call("PUT", &job_path(name), Some(body.clone())).await;
        assert!(status == 202 || status == 200, "{status} {answer}");
        status
    }

    pub(crate) async fn job(&self, name: &str) -> Value {
        self.get(&job_path(name)).await
    }

    pub(crate) async fn state(&self, name: &str) -> String {
        self.job(name).await["properties"]["executionState"].as_str().unwrap().to_owned()
    }
}

/// Comes when the test says so.
pub(crate) struct Stop(oneshot::Receiver<()>);

impl Future for Stop {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

pub(crate) fn bare_job_path(name: &str) -> String {
    format!("{WORKSPACE}/experiments/default/jobs/{name}")
}

pub(crate) fn job_path(name: &str) -> String {
    format!("{}?api-version=2018-05-01", bare_job_path(name))
}

pub(crate) fn own_path(name: &str, what: &str) -> String {
    format!(
        "/api/v1/subscriptions/{SUBSCRIPTION}/resourceGroups/trainyard/workspaces/default/experiments/default/jobs/{name}/{what}"
    )
}

pub(crate) fn job(command: &str) -> Value {
    json!({ "properties": {
        "cluster": { "id": format!("{WORKSPACE}/clusters/default") },
        "nodeCount": 1,
        "customToolkitSettings": { "commandLine": command },
        "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_TEMP_DIR",
        "outputDirectories": [{ "id": "MODEL", "pathPrefix": "$AZ_BATCHAI_JOB_TEMP_DIR" }],
        "secrets": [{ "name": "PASSWORD", "value": "canary-7f3a" }],
    }})
}

/// An agent that does what the test says.
pub(crate) struct Agent {
    up: mpsc::Sender<v1::FromAgent>,
    down: Streaming<v1::ToAgent>,
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
}

pub(crate) type Client = AgentServiceClient<tonic::transport::Channel>;

pub(crate) async fn client(address: SocketAddr) -> Client {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    AgentServiceClient::new(channel.connect().await.unwrap())
}

pub(crate) fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token: MetadataValue<_> = format!("Bearer {TOKEN}").parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    request
}

pub(crate) fn hello(node: &str, held: Vec<HeldGang>) -> Hello {
    Hello {
        node: NodeId(node.to_owned()),
        facts: NodeFacts {
            version: "0.1.0".to_owned(),
            address: "127.0.0.2".to_owned(),
            root: format!("/nonexistent/{node}"),
            port_space: PortSpace { boot_id: "another-machine".to_owned(), network_namespace: 1 },
            privileged: false,
            base_environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            gpus: vec![],
            gpu_problem: String::new(),
            degraded: String::new(),
            stuck: Vec::new(),
        },
        held,
        last_generation: Generation(0),
    }
}

impl Agent {
    pub(crate) async fn join(yard: &Yard, node: &str) -> Agent {
        Agent::join_with(yard, hello(node, vec![])).await
    }

    pub(crate) async fn join_with(yard: &Yard, hello: Hello) -> Agent {
        let (mut agent, first) = Agent::connect(yard, hello_to_wire(hello, inventory())).await;
        match first {
            Down::Welcome(welcome) => {
                (agent.generation, agent.epoch) = (welcome.generation.0, welcome.epoch.0);
                agent
            }
            other => panic!("not welcome: {other:?}"),
        }
    }

    pub(crate) async fn connect(yard: &Yard, hello: v1::Hello) -> (Agent, Down) {
        let (up, queue) = mpsc::channel(64);
        up.send(v1::FromAgent {
            generation: 0,
            epoch: 0,
            body: Some(v1::from_agent::Body::Hello(hello)),
            ..Default::default()
        })
        .await
        .unwrap();
        let mut client = client(yard.address).await;
        let down = client.session(with_token(ReceiverStream::new(queue))).await.unwrap().into_inner();
        let mut agent = Agent { up, down, generation: 0, epoch: 0 };
        let first = agent.next().await.expect("an answer to Hello");
        (agent, first)
    }

    /// `None`: the coordinator has closed the session.
    pub(crate) async fn next(&mut self) -> Option<Down> {
        let message = tokio::time::timeout(PATIENCE, self.down.message()).await.expect("a message in time");
        message.ok().flatten().map(|message| message.try_into().unwrap())
    }

    pub(crate) async fn command(&mut self) -> Command {
        match self.next().await {
            Some(Down::Command(command)) => command,
            other => panic!("no command: {other:?}"),
        }
    }

    pub(crate) async fn send(&self, body: v1::from_agent::Body) {
        self.send_numbered(0, body).await;
    }

    /// 0: without a number.
    pub(crate) async fn send_numbered(&self, seq: u64, body: v1::from_agent::Body) {
        let message = v1::FromAgent {
            generation: self.generation,
            epoch: self.epoch,
            body: Some(body),
            seq,
            ..Default::default()
        };
        self.up.send(message).await.unwrap();
    }

    pub(crate) async fn report(&self, reports: Vec<Report>) {
        let reports = reports.into_iter().map(Into::into).collect();
        self.send(v1::from_agent::Body::Reports(v1::Reports { reports })).await;
    }

    /// Takes the `Prepare` of a job and starts its tasks.
    pub(crate) async fn start(&mut self) -> (GangId, NodePlan) {
        // What belongs to an earlier gang comes before.
        let (gang, plan) = loop {
            if let Command::Prepare { gang, plan, start_when_prepared, .. } = self.command().await {
                assert!(start_when_prepared);
                break (gang, plan);
            }
        };
        let mut reports = vec![Report::Prepared(gang)];
        for task in &plan.tasks {
            let (attempt, at) = (gang.attempt(task.rank), WallMs(1_700_000_000_000));
            reports.push(Report::Started { attempt, pid: 4711, at });
        }
        self.report(reports).await;
        // The gang has one node: `Start` is sent all the same once it is prepared, and is harmless.
        (gang, *plan)
    }

    /// Ends rank 0 with this code, and the gang.
    pub(crate) async fn finish(&mut self, gang: GangId, code: i32) {
        self.report(vec![Report::Ended(ended(gang, code)), Report::GangEnded(gang)]).await;
        loop {
            if let Command::Release(released) = self.command().await {
                assert_eq!(released, gang);
                return;
            }
        }
    }
}

pub(crate) fn ended(gang: GangId, code: i32) -> TaskEnded {
    TaskEnded {
        attempt: gang.attempt(Rank(0)),
        exit: Exit::Code(code),
        cause: EndCause::Itself,
        started: WallMs(1_700_000_000_000),
        ended: WallMs(1_700_000_001_000),
        stderr_tail: if code == 0 { String::new() } else { "no such file: data.csv\n".to_owned() },
        message: String::new(),
    }
}

pub(crate) fn inventory() -> v1::Inventory {
    v1::Inventory {
        hostname: "host".to_owned(),
        cpus: 2,
        memory_bytes: 1 << 30,
        limitations: vec!["no cgroups: not root".to_owned()],
        ..v1::Inventory::default()
    }
}

pub(crate) fn log_chunk(gang: GangId, file: &str, offset: u64, data: &str, end: bool) -> v1::LogChunk {
    v1::LogChunk {
        generation: 1,
        node: "node-0".to_owned(),
        gang: Some(gang.into()),
        file: file.to_owned(),
        offset,
        data: data.to_owned().into(),
        end,
        gap: 0,
    }
}

/// Uploads these chunks on one stream and gives the last acknowledgement of each file.
pub(crate) async fn upload(
    yard: &Yard,
    chunks: Vec<v1::LogChunk>,
) -> std::collections::BTreeMap<String, (u64, bool)> {
    let mut client = client(yard.address).await;
    let mut acks = client.upload_logs(with_token(tokio_stream::iter(chunks))).await.unwrap().into_inner();
    let mut last = std::collections::BTreeMap::new();
    while let Some(ack) = tokio::time::timeout(PATIENCE, acks.message()).await.unwrap().unwrap() {
        last.insert(ack.file, (ack.durable_offset, ack.end));
    }
    last
}
