//! The room below the node's root folder. No other file system is asked: a dead server would hold us up.

use std::time::Duration;

use super::{Context, Desc, Out, Probe, Source};

const TOTAL: Desc =
    Desc::gauge("host_filesystem_total_bytes", "Size of the file system of the node's root.", &["path"]);
const AVAILABLE: Desc = Desc::gauge(
    "host_filesystem_available_bytes",
    "What is free there for programs without privileges.",
    &["path"],
);

pub(super) const SOURCE: Source = Source { descs: &[&TOTAL, &AVAILABLE], start: || Box::new(FileSystem) };

struct FileSystem;

impl Probe for FileSystem {
    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn sample(&mut self, context: &Context<'_>, out: &mut Out) {
        let Ok(room) = nix::sys::statvfs::statvfs(context.root) else { return };
        let Some(path) = context.root.to_str() else { return };
        out.count(&TOTAL, &[("path", path)], room.blocks().saturating_mul(room.fragment_size()));
        out.count(
            &AVAILABLE,
            &[("path", path)],
            room.blocks_available().saturating_mul(room.fragment_size()),
        );
    }
}
