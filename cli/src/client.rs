//! The REST client: the only way in which the client's verbs reach a coordinator.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::config::Target;
use crate::jobref::{self, JobRef, Listed, Scope};
use crate::sse;

/// Of every Batch AI route.
pub(crate) const API_VERSION: &str = "2018-05-01";

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take that is no stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Jobs that one answer lists at most.
pub(crate) const LIST_LIMIT: u32 = 1000;
/// Waiting times between tries to reach a coordinator again.
const BACK_OFF: [u64; 6] = [50, 100, 250, 500, 1000, 2000];
/// How long a stream of events may be silent before it is opened again; keep-alives come far more often.
const SILENCE: Duration = Duration::from_secs(90);
/// Events on their way to their reader.
const EVENT_QUEUE: usize = 64;

/// Speaks to one coordinator.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    target: Target,
}

/// The coordinator said no.
#[derive(Debug)]
pub(crate) struct Refused {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// ARM's code, as `JobNotFound`.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "the coordinator answered {}", self.status)?,
            code => write!(f, "{} ({code})", self.message)?,
        }
        if self.status == StatusCode::UNAUTHORIZED {
            f.write_str(
                "; the token comes from TRAINYARD_TOKEN or the client.json that `trainyard up` writes",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Nobody answered: not the same as a failure of what was asked for.
#[derive(Debug)]
pub(crate) struct Unreachable {
    coordinator: String,
    why: String,
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Unreachable { coordinator, why } = self;
        write!(
            f,
            "no coordinator answers at {coordinator} ({why}); start one with: trainyard up, or name another with \
             --coordinator"
        )
    }
}

impl std::error::Error for Unreachable {}

impl Client {
    /// Opens no connection yet.
    pub(crate) fn new(target: Target) -> anyhow::Result<Client> {
        let http = reqwest::Client::builder()
            // A coordinator is ours and near: a proxy of the environment is for other things.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("setting up HTTP")?;
        Ok(Client { http, target })
    }

    /// The coordinator's address.
    pub(crate) fn coordinator(&self) -> &str {
        &self.target.coordinator
    }

    /// GET, with a JSON answer.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, None).await
    }

    /// Sends a request that is no stream; an empty answer is `null`.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut request = self.request(method, path).timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.send(request).await?;
        let bytes = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} did not answer with JSON", self.target.coordinator))
    }

    /// GET of a stream of bytes.
    pub(crate) async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        self.send(self.request(Method::GET, path)).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.target.coordinator));
        match &self.target.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body: Value = answer.json().await.unwrap_or(Value::Null);
        let text = |field: &str| body["error"][field].as_str().unwrap_or_default().to_owned();
        Err(Refused { status, code: text("code"), message: text("message") }.into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Unreachable {
        Unreachable { coordinator: self.target.coordinator.clone(), why: root_cause(error) }
    }

    /// The resource of a job.
    pub(crate) async fn job(&self, job: &JobRef) -> anyhow::Result<Value> {
        self.get(&format!("{}?api-version={API_VERSION}", job.arm_id())).await
    }

    /// Asks for a job to end.
    pub(crate) async fn terminate(&self, job: &JobRef) -> anyhow::Result<()> {
        let path = format!("{}/terminate?api-version={API_VERSION}", job.arm_id());
        self.json(Method::POST, &path, None).await.map(drop)
    }

    /// Which job the user means.
    pub(crate) async fn find(&self, text: &str, scope: &Scope) -> anyhow::Result<JobRef> {
        let direct = jobref::direct(text, scope)?;
        match self.job(&direct).await {
            Ok(_) => return Ok(direct),
            Err(e) if is_not_found(&e) && !text.starts_with('/') => {}
            Err(e) => return Err(e),
        }
        Ok(jobref::resolve(text, scope, &self.jobs().await?)?)
    }

    async fn jobs(&self) -> anyhow::Result<Vec<Listed>> {
        let list = self.list(&[], None, LIST_LIMIT).await?;
        serde_json::from_value(Value::Array(list)).context("reading the coordinator's list of jobs")
    }

    /// Summaries of jobs in these states (in any, if none is given), the newest first.
    pub(crate) async fn list(
        &self,
        states: &[&str],
        experiment: Option<&str>,
        limit: u32,
    ) -> anyhow::Result<Vec<Value>> {
        let experiment = experiment.map(|name| format!("&experiment={name}")).unwrap_or_default();
        let mut queries: Vec<String> = states.iter().map(|state| format!("&state={state}")).collect();
        if queries.is_empty() {
            queries.push(String::new());
        }
        let mut jobs = Vec::new();
        for state in queries {
            let answer = self.get(&format!("/api/v1/jobs?limit={limit}{experiment}{state}")).await?;
            jobs.extend(answer["value"].as_array().cloned().unwrap_or_default());
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job["jobId"].as_u64()));
        // A job may have changed its state between two questions.
        jobs.dedup_by_key(|job| job["jobId"].as_u64());
        jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(jobs)
    }

    /// Follows the events of one job (or of all) from now on, through restarts of the coordinator.
    ///
    /// Every event may be missed by nobody: after each (re)connection a [`Heard::Connected`] comes first, and
    /// what happened before it is to be asked for.
    pub(crate) fn events(&self, job_id: Option<u64>) -> mpsc::Receiver<Heard> {
        let (tx, rx) = mpsc::channel(EVENT_QUEUE);
        // It ends with its reader: a closed channel is seen at the next event or keep-alive.
        tokio::spawn(follow(self.clone(), job_id, tx));
        rx
    }
}

/// What a follower of events hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The stream is open: everything from here on is heard.
    Connected,
    /// Something happened.
    Event,
    /// The coordinator does not answer; another try follows.
    Lost(String),
    /// The coordinator refuses: no other try follows.
    Refused(anyhow::Error),
}

async fn follow(client: Client, job_id: Option<u64>, tx: mpsc::Sender<Heard>) {
    let mut last: Option<String> = None;
    let mut tries = 0;
    loop {
        let lost = match connect(&client, job_id, last.as_deref()).await {
            Ok(answer) => {
                tries = 0;
                if tx.send(Heard::Connected).await.is_err() {
                    return;
                }
                match pass_on(answer, &mut last, &tx).await {
                    Some(why) => why,
                    None => return,
                }
            }
            Err(e) if e.downcast_ref::<Unreachable>().is_some() => e.to_string(),
            Err(e) => {
                // Nobody is left to hear it if this fails.
                drop(tx.send(Heard::Refused(e)).await);
                return;
            }
        };
        if tx.send(Heard::Lost(lost)).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(back_off(tries)) => tries += 1,
            () = tx.closed() => return,
        }
    }
}

async fn connect(
    client: &Client,
    job_id: Option<u64>,
    last: Option<&str>,
) -> anyhow::Result<reqwest::Response> {
    let path = match job_id {
        Some(job_id) => format!("/api/v1/events?job={job_id}"),
        None => "/api/v1/events".to_owned(),
    };
    let mut request = client.request(Method::GET, &path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    client.send(request).await
}

/// Passes events on until the stream breaks (why), or the reader is gone (`None`).
async fn pass_on(
    answer: reqwest::Response,
    last: &mut Option<String>,
    tx: &mpsc::Sender<Heard>,
) -> Option<String> {
    let mut parser = sse::Parser::default();
    let mut chunks = answer.bytes_stream();
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(SILENCE, chunks.next()) => chunk,
            () = tx.closed() => return None,
        };
        let Ok(chunk) = chunk else {
            return Some("nothing was heard for 90 seconds".to_owned());
        };
        let events = match chunk {
            None => return Some("the coordinator closed the stream of events".to_owned()),
            Some(Err(e)) => return Some(root_cause(&e)),
            Some(Ok(bytes)) => match parser.push(&bytes) {
                Ok(events) => events,
                Err(e) => return Some(e.to_string()),
            },
        };
        for event in events {
            tracing::debug!(kind = event.kind, data = event.data, "event");
            last.clone_from(&event.id);
            tx.send(Heard::Event).await.ok()?;
        }
    }
}

/// What the network said: the layers above it say only that something failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut why: &dyn std::error::Error = error;
    while let Some(source) = why.source() {
        why = source;
    }
    why.to_string()
}

/// How long to wait before another try.
pub(crate) fn back_off(tries: usize) -> Duration {
    Duration::from_millis(BACK_OFF[tries.min(BACK_OFF.len() - 1)])
}

/// Whether the coordinator knows no such thing.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == StatusCode::NOT_FOUND)
}

/// Whether nobody answered.
pub(crate) fn is_unreachable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Unreachable>().is_some()
}
