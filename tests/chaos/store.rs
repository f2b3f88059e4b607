//! The coordinator's database, read while no coordinator runs.

use std::path::Path;

use rusqlite::Connection;

use crate::evidence::Entry;

/// What is in it.
pub(crate) struct Stored {
    /// What `PRAGMA integrity_check` and the foreign keys say; empty: nothing is wrong.
    pub(crate) damage: Vec<String>,
    pub(crate) generation: u64,
    /// Names of jobs with the entries of their journal, in order.
    pub(crate) journal: Vec<(String, Entry)>,
    /// The last entry's number.
    pub(crate) last: u64,
}

/// Reads it, and of the journal what follows an entry.
pub(crate) fn read(folder: &Path, after: u64) -> rusqlite::Result<Stored> {
    let connection = Connection::open(folder.join("trainyard.db"))?;
    let mut damage: Vec<String> = connection
        .prepare("PRAGMA integrity_check")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    damage.retain(|text| text != "ok");
    let orphans = connection.prepare("PRAGMA foreign_key_check")?.query_map([], |_| Ok(()))?.count();
    if orphans > 0 {
        damage.push(format!("{orphans} rows without their parents"));
    }
    let generation: String =
        connection.query_row("SELECT value FROM meta WHERE name = 'generation'", [], |row| row.get(0))?;
    let mut last = after;
    let mut journal = Vec::new();
    let mut entries = connection
        .prepare("SELECT seq, job, job_id, kind, detail FROM journal WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = entries.query([after])?;
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        let (name, job): (Option<String>, Option<u64>) = (row.get(1)?, row.get(2)?);
        if let (Some(name), Some(job)) = (name, job) {
            let detail: String = row.get(4)?;
            let detail = serde_json::from_str(&detail).unwrap_or_default();
            journal.push((name, Entry { kind: row.get(3)?, job, detail }));
        }
    }
    Ok(Stored { damage, generation: generation.parse().unwrap_or(0), journal, last })
}
