//! `trainyard job`: everything about jobs; one file per verb below.

mod env;
mod list;
mod logs;
mod plan;
mod schema;
mod show;
mod submit;
mod validate;
mod verbs;
mod wait;

pub(crate) use show::job_table;

use clap::{Args, Subcommand};

use super::Connection;
use crate::client::Client;
use crate::jobref::{JobRef, Scope};
use crate::output::Format;

/// Submit, watch and end jobs.
#[derive(Debug, Args)]
pub(crate) struct Job {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Submit(submit::Submit),
    Validate(validate::Validate),
    List(list::List),
    Show(show::Show),
    Explain(verbs::Explain),
    Logs(logs::Logs),
    Wait(wait::Wait),
    Cancel(verbs::Cancel),
    Delete(verbs::Delete),
    Plan(plan::Plan),
    Env(env::Env),
    Schema(schema::Schema),
}

/// Where jobs are looked for.
#[derive(Clone, Debug, Args)]
struct ScopeFlags {
    /// The workspace; `default` unless given.
    #[arg(short, long, value_name = "NAME")]
    workspace: Option<String>,
    /// The experiment; `default` unless given.
    #[arg(short, long, value_name = "NAME")]
    experiment: Option<String>,
}

impl ScopeFlags {
    fn scope(&self) -> Scope {
        Scope { workspace: self.workspace.clone(), experiment: self.experiment.clone() }
    }
}

/// One job, as the user names it.
#[derive(Clone, Debug, Args)]
struct OneJob {
    /// The job: its name, the unique beginning of its name, its number or its ARM id.
    job: String,
    #[command(flatten)]
    scope: ScopeFlags,
    #[command(flatten)]
    connection: Connection,
}

impl OneJob {
    async fn find(&self) -> anyhow::Result<(Client, JobRef)> {
        let client = self.connection.client()?;
        let job = client.find(&self.job, &self.scope.scope()).await?;
        Ok((client, job))
    }
}

impl Job {
    /// Whether the exit code is the job's.
    pub(crate) fn ends_with_the_jobs_code(&self) -> bool {
        matches!(self.verb, Verb::Wait(_))
    }

    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        let online = async {
            match self.verb {
                // Without a coordinator.
                Verb::Validate(verb) => verb.run(format),
                Verb::Schema(verb) => verb.run(format),
                Verb::Submit(verb) => verb.run(format).await,
                Verb::List(verb) => verb.run(format).await,
                Verb::Show(verb) => verb.run(format).await,
                Verb::Explain(verb) => verb.run(format).await,
                Verb::Logs(verb) => verb.run(format).await,
                Verb::Wait(verb) => verb.run(format).await,
                Verb::Cancel(verb) => verb.run(format).await,
                Verb::Delete(verb) => verb.run(format).await,
                Verb::Plan(verb) => verb.run(format).await,
                Verb::Env(verb) => verb.run(format).await,
            }
        };
        super::client_runtime()?.block_on(online)
    }
}
