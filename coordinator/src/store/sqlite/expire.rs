//! Retention: what is beyond the limits goes, a bounded part of it in each transaction.

use rusqlite::{Connection, Transaction, params};
use trainyard_core::id::JobId;

use super::failed;
use crate::store::{EXPIRE_EVENTS, EXPIRE_JOBS, Expired, Limits, StoreError};

pub(super) fn expire(connection: &mut Connection, limits: &Limits) -> Result<Expired, StoreError> {
    let what = "remove what is old";
    let transaction = connection.transaction().map_err(failed(what))?;
    let jobs = jobs(&transaction, limits).map_err(failed(what))?;
    for id in &jobs {
        // Its plans go with it.
        transaction.execute("DELETE FROM jobs WHERE id = ?1", params![id.0]).map_err(failed(what))?;
    }
    let events = match limits.events {
        Some(keep) => events(&transaction, keep).map_err(failed(what))?,
        None => 0,
    };
    transaction.commit().map_err(failed(what))?;
    Ok(Expired { jobs, events })
}

/// Ended jobs that are too old or too many, the oldest first.
fn jobs(transaction: &Transaction<'_>, limits: &Limits) -> Result<Vec<JobId>, rusqlite::Error> {
    let beyond = match limits.jobs {
        Some(keep) => {
            let ended: u64 =
                transaction.query_row("SELECT count(*) FROM jobs WHERE open = 0", [], |row| row.get(0))?;
            ended.saturating_sub(keep).min(u64::from(EXPIRE_JOBS))
        }
        None => 0,
    };
    let sql = "SELECT id, ended FROM jobs WHERE open = 0 ORDER BY ended, id LIMIT ?1";
    let mut statement = transaction.prepare_cached(sql)?;
    let oldest = statement.query_map([EXPIRE_JOBS], |row| Ok((JobId(row.get(0)?), row.get::<_, i64>(1)?)))?;
    let before = limits.ended_before.map(|before| before.0);
    let mut jobs = Vec::new();
    for (i, oldest) in oldest.enumerate() {
        let (id, ended) = oldest?;
        if (i as u64) < beyond || before.is_some_and(|before| ended < before) {
            jobs.push(id);
        }
    }
    Ok(jobs)
}

/// Entries with numbers below the newest `keep`. Numbers are never given again.
fn events(transaction: &Transaction<'_>, keep: u64) -> Result<u64, rusqlite::Error> {
    let sql = "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM journal";
    let (first, last): (u64, u64) = transaction.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let upto = last.saturating_sub(keep).min((first + EXPIRE_EVENTS).saturating_sub(1));
    let removed = transaction.execute("DELETE FROM journal WHERE seq <= ?1", params![upto])?;
    Ok(removed as u64)
}
