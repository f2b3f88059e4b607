//! The one transaction of a batch.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};
use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::recovery::Adoption;
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::id::{GangId, JobId, NodeId};
use trainyard_core::plan::NodePlan;

use super::{failed, open};
use crate::store::{Change, Experiment, StoreError, Workspace, scope_of, secrets};

/// The sequence numbers of the journal entries, and the next job's number.
pub(super) fn commit(
    connection: &mut Connection,
    spec_key: &str,
    changes: &[Change],
    before: JobId,
) -> Result<(Vec<u64>, JobId), StoreError> {
    let transaction = connection.transaction().map_err(failed("begin a transaction"))?;
    let mut next_job = before;
    let mut sequence = Vec::new();
    for change in changes {
        match change {
            Change::Record(record) => {
                let given = apply(&transaction, spec_key, record, &mut sequence)?;
                // A number must not be given again, even if its job was deleted at once.
                next_job = given.map_or(next_job, |id| next_job.max(JobId(id.0 + 1)));
            }
            Change::PutWorkspace(workspace) => put_workspace(&transaction, workspace)?,
            Change::DeleteWorkspace(folded) => {
                execute(
                    &transaction,
                    "delete a workspace",
                    "DELETE FROM workspaces WHERE folded = ?1",
                    [folded],
                )?;
            }
            Change::PutExperiment(experiment) => put_experiment(&transaction, experiment)?,
            Change::DeleteExperiment(folded) => {
                execute(
                    &transaction,
                    "delete an experiment",
                    "DELETE FROM experiments WHERE folded = ?1",
                    [folded],
                )?;
            }
            Change::Adopt(adoption) => {
                adopt(&transaction, adoption)?;
                next_job = next_job.max(adoption.next_job);
            }
            Change::Foreign(foreign) => put_foreign(&transaction, foreign)?,
        }
    }
    if next_job != before {
        open::set_meta(&transaction, "next_job", &next_job.to_string()).map_err(failed("count jobs"))?;
    }
    transaction.commit().map_err(failed("commit"))?;
    Ok((sequence, next_job))
}

/// More than a batch needs as a rule; taken back by the second transaction.
const SPACE_BYTES: usize = 256 * 1024;

pub(super) fn check_space(connection: &mut Connection) -> Result<(), StoreError> {
    let what = "look for space";
    let filler = "x".repeat(SPACE_BYTES);
    open::set_meta(connection, "space", &filler).map_err(failed(what))?;
    execute(connection, what, "DELETE FROM meta WHERE name = 'space'", [])
}

/// Gives the number of the job that is concerned.
fn apply(
    connection: &Connection,
    spec_key: &str,
    record: &Record,
    sequence: &mut Vec<u64>,
) -> Result<Option<JobId>, StoreError> {
    match record {
        Record::PutJob(job) => {
            put_job(connection, spec_key, job)?;
            Ok(Some(job.id))
        }
        Record::PutPlan { gang, nodes } => {
            put_plan(connection, *gang, nodes)?;
            Ok(Some(gang.job))
        }
        Record::DeleteJob(id) => {
            execute(connection, "delete a job", "DELETE FROM jobs WHERE id = ?1", params![id.0])?;
            Ok(Some(*id))
        }
        Record::PutNode { node, epoch, facts } => {
            execute(
                connection,
                "store a node",
                "INSERT INTO nodes (node, epoch, facts) VALUES (?1, ?2, ?3)
                 ON CONFLICT (node) DO UPDATE SET epoch = excluded.epoch, facts = excluded.facts",
                params![node.0, epoch.0, json("store a node", facts)?],
            )?;
            Ok(None)
        }
        Record::PutDrain { node, drain } => {
            let what = "store a node's drain";
            let drain = drain.as_ref().map(|drain| json(what, drain)).transpose()?;
            let sql = "UPDATE nodes SET drain = ?2 WHERE node = ?1";
            execute(connection, what, sql, params![node.0, drain])?;
            Ok(None)
        }
        Record::Journal(entry) => {
            execute(
                connection,
                "append to the journal",
                "INSERT INTO journal (at, kind, job_id, job, node, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    entry.at.0,
                    entry.kind,
                    entry.job_id.map(|id| id.0),
                    entry.job,
                    entry.node.as_ref().map(|node| &node.0),
                    json("append to the journal", &entry.detail)?
                ],
            )?;
            sequence.push(u64::try_from(connection.last_insert_rowid()).unwrap_or(0));
            Ok(None)
        }
    }
}

fn put_job(connection: &Connection, spec_key: &str, job: &Job) -> Result<(), StoreError> {
    let folded = job.key.folded();
    let secrets = secrets::to_document(&job.spec);
    let ended = match &job.phase {
        JobPhase::Ended { at, .. } => Some(at.0),
        JobPhase::Queued { .. } | JobPhase::Active(_) => None,
    };
    let mac = ended.and(secrets.as_deref()).map(|document| secrets::mac(spec_key, document));
    execute(
        connection,
        "store a job",
        "INSERT INTO jobs (id, folded, scope, experiment, state, open, doc, ended, secrets_mac)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, open = excluded.open, doc = excluded.doc,
             ended = excluded.ended, secrets_mac = excluded.secrets_mac",
        params![
            job.id.0,
            folded,
            scope_of(&folded),
            job.key.experiment.as_str().to_ascii_lowercase(),
            job.execution_state(),
            job.is_open(),
            json("store a job", job)?,
            ended,
            mac
        ],
    )?;
    match secrets {
        Some(_) if ended.is_some() => wipe_secrets(connection, job.id),
        Some(document) => execute(
            connection,
            "store a job's secrets",
            "INSERT OR IGNORE INTO job_secrets (job, doc) VALUES (?1, ?2)",
            params![job.id.0, document],
        ),
        None => Ok(()),
    }
}

/// Nobody needs the values any more; `PRAGMA secure_delete` overwrites them in the file.
fn wipe_secrets(connection: &Connection, job: JobId) -> Result<(), StoreError> {
    let what = "wipe a job's secrets";
    execute(connection, what, "DELETE FROM job_secrets WHERE job = ?1", params![job.0])
}

fn adopt(connection: &Connection, adoption: &Adoption) -> Result<(), StoreError> {
    let what = "adopt the database";
    let set = |name, value: &str| open::set_meta(connection, name, value).map_err(failed(what));
    set("generation", &adoption.generation.to_string())?;
    set("lost_jobs", &json(what, &adoption.lost)?)?;
    put_foreign(connection, &adoption.foreign)?;
    execute(connection, what, "DELETE FROM meta WHERE name = 'restored'", [])
}

fn put_foreign(
    connection: &Connection,
    foreign: &BTreeMap<NodeId, BTreeSet<GangId>>,
) -> Result<(), StoreError> {
    let what = "note foreign work";
    // As a list: a node's id is no JSON key.
    let foreign: Vec<_> = foreign.iter().collect();
    open::set_meta(connection, "foreign", &json(what, &foreign)?).map_err(failed(what))
}

fn put_plan(connection: &Connection, gang: GangId, nodes: &[NodePlan]) -> Result<(), StoreError> {
    execute(
        connection,
        "store a plan",
        "INSERT OR REPLACE INTO plans (job, gang, doc) VALUES (?1, ?2, ?3)",
        params![gang.job.0, gang.gang.0, json("store a plan", &nodes)?],
    )
}

fn put_workspace(connection: &Connection, workspace: &Workspace) -> Result<(), StoreError> {
    execute(
        connection,
        "store a workspace",
        "INSERT INTO workspaces (folded, scope, doc) VALUES (?1, ?2, ?3)
         ON CONFLICT (folded) DO UPDATE SET doc = excluded.doc",
        [workspace.folded(), workspace.scope(), json("store a workspace", workspace)?],
    )
}

fn put_experiment(connection: &Connection, experiment: &Experiment) -> Result<(), StoreError> {
    execute(
        connection,
        "store an experiment",
        "INSERT OR IGNORE INTO experiments (folded, scope, doc) VALUES (?1, ?2, ?3)",
        [experiment.folded(), experiment.scope(), json("store an experiment", experiment)?],
    )
}

fn json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::broken(what, error))
}

fn execute(
    connection: &Connection,
    what: &'static str,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed(what))?;
    statement.execute(values).map_err(failed(what))?;
    Ok(())
}
