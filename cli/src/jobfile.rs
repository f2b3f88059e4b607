//! A job file: read with limits, changed by flags, checked, completed as the real client completes it, sent.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use trainyard_core::spec::{
    self, ClientSettings, JobSpec, Options, Override, Refusal, Source, Warning, limits::SPEC_BYTES, not_built,
};
use trainyard_core::text::Secret;

use crate::client::{API_VERSION, Client, Refused, is_not_found};
use crate::exit::Coded;
use crate::jobref::{DEFAULT, JobRef};
use crate::talk;

/// Flags that change how a job file is read.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SpecFlags {
    /// Set a field of the job file, as `nodeCount=2` or `customToolkitSettings.commandLine=env`; can be
    /// repeated.
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Unknown keys are errors instead of warnings.
    #[arg(long)]
    strict: bool,
}

/// A job file that was read and checked.
pub(crate) struct JobFile {
    /// What it asks for.
    pub(crate) spec: JobSpec,
    warnings: Vec<Warning>,
}

/// What became of a submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// A new job.
    New,
    /// The same job was there already; it is not run again.
    Existed,
}

impl JobFile {
    /// Reads a file, or stdin if it is `-`; `env` are `NAME=value`s.
    ///
    /// # Errors
    /// [`Coded`] with exit code 2 and every error of the file.
    pub(crate) fn read(file: &Path, flags: &SpecFlags, env: &[String]) -> anyhow::Result<JobFile> {
        let overrides = flags.set.iter().map(|set| Override::set(set));
        let overrides = overrides.chain(env.iter().map(|env| Override::environment(env)));
        let overrides: Vec<Override> =
            overrides.collect::<Result<_, _>>().map_err(|e| Coded::bad_input(e.to_string()))?;
        let text = bytes(file)?;
        let options = Options { source: Source::File, strict: flags.strict, overrides };
        let read = spec::read(&text, &options).map_err(|refusal| refused(file, &refusal))?;
        let mut job = JobFile { spec: read.spec, warnings: read.warnings };
        job.resolve_host_paths(&base(file)?);
        Ok(job)
    }

    /// What is odd about it, on stderr.
    pub(crate) fn warn(&self) {
        for warning in self.warning_lines() {
            talk::warning(&warning);
        }
    }

    /// What is odd about it, a line each.
    pub(crate) fn warning_lines(&self) -> Vec<String> {
        let odd = self.warnings.iter().map(ToString::to_string);
        odd.chain(not_built(&self.spec).iter().map(|part| format!("not built yet: {part}"))).collect()
    }

    /// Relative paths of the node's directories are meant from the file's folder.
    fn resolve_host_paths(&mut self, base: &Path) {
        let Some(volumes) = &mut self.spec.mount_volumes else { return };
        for host in &mut volumes.host_paths {
            host.path = resolve(base, &host.path);
        }
    }

    /// Submits it under this name; workspace and experiment are made if they do not exist.
    pub(crate) async fn submit(&self, client: &Client, job: &JobRef) -> anyhow::Result<Submitted> {
        let body = self.body(job);
        let existed = match client.job(job).await {
            Ok(_) => true,
            Err(e) if is_not_found(&e) => false,
            Err(e) => return Err(e),
        };
        let path = format!("{}?api-version={API_VERSION}", job.arm_id());
        let mut answer = client.json(Method::PUT, &path, Some(&body)).await;
        if answer.as_ref().is_err_and(is_missing_parent) {
            make_parents(client, job).await?;
            answer = client.json(Method::PUT, &path, Some(&body)).await;
        }
        match answer {
            Ok(_) if existed => Ok(Submitted::Existed),
            Ok(_) => Ok(Submitted::New),
            Err(e) => Err(bad_spec_as_bad_input(e)),
        }
    }

    /// The request's body, secrets included: for the connection only.
    fn body(&self, job: &JobRef) -> Value {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let settings = ClientSettings {
            cluster: self
                .spec
                .cluster
                .is_none()
                .then(|| format!("{}/clusters/{DEFAULT}", job.workspace_id())),
            account_name: variable("AZURE_BATCHAI_STORAGE_ACCOUNT"),
            account_key: variable("AZURE_BATCHAI_STORAGE_KEY").map(Secret::new),
        };
        let mut spec = self.spec.clone();
        settings.fill_in(&mut spec);
        spec::request_body(&spec)
    }
}

/// At most one byte more than a spec may have: a 100 MB file is refused without being read.
fn bytes(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = SPEC_BYTES as u64 + 1;
    let unreadable = |e: io::Error| Coded::bad_input(format!("{}: {e}", file.display()));
    if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut text).map_err(unreadable)?;
        return Ok(text);
    }
    let opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Coded::bad_input(format!(
            "{}: a directory where a job file is expected",
            file.display()
        ))
        .into());
    }
    if metadata.len() >= limit {
        return Err(Coded::bad_input(format!(
            "{}: {} bytes are too many; allowed: up to {SPEC_BYTES} bytes; cure: check that this is a job file",
            file.display(),
            metadata.len()
        ))
        .into());
    }
    opened.take(limit).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn refused(file: &Path, refusal: &Refusal) -> Coded {
    for warning in &refusal.warnings {
        talk::warning(&format!("{}: {warning}", file.display()));
    }
    let lines: Vec<String> =
        refusal.errors.iter().map(|error| format!("{}: {error}", file.display())).collect();
    Coded::bad_input(lines.join("\n       "))
}

/// The folder of the file; of stdin the working directory.
fn base(file: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(file).with_context(|| format!("finding {}", file.display()))?;
    Ok(file.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}

/// A relative path from this folder, `.` and `..` taken out by text: links are the node's affair.
fn resolve(base: &Path, path: &str) -> String {
    use std::path::Component;

    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut whole = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                whole.pop();
            }
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => whole.push(part),
        }
    }
    whole.to_string_lossy().into_owned()
}

fn is_missing_parent(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<Refused>().map(|refused| refused.code.as_str());
    matches!(code, Some("WorkspaceNotFound" | "ExperimentNotFound" | "ClusterNotFound"))
}

async fn make_parents(client: &Client, job: &JobRef) -> anyhow::Result<()> {
    let query = format!("?api-version={API_VERSION}");
    let workspace = json!({"location": "local"});
    client
        .json(Method::PUT, &format!("{}{query}", job.workspace_id()), Some(&workspace))
        .await
        .with_context(|| format!("making the workspace {}", job.workspace))?;
    client
        .json(Method::PUT, &format!("{}{query}", job.experiment_id()), None)
        .await
        .with_context(|| format!("making the experiment {}", job.experiment))?;
    Ok(())
}

/// The coordinator may know better what is wrong with a spec than we do.
fn bad_spec_as_bad_input(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.status == StatusCode::BAD_REQUEST => {
            Coded::bad_input(refused.to_string()).into()
        }
        Some(_) | None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    const JOB: &str = "nodeCount: 1
stdOutErrPathPrefix: $AZ_BATCHAI_JOB_MOUNT_ROOT/out
customToolkitSettings: {commandLine: 'true'}
mountVolumes: {hostPaths: [{path: ../data, relativeMountPath: data}, {path: /out, relativeMountPath: out}]}
secrets: [{name: KEY, value: canary}]
";

    fn file(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn refusal(text: &[u8], flags: &SpecFlags) -> String {
        let (_dir, path) = file(text);
        let error = JobFile::read(&path, flags, &[]).err().expect("a bad file");
        assert_eq!(exit::of_error(&error, exit::TRAINYARD), exit::BAD_INPUT);
        error.to_string()
    }

    #[test]
    fn relative_directories_are_meant_from_the_file() {
        let (dir, path) = file(JOB.as_bytes());
        let job = JobFile::read(&path, &SpecFlags::default(), &[]).unwrap();
        let paths: Vec<&str> = job
            .spec
            .mount_volumes
            .as_ref()
            .unwrap()
            .host_paths
            .iter()
            .map(|host| host.path.as_str())
            .collect();
        let parent = dir.path().parent().unwrap();
        assert_eq!(paths, [parent.join("data").to_str().unwrap(), "/out"]);
    }

    #[test]
    fn paths_resolve_by_text() {
        let check =
            |path: &str, expected: &str| assert_eq!(resolve(Path::new("/a/b"), path), expected, "{path}");
        check("c", "/a/b/c");
        check("./c/./d", "/a/b/c/d");
        check("../c", "/a/c");
        check("../../../c", "/c");
        check(".", "/a/b");
        check("/c/../d", "/c/../d");
    }

    #[test]
    fn the_body_is_complete_with_its_secrets() {
        let (_dir, path) = file(JOB.as_bytes());
        let job = JobFile::read(&path, &SpecFlags::default(), &["LR=0.1".to_owned()]).unwrap();
        let job_ref = JobRef::new("w", "e", "j");
        let body = job.body(&job_ref);
        let properties = &body["properties"];
        assert_eq!(properties["cluster"]["id"], format!("{}/clusters/default", job_ref.workspace_id()));
        assert_eq!(properties["secrets"][0]["value"], "canary");
        assert_eq!(properties["environmentVariables"], json!([{"name": "LR", "value": "0.1"}]));
        assert!(!format!("{:?}", job.spec).contains("canary"));
    }

    #[test]
    fn bad_files_are_refused_before_anything_starts() {
        let none = SpecFlags::default();
        assert!(refusal(b"", &none).contains("empty"));
        assert!(refusal(b"nodeCount: 1", &none).contains("customToolkitSettings"));
        assert!(refusal(&vec![b' '; SPEC_BYTES + 1], &none).contains("too many"));
        let set = SpecFlags { set: vec!["nodeCount".to_owned()], strict: false };
        assert!(refusal(JOB.as_bytes(), &set).contains("--set"));
        let error = JobFile::read(Path::new("/none/job.yaml"), &none, &[]).err().unwrap();
        assert_eq!(exit::of_error(&error, exit::TRAINYARD), exit::BAD_INPUT);
        let error = JobFile::read(Path::new("/"), &none, &[]).err().unwrap();
        assert!(error.to_string().contains("a directory"));
    }
}
