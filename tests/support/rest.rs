//! A client of the coordinator that blocks: REST as any program would speak it.

use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{until, wait::PATIENCE};

/// Batch AI's version of the API.
const API_VERSION: &str = "2018-05-01";
/// Where the jobs of the default experiment stand below both roots of the API.
const SUBSCRIPTION: &str = "subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard";
const EXPERIMENT: &str = "workspaces/default/experiments/default";

/// A client.
pub struct Rest {
    runtime: Runtime,
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Rest {
    /// For the coordinator at this URL.
    ///
    /// # Panics
    /// A client cannot be made.
    #[must_use]
    pub fn new(base: &str, token: &str) -> Rest {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Rest { runtime, client, base: base.to_owned(), token: token.to_owned() }
    }

    /// Status and body of a GET; `None`: nobody answers.
    #[must_use]
    pub fn try_get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        let request = self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            Some((answer.status().as_u16(), answer.bytes().await.ok()?.to_vec()))
        })
    }

    /// The JSON that a GET gives.
    ///
    /// # Panics
    /// Another status than 200, or no JSON.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).unwrap_or_else(|| panic!("nobody answers {path}"));
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Status of a PUT with this body; `None`: nobody answered, so nobody knows whether it was done.
    #[must_use]
    pub fn put(&self, path: &str, body: &Value) -> Option<u16> {
        let request = self.client.put(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        self.runtime.block_on(async { request.send().await.ok().map(|answer| answer.status().as_u16()) })
    }

    /// Status of a POST without a body; `None` as for [`Rest::put`].
    #[must_use]
    pub fn post(&self, path: &str) -> Option<u16> {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token);
        self.runtime.block_on(async { request.send().await.ok().map(|answer| answer.status().as_u16()) })
    }

    /// Status of a DELETE; `None` as for [`Rest::put`].
    #[must_use]
    pub fn delete(&self, path: &str) -> Option<u16> {
        let request = self.client.delete(format!("{}{path}", self.base)).bearer_auth(&self.token);
        self.runtime.block_on(async { request.send().await.ok().map(|answer| answer.status().as_u16()) })
    }

    /// Waits until the coordinator answers.
    pub fn until_healthy(&self) {
        until("the coordinator answers", || self.try_get("/healthz").filter(|(status, _)| *status == 200));
    }

    /// The path of a job's resource in the default experiment.
    #[must_use]
    pub fn job_path(name: &str) -> String {
        format!(
            "/{SUBSCRIPTION}/providers/Microsoft.BatchAI/{EXPERIMENT}/jobs/{name}?api-version={API_VERSION}"
        )
    }

    /// The path of what Batch AI lacks about a job, as `plan`.
    #[must_use]
    pub fn extra_path(name: &str, what: &str) -> String {
        format!("/api/v1/{SUBSCRIPTION}/{EXPERIMENT}/jobs/{name}/{what}")
    }

    /// A job's resource.
    #[track_caller]
    #[must_use]
    pub fn job(&self, name: &str) -> Value {
        self.get(&Rest::job_path(name))
    }

    /// Waits until a job's resource satisfies a condition, and gives it.
    pub fn until_job(&self, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let path = Rest::job_path(name);
        until(&format!("job {name}: {what}"), || {
            let (status, body) = self.try_get(&path)?;
            let job = (status == 200).then(|| serde_json::from_slice(&body).ok())??;
            fits(&job).then_some(job)
        })
    }

    /// Waits until a job has ended.
    pub fn until_ended(&self, name: &str) -> Value {
        self.until_job(name, "it ends", |job| {
            matches!(job["properties"]["executionState"].as_str(), Some("succeeded" | "failed"))
        })
    }

    /// Waits until every task of a job runs.
    pub fn until_running(&self, name: &str) -> Value {
        self.until_job(name, "all tasks run", |job| {
            let tasks =
                job["properties"]["trainyard"]["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
            !tasks.is_empty() && tasks.iter().all(|task| task["pid"].is_u64() && task["state"] == "running")
        })
    }

    /// All bytes of a log file of a job.
    ///
    /// # Panics
    /// It is not there.
    #[track_caller]
    #[must_use]
    pub fn log(&self, job: &str, file: &str) -> Vec<u8> {
        let path = Rest::extra_path(job, &format!("logs/{file}?offset=0"));
        let (status, body) = self.try_get(&path).expect("the coordinator answers");
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        body
    }

    /// Waits until a log file of a job is complete, and gives its bytes.
    #[must_use]
    pub fn whole_log(&self, job: &str, file: &str) -> Vec<u8> {
        let list = Rest::extra_path(job, "logs");
        until(&format!("{file} of {job} is complete"), || {
            let (status, body) = self.try_get(&list)?;
            let files: Value = (status == 200).then(|| serde_json::from_slice(&body).ok())??;
            let mut files = files["value"].as_array()?.iter();
            files.any(|it| it["file"] == file && it["end"] == true).then_some(())
        });
        self.log(job, file)
    }
}

impl Rest {
    /// Follows the event log after this sequence number until an event fits; gives all up to that one.
    ///
    /// # Panics
    /// None comes.
    #[must_use]
    pub fn events_until(&self, after: u64, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let request =
            self.client.get(format!("{}/api/v1/events?after={after}", self.base)).bearer_auth(&self.token);
        self.runtime.block_on(async {
            let mut answer = request.send().await.expect("the coordinator answers");
            let (mut text, mut events) = (Vec::new(), Vec::new());
            loop {
                let piece =
                    answer.chunk().await.expect("the stream goes on").expect("the stream does not end");
                text.extend_from_slice(&piece);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let Some(data) = line.strip_prefix(b"data:") else { continue };
                    events.push(serde_json::from_slice(data).expect("JSON"));
                    if events.last().is_some_and(&fits) {
                        return events;
                    }
                }
            }
        })
    }
}
