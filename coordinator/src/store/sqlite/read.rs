//! Reads: of the writer at its start, and of everybody else over a few read-only connections.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::id::{Epoch, GangId, JobId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::session::NodeFacts;
use trainyard_core::spec::JobSpec;
use trainyard_core::unit::WallMs;

use super::failed;
use crate::store::{Entry, Experiment, JobsQuery, Numbers, Read, StoreError, Workspace, secrets};

/// Open jobs with their secrets, the plans of their live gangs, all nodes, and what a recovery has left.
pub(super) fn stored(connection: &Connection, next_job: JobId) -> Result<Stored, StoreError> {
    let what = "load open jobs";
    let sql = "SELECT jobs.doc, job_secrets.doc FROM jobs LEFT JOIN job_secrets ON job_secrets.job = jobs.id
               WHERE open = 1 ORDER BY id";
    let rows = rows(connection, what, sql, [], |row| Ok((text(row, 0)?, row.get::<_, Option<String>>(1)?)))?;
    let mut jobs = Vec::with_capacity(rows.len());
    for (document, secret) in rows {
        jobs.push(with_secrets(what, &document, secret.as_deref())?);
    }
    let mut plans = Vec::new();
    for job in &jobs {
        if let JobPhase::Active(gang) = &job.phase {
            plans.extend(plan(connection, gang.id)?.map(|nodes| (gang.id, nodes)));
        }
    }
    let what = "load nodes";
    let documents = self::rows(connection, what, "SELECT node, epoch, facts, drain FROM nodes", [], |row| {
        let drain = row.get::<_, Option<String>>(3)?;
        Ok((NodeId(text(row, 0)?), Epoch(row.get(1)?), text(row, 2)?, drain))
    })?;
    let mut nodes: Vec<(NodeId, Epoch, NodeFacts)> = Vec::with_capacity(documents.len());
    let mut drains = Vec::new();
    for (node, epoch, facts, drain) in documents {
        if let Some(drain) = drain {
            drains.push((node.clone(), json(what, &drain)?));
        }
        nodes.push((node, epoch, json(what, &facts)?));
    }
    let Numbers { lost, restored, .. } = numbers(connection)?;
    let what = "load foreign work";
    let foreign = meta(connection, what, "foreign")?;
    let foreign: Vec<(NodeId, BTreeSet<GangId>)> =
        foreign.map(|text| json(what, &text)).transpose()?.unwrap_or_default();
    Ok(Stored {
        jobs,
        plans,
        nodes,
        drains,
        next_job,
        restored,
        lost,
        foreign: foreign.into_iter().collect(),
    })
}

fn numbers(connection: &Connection) -> Result<Numbers, StoreError> {
    let what = "read the numbers of jobs";
    let next_job =
        meta(connection, what, "next_job")?.and_then(|text| text.parse().ok()).map_or(JobId(1), JobId);
    let lost = meta(connection, what, "lost_jobs")?.map(|text| json(what, &text)).transpose()?;
    let restored = meta(connection, what, "restored")?.is_some();
    Ok(Numbers { next_job, lost: lost.unwrap_or_default(), restored })
}

fn meta(connection: &Connection, what: &'static str, name: &str) -> Result<Option<String>, StoreError> {
    one(connection, what, "SELECT value FROM meta WHERE name = ?1", [name], |row| text(row, 0))
}

/// The finished job of this name. The offered spec is compared in its public form, and by the hash of its secrets.
pub(super) fn finished(
    connection: &Connection,
    spec_key: &str,
    folded: &str,
    offered: Option<&JobSpec>,
) -> Result<Option<FinishedJob>, StoreError> {
    let what = "look up a finished job";
    let sql = "SELECT id, doc, secrets_mac FROM jobs WHERE folded = ?1 AND open = 0";
    let found = one(connection, what, sql, [folded], |row| {
        Ok((JobId(row.get(0)?), text(row, 1)?, row.get::<_, Option<String>>(2)?))
    })?;
    let Some((id, document, mac)) = found else { return Ok(None) };
    let Some(offered) = offered else { return Ok(Some(FinishedJob { id, same_spec: false })) };
    let job: Job = json(what, &document)?;
    let form = |spec: &JobSpec| serde_json::to_value(spec).map_err(|error| StoreError::broken(what, error));
    let offered_mac = secrets::to_document(offered).map(|document| secrets::mac(spec_key, &document));
    let same_spec = offered_mac == mac && form(offered)? == form(&job.spec)?;
    Ok(Some(FinishedJob { id, same_spec }))
}

fn with_secrets(what: &'static str, document: &str, secret: Option<&str>) -> Result<Job, StoreError> {
    let mut job: Job = json(what, document)?;
    if let Some(secret) = secret {
        secrets::restore(&mut job.spec, secret)?;
    }
    Ok(job)
}

fn plan(connection: &Connection, gang: GangId) -> Result<Option<Vec<NodePlan>>, StoreError> {
    let sql = "SELECT doc FROM plans WHERE job = ?1 AND gang = ?2";
    let what = "read a plan";
    one(connection, what, sql, params![gang.job.0, gang.gang.0], |row| text(row, 0))?
        .map(|document| json(what, &document))
        .transpose()
}

/// Read-only connections, made when they are needed and kept.
pub(super) struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Reader {
        Reader { path, idle: Mutex::new(Vec::new()) }
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().map_err(failed("open a reading connection"))?,
        };
        let result = read(&connection);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    }
}

impl Read for Reader {
    fn job(&self, folded: &str) -> Result<Option<Job>, StoreError> {
        let what = "read a job";
        self.with(|c| one(c, what, "SELECT doc FROM jobs WHERE folded = ?1", [folded], |row| text(row, 0)))?
            .map(|document| json(what, &document))
            .transpose()
    }

    fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let what = "read a job";
        self.with(|c| one(c, what, "SELECT doc FROM jobs WHERE id = ?1", params![id.0], |row| text(row, 0)))?
            .map(|document| json(what, &document))
            .transpose()
    }

    fn jobs(&self, query: &JobsQuery) -> Result<Vec<Job>, StoreError> {
        let (order, beyond) = match (query.newest_first, query.beyond) {
            (true, beyond) => ("id < ?4 ORDER BY id DESC", beyond.map_or(i64::MAX as u64, |id| id.0)),
            (false, beyond) => ("id > ?4 ORDER BY id", beyond.map_or(0, |id| id.0)),
        };
        // A condition that is not asked for is left out, so that the index of the others serves.
        let scope = if query.scope.is_some() { "scope = ?1" } else { "?1 IS NULL" };
        let experiment = if query.experiment.is_some() { "experiment = ?2" } else { "?2 IS NULL" };
        let state = if query.states.is_empty() {
            "?3 IS NOT NULL"
        } else {
            "state IN (SELECT value FROM json_each(?3))"
        };
        let states = serde_json::json!(query.states).to_string();
        let sql =
            format!("SELECT doc FROM jobs WHERE {scope} AND {experiment} AND {state} AND {order} LIMIT ?5");
        let what = "list jobs";
        let values = params![query.scope, query.experiment, states, beyond, query.limit];
        let documents = self.with(|c| rows(c, what, &sql, values, |row| text(row, 0)))?;
        documents.iter().map(|document| json(what, document)).collect()
    }

    fn plan(&self, gang: GangId) -> Result<Option<Vec<NodePlan>>, StoreError> {
        self.with(|c| plan(c, gang))
    }

    fn journal(&self, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let what = "read the journal";
        let sql = "SELECT seq, at, kind, job_id, job, node, detail FROM journal WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        // Beyond what SQLite can count there is nothing.
        let after = after.min(i64::MAX as u64);
        let entries = self.with(|c| {
            rows(c, what, sql, params![after, limit], |row| {
                let entry = Entry {
                    seq: row.get(0)?,
                    at: WallMs(row.get(1)?),
                    kind: row.get(2)?,
                    job_id: row.get::<_, Option<u64>>(3)?.map(JobId),
                    job: row.get(4)?,
                    node: row.get::<_, Option<String>>(5)?.map(NodeId),
                    detail: serde_json::Value::Null,
                };
                Ok((entry, text(row, 6)?))
            })
        })?;
        entries
            .into_iter()
            .map(|(entry, detail)| Ok(Entry { detail: json(what, &detail)?, ..entry }))
            .collect()
    }

    fn workspace(&self, folded: &str) -> Result<Option<Workspace>, StoreError> {
        let what = "read a workspace";
        self.with(|c| {
            one(c, what, "SELECT doc FROM workspaces WHERE folded = ?1", [folded], |row| text(row, 0))
        })?
        .map(|document| json(what, &document))
        .transpose()
    }

    fn workspaces(&self, scope: &str, after: &str, limit: u32) -> Result<Vec<Workspace>, StoreError> {
        let what = "list workspaces";
        // `0` follows `/` in ASCII: everything below the scope, by the primary key.
        let sql = "SELECT doc FROM workspaces WHERE folded > ?1 || '/' AND folded < ?1 || '0' AND folded > ?2
                   ORDER BY folded LIMIT ?3";
        let documents =
            self.with(|c| rows(c, what, sql, params![scope, after, limit], |row| text(row, 0)))?;
        documents.iter().map(|document| json(what, document)).collect()
    }

    fn experiment(&self, folded: &str) -> Result<Option<Experiment>, StoreError> {
        let what = "read an experiment";
        self.with(|c| {
            one(c, what, "SELECT doc FROM experiments WHERE folded = ?1", [folded], |row| text(row, 0))
        })?
        .map(|document| json(what, &document))
        .transpose()
    }

    fn experiments(&self, scope: &str, after: &str, limit: u32) -> Result<Vec<Experiment>, StoreError> {
        let what = "list experiments";
        let sql = "SELECT doc FROM experiments WHERE scope = ?1 AND folded > ?2 ORDER BY folded LIMIT ?3";
        let documents =
            self.with(|c| rows(c, what, sql, params![scope, after, limit], |row| text(row, 0)))?;
        documents.iter().map(|document| json(what, document)).collect()
    }

    fn numbers(&self) -> Result<Numbers, StoreError> {
        self.with(numbers)
    }

    fn link_key(&self) -> Result<String, StoreError> {
        let what = "read the link key";
        let key = self.with(|c| meta(c, what, "link_key"))?;
        key.ok_or_else(|| StoreError::broken(what, "it is not there"))
    }
}

fn text(row: &Row<'_>, column: usize) -> Result<String, rusqlite::Error> {
    row.get(column)
}

fn one<T>(
    connection: &Connection,
    what: &'static str,
    sql: &str,
    values: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, rusqlite::Error>,
) -> Result<Option<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed(what))?;
    statement.query_row(values, read).optional().map_err(failed(what))
}

fn rows<T>(
    connection: &Connection,
    what: &'static str,
    sql: &str,
    values: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> Result<T, rusqlite::Error>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed(what))?;
    let rows = statement.query_map(values, read).map_err(failed(what))?;
    rows.collect::<Result<Vec<T>, _>>().map_err(failed(what))
}

fn json<T: serde::de::DeserializeOwned>(what: &'static str, document: &str) -> Result<T, StoreError> {
    serde_json::from_str(document).map_err(|error| StoreError::broken(what, error))
}
