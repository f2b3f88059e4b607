//! Append, resume, gaps, ends, reopening, removal.

use proptest::prelude::*;
use trainyard_core::id::{GangId, GangNo, JobId};

use super::*;

const GANG: GangId = GangId { job: JobId(7), gang: GangNo(1) };

fn name(text: &str) -> FileName {
    FileName::parse(text).unwrap()
}

fn chunk(offset: u64, data: &str) -> Chunk {
    Chunk { file: name("stdout.txt"), offset, data: data.to_owned().into(), gap: 0, end: false }
}

fn ack(durable: u64, end: bool) -> Vec<Ack> {
    vec![Ack { file: name("stdout.txt"), durable, end }]
}

fn text(gang: &GangLogs) -> String {
    String::from_utf8(gang.read(&name("stdout.txt"), 0, 1000).unwrap().to_vec()).unwrap()
}

#[test]
fn acknowledged_bytes_are_neither_doubled_nor_lost_nor_reordered() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    let gang = store.gang(GANG).unwrap();
    assert_eq!(gang.append(&[chunk(0, "hello")]).unwrap(), ack(5, false));
    assert_eq!(gang.append(&[chunk(0, "hello")]).unwrap(), ack(5, false), "a repeated chunk is ignored");
    assert_eq!(gang.append(&[chunk(9, "late")]).unwrap(), ack(5, false), "a chunk before it is missing");
    assert_eq!(gang.append(&[chunk(3, "lo, wor"), chunk(10, "ld")]).unwrap(), ack(12, false), "overlap");
    assert_eq!(text(&gang), "hello, world");
    let end = Chunk { end: true, ..chunk(12, "!") };
    assert_eq!(gang.append(std::slice::from_ref(&end)).unwrap(), ack(13, true));
    assert_eq!(gang.append(&[chunk(13, "more")]).unwrap(), ack(13, true), "nothing comes after the end");
    assert_eq!(text(&gang), "hello, world!");
}

#[test]
fn everything_is_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let before = {
        let store = LogStore::open(folder.path()).unwrap();
        let gang = store.gang(GANG).unwrap();
        let gap = Chunk { gap: 100, ..chunk(2, "") };
        gang.append(&[chunk(0, "ab"), gap]).unwrap();
        gang.append(&[Chunk { end: true, ..chunk(102, "cd") }]).unwrap();
        let empty = Chunk { file: name("stderr.txt"), end: true, ..chunk(0, "") };
        assert!(gang.append(&[empty]).unwrap()[0].end);
        gang.files()
    };
    let store = LogStore::open(folder.path()).unwrap();
    let gang = store.gang(GANG).unwrap();
    let stdout = gang.file(&name("stdout.txt")).unwrap();
    assert_eq!((stdout.size, stdout.end, stdout.gaps), (104, true, vec![(2, 102)]));
    assert_eq!(gang.files().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(&gang.read(&name("stdout.txt"), 102, 10).unwrap()[..], b"cd");
    assert!(gang.file(&name("stderr.txt")).unwrap().end);
}

#[test]
fn a_torn_index_line_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    store.gang(GANG).unwrap().append(&[chunk(0, "x")]).unwrap();
    std::fs::write(folder.path().join("7.1/.index"), "\n{\"end\":\"stdo").unwrap();
    let gang = store.gang(GANG).unwrap();
    assert!(!gang.file(&name("stdout.txt")).unwrap().end);
    gang.append(&[Chunk { end: true, ..chunk(1, "") }]).unwrap();
    drop(gang);
    assert!(store.gang(GANG).unwrap().file(&name("stdout.txt")).unwrap().end);
}

#[test]
fn followers_see_changes_and_removal() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    let gang = store.gang(GANG).unwrap();
    let mut changes = gang.changes();
    gang.append(&[chunk(0, "x")]).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    store.forget(&[GANG.job]);
    assert!(changes.has_changed().unwrap());
    assert!(gang.is_forgotten());
    assert_eq!(gang.append(&[chunk(5, "late")]).unwrap(), ack(9, false), "taken and dropped");
    assert!(gang.files().is_empty());
}

#[test]
fn the_sweep_removes_only_what_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    for job in [7, 8] {
        store.gang(GangId { job: JobId(job), ..GANG }).unwrap().append(&[chunk(0, "x")]).unwrap();
    }
    let mut seen = Vec::new();
    store
        .sweep(|job| {
            seen.push(job);
            true
        })
        .unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [JobId(7), JobId(8)]);
    assert!(folder.path().join("7.1/stdout.txt").exists());
}

#[test]
fn names_are_checked() {
    for good in ["stdout.txt", "stdout-wk-0.txt", "execution-node 1.log", "ä"] {
        assert!(FileName::parse(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", ".index", "a/b", "a\\b", "a\nb", "a\0", &"x".repeat(256)] {
        assert!(FileName::parse(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    /// However chunks are cut, repeated and mixed: what is stored is a prefix of what was written.
    #[test]
    fn what_is_stored_is_a_prefix(pieces in proptest::collection::vec((0_usize..60, 0_usize..20), 1..30)) {
        let written: String = ('a'..='z').cycle().take(80).collect();
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::open(folder.path()).unwrap();
        let gang = store.gang(GANG).unwrap();
        let mut durable = 0;
        for (from, length) in pieces {
            let acks = gang.append(&[chunk(from as u64, &written[from..from + length])]).unwrap();
            prop_assert!(acks[0].durable >= durable);
            durable = acks[0].durable;
        }
        let stored = text(&gang);
        prop_assert_eq!(stored.len() as u64, durable);
        prop_assert!(written.starts_with(&stored));
    }
}
