//! How a user names a job: by name, ARM id, number, or the unique beginning of its name. Pure.

use std::fmt;

use serde::Deserialize;
use trainyard_core::text::Name;

/// The subscription unless another is named.
pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";
/// The resource group unless another is named.
pub(crate) const GROUP: &str = "trainyard";
/// The workspace, experiment and cluster unless others are named.
pub(crate) const DEFAULT: &str = "default";

/// The full name of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobRef {
    /// Subscription.
    pub(crate) subscription: String,
    /// Resource group.
    pub(crate) group: String,
    /// Workspace.
    pub(crate) workspace: String,
    /// Experiment.
    pub(crate) experiment: String,
    /// Job.
    pub(crate) job: String,
}

impl JobRef {
    /// A job of the default subscription and group.
    pub(crate) fn new(workspace: &str, experiment: &str, job: &str) -> JobRef {
        JobRef {
            subscription: SUBSCRIPTION.to_owned(),
            group: GROUP.to_owned(),
            workspace: workspace.to_owned(),
            experiment: experiment.to_owned(),
            job: job.to_owned(),
        }
    }

    /// Takes an ARM id apart; its fixed parts are compared without case, as ARM does.
    pub(crate) fn parse(id: &str) -> Option<JobRef> {
        let parts: Vec<&str> = id.strip_prefix('/')?.trim_end_matches('/').split('/').collect();
        let [k0, subscription, k1, group, k2, provider, k3, workspace, k4, experiment, k5, job] = parts[..]
        else {
            return None;
        };
        let keys = [k0, k1, k2, provider, k3, k4, k5].map(str::to_ascii_lowercase);
        let expected = [
            "subscriptions",
            "resourcegroups",
            "providers",
            "microsoft.batchai",
            "workspaces",
            "experiments",
            "jobs",
        ];
        let values = [subscription, group, workspace, experiment, job];
        let fits = keys == expected && values.iter().all(|v| is_segment(v));
        fits.then(|| JobRef {
            subscription: subscription.to_owned(),
            group: group.to_owned(),
            workspace: workspace.to_owned(),
            experiment: experiment.to_owned(),
            job: job.to_owned(),
        })
    }

    /// Its ARM id: the path of Batch AI's own routes.
    pub(crate) fn arm_id(&self) -> String {
        format!("{}/jobs/{}", self.experiment_id(), self.job)
    }

    /// The ARM id of its experiment.
    pub(crate) fn experiment_id(&self) -> String {
        format!("{}/experiments/{}", self.workspace_id(), self.experiment)
    }

    /// The ARM id of its workspace.
    pub(crate) fn workspace_id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.BatchAI/workspaces/{}",
            self.subscription, self.group, self.workspace
        )
    }

    /// The path of our own routes for it.
    pub(crate) fn api_path(&self) -> String {
        format!(
            "/api/v1/subscriptions/{}/resourceGroups/{}/workspaces/{}/experiments/{}/jobs/{}",
            self.subscription, self.group, self.workspace, self.experiment, self.job
        )
    }
}

/// Whether the text can stand in a path as it is.
fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed)
}

/// What is needed of a job in a list to find it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    /// ARM id.
    pub(crate) id: String,
    /// Number.
    pub(crate) job_id: u64,
    /// Name.
    pub(crate) name: String,
    /// State.
    #[serde(default)]
    pub(crate) execution_state: String,
}

/// Where to look first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// `-w`.
    pub(crate) workspace: Option<String>,
    /// `-e`.
    pub(crate) experiment: Option<String>,
}

impl Scope {
    /// A job of this scope.
    pub(crate) fn job(&self, name: &str) -> JobRef {
        JobRef::new(
            self.workspace.as_deref().unwrap_or(DEFAULT),
            self.experiment.as_deref().unwrap_or(DEFAULT),
            name,
        )
    }

    fn holds(&self, job: &JobRef) -> bool {
        let fits =
            |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(is));
        fits(&self.workspace, &job.workspace) && fits(&self.experiment, &job.experiment)
    }
}

/// No job, or more than one, is meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// No job has that name.
    Nothing(String),
    /// Several begin like that: some of them.
    Ambiguous(String, Vec<String>),
    /// It can be no name.
    NoName(String),
}

/// Candidates that an error names.
const CANDIDATES: usize = 10;

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::Nothing(text) => {
                write!(f, "there is no job `{text}`; `trainyard job list` shows those there are")
            }
            Unresolved::Ambiguous(text, candidates) => {
                write!(f, "`{text}` fits {} jobs:", candidates.len())?;
                for candidate in candidates.iter().take(CANDIDATES) {
                    write!(f, "\n  {candidate}")?;
                }
                if candidates.len() > CANDIDATES {
                    write!(f, "\n  and {} more", candidates.len() - CANDIDATES)?;
                }
                Ok(())
            }
            Unresolved::NoName(text) => write!(
                f,
                "`{}` names no job: a name, the beginning of one, a number or an ARM id is expected",
                crate::output::printable(text)
            ),
        }
    }
}

impl std::error::Error for Unresolved {}

/// A job that can be addressed without knowing the list: an ARM id, or a whole name in the scope.
pub(crate) fn direct(text: &str, scope: &Scope) -> Result<JobRef, Unresolved> {
    if text.starts_with('/') {
        return JobRef::parse(text).ok_or_else(|| Unresolved::NoName(text.to_owned()));
    }
    match Name::parse(text) {
        Ok(_) => Ok(scope.job(text)),
        Err(_) => Err(Unresolved::NoName(text.to_owned())),
    }
}

/// Finds what the text means among these jobs: a whole name, else a number, else the unique beginning of a name.
pub(crate) fn resolve(text: &str, scope: &Scope, jobs: &[Listed]) -> Result<JobRef, Unresolved> {
    let in_scope: Vec<(&Listed, JobRef)> = jobs
        .iter()
        .filter_map(|job| JobRef::parse(&job.id).map(|id| (job, id)))
        .filter(|(_, id)| scope.holds(id))
        .collect();
    let whole: Vec<_> = in_scope.iter().filter(|(job, _)| job.name.eq_ignore_ascii_case(text)).collect();
    if !whole.is_empty() {
        return one(text, &whole);
    }
    if let Ok(number) = text.parse::<u64>()
        && let Some((_, id)) = in_scope.iter().find(|(job, _)| job.job_id == number)
    {
        return Ok(id.clone());
    }
    let begins = |name: &str| name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    let prefixed: Vec<_> = in_scope.iter().filter(|(job, _)| begins(&job.name)).collect();
    one(text, &prefixed)
}

fn one(text: &str, found: &[&(&Listed, JobRef)]) -> Result<JobRef, Unresolved> {
    match found {
        [] => Err(Unresolved::Nothing(text.to_owned())),
        [(_, id)] => Ok(id.clone()),
        several => {
            let line = |(job, id): &(&Listed, JobRef)| {
                format!(
                    "{}  (job {}, {}/{}, {})",
                    job.name, job.job_id, id.workspace, id.experiment, job.execution_state
                )
            };
            Err(Unresolved::Ambiguous(text.to_owned(), several.iter().map(|found| line(found)).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> Vec<Listed> {
        let listed = |experiment: &str, name: &str, job_id| Listed {
            id: JobRef::new("default", experiment, name).arm_id(),
            job_id,
            name: name.to_owned(),
            execution_state: "running".to_owned(),
        };
        vec![
            listed("default", "quiet-otter-1234", 1),
            listed("default", "quiet-loom-9999", 2),
            listed("default", "quiet", 3),
            listed("default", "7", 4),
            listed("other", "train", 7),
            listed("default", "train", 8),
            listed("default", "train-2", 9),
        ]
    }

    fn check(text: &str, scope: &Scope, expected: Option<(&str, &str)>) {
        let found = resolve(text, scope, &jobs()).ok();
        let found = found.as_ref().map(|id| (id.experiment.as_str(), id.job.as_str()));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn jobs_are_found_by_name_number_and_beginning() {
        let anywhere = Scope::default();
        check("quiet-o", &anywhere, Some(("default", "quiet-otter-1234")));
        check("QUIET-O", &anywhere, Some(("default", "quiet-otter-1234")));
        // A whole name wins over longer ones that begin with it.
        check("quiet", &anywhere, Some(("default", "quiet")));
        check("quiet-", &anywhere, None);
        // A name of digits wins over a number.
        check("7", &anywhere, Some(("default", "7")));
        check("9", &anywhere, Some(("default", "train-2")));
        check("train", &anywhere, None);
        let other = Scope { workspace: None, experiment: Some("other".to_owned()) };
        check("train", &other, Some(("other", "train")));
        check("quiet", &other, None);
    }

    #[test]
    fn an_ambiguous_beginning_lists_the_candidates() {
        let error = resolve("quiet-", &Scope::default(), &jobs()).unwrap_err().to_string();
        assert!(error.contains("quiet-otter-1234") && error.contains("quiet-loom-9999"), "{error}");
    }

    #[test]
    fn arm_ids_are_read_without_case_and_nothing_else_passes() {
        let id = JobRef::new("w", "e", "j");
        assert_eq!(JobRef::parse(&id.arm_id()), Some(id.clone()));
        assert_eq!(JobRef::parse(&id.arm_id().replace("resourceGroups", "resourcegroups")), Some(id.clone()));
        for bad in ["", "/", "/subscriptions/s", &id.experiment_id(), "/a/b/c/d/e/f/g/h/i/j/k/l"] {
            assert_eq!(JobRef::parse(bad), None, "{bad}");
        }
        assert_eq!(JobRef::parse(&id.arm_id().replace("/j", "/..")), None);
        assert!(direct("a b", &Scope::default()).is_err());
        assert!(direct("/x", &Scope::default()).is_err());
    }
}
