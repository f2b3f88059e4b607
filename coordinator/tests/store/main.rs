//! The stores: what both promise, and what only SQLite has: damage, versions, backups.

mod backup;
mod damage;
mod jobs;
mod promises;
mod schemas;
