//! The spool against a coordinator of two channels: every byte once, in order, over breaks.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use tokio::sync::mpsc;
use trainyard_core::id::{GangId, GangNo, JobId};
use trainyard_proto::v1::{LogAck, LogChunk};

use super::Spool;

const GANG: GangId = GangId { job: JobId(7), gang: GangNo(1) };

/// What a coordinator keeps.
#[derive(Default)]
struct Kept {
    files: BTreeMap<String, Vec<u8>>,
    ended: BTreeMap<String, usize>,
}

impl Kept {
    /// Takes one chunk as the coordinator does, and says how far it has the file.
    fn take(&mut self, chunk: LogChunk) -> LogAck {
        let kept = self.files.entry(chunk.file.clone()).or_default();
        let offset = usize::try_from(chunk.offset).unwrap();
        if offset <= kept.len() && offset + chunk.data.len() > kept.len() {
            kept.extend_from_slice(&chunk.data[kept.len() - offset..]);
        }
        let end = chunk.end && offset + chunk.data.len() == kept.len();
        let durable_offset = kept.len() as u64;
        if end {
            self.ended.insert(chunk.file.clone(), kept.len());
        }
        LogAck { gang: chunk.gang, file: chunk.file, durable_offset, end }
    }
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

async fn receive_until(
    kept: &mut Kept,
    spool: &Spool,
    session: u64,
    chunks: &mut mpsc::Receiver<LogChunk>,
    done: impl Fn(&Kept) -> bool,
) {
    while !done(kept) {
        let chunk = chunks.recv().await.expect("the spool goes on");
        let ack = kept.take(chunk);
        spool.ack(session, ack);
    }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test]
async fn every_byte_arrives_once_over_a_break_and_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("spool");
    let whole = noise(3_000_000, 7);
    let mut kept = Kept::default();

    let spool = Spool::start(folder.clone(), "node-0".into(), 1 << 30).unwrap();
    spool.open(GANG, Vec::new()).unwrap();
    let path = spool.gang_folder(GANG).join("stdout.txt");
    append(&path, &whole[..1_000_000]);
    let (sender, mut chunks) = mpsc::channel(2);
    spool.attach(1, sender);
    receive_until(&mut kept, &spool, 1, &mut chunks, |kept| {
        kept.files.values().any(|file| file.len() >= 500_000)
    })
    .await;
    // The session breaks with chunks under way, which are lost.
    drop(chunks);
    spool.detach(1);
    append(&path, &whole[1_000_000..2_000_000]);
    let (sender, mut chunks) = mpsc::channel(2);
    spool.attach(2, sender);
    receive_until(&mut kept, &spool, 2, &mut chunks, |kept| kept.files["stdout.txt"].len() >= 1_900_000)
        .await;
    spool.close().await.unwrap();
    drop((spool, chunks));

    let spool = Spool::start(folder, "node-0".into(), 1 << 30).unwrap();
    assert_eq!(spool.gangs().unwrap(), [GANG]);
    spool.open(GANG, Vec::new()).unwrap();
    append(&path, &whole[2_000_000..]);
    let (sender, mut chunks) = mpsc::channel(2);
    spool.attach(1, sender);
    let first = chunks.recv().await.unwrap();
    assert!(first.offset > 0, "it goes on at the acknowledged offset");
    spool.ack(1, kept.take(first));
    spool.end(GANG, vec!["stdout.txt".into(), "stderr.txt".into()]);
    receive_until(&mut kept, &spool, 1, &mut chunks, |kept| kept.ended.len() == 2).await;
    assert!(kept.files["stdout.txt"] == whole, "the bytes differ");
    assert_eq!(kept.ended["stderr.txt"], 0, "a file that was never made has an end too");
}

#[tokio::test]
async fn what_is_appended_while_it_runs_is_pushed() {
    let root = tempfile::tempdir().unwrap();
    let spool = Spool::start(root.path().join("spool"), "node-0".into(), 1 << 30).unwrap();
    spool.open(GANG, Vec::new()).unwrap();
    let (sender, mut chunks) = mpsc::channel(2);
    spool.attach(1, sender);
    let mut kept = Kept::default();
    for line in 0..50 {
        append(&spool.gang_folder(GANG).join("a.txt"), format!("line {line}\n").as_bytes());
        let wanted: usize = (0..=line).map(|line: usize| format!("line {line}\n").len()).sum();
        let there = |kept: &Kept| kept.files.get("a.txt").is_some_and(|file| file.len() == wanted);
        receive_until(&mut kept, &spool, 1, &mut chunks, there).await;
    }
}

#[tokio::test]
async fn a_folder_is_removed_when_all_of_it_is_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let spool = Spool::start(root.path().join("spool"), "node-0".into(), 1 << 30).unwrap();
    spool.open(GANG, Vec::new()).unwrap();
    spool.notes(GANG, "execution.log").write("plan: received");
    append(&spool.gang_folder(GANG).join("a.txt"), b"x");
    spool.end_all(GANG);
    spool.release(GANG);
    let (sender, mut chunks) = mpsc::channel(8);
    spool.attach(1, sender);
    let mut kept = Kept::default();
    let mut acks = Vec::new();
    while kept.ended.len() < 2 {
        acks.push(kept.take(chunks.recv().await.unwrap()));
    }
    let line = String::from_utf8(kept.files["execution.log"].clone()).unwrap();
    assert!(
        line.ends_with("Z node-0 plan: received\n") && line.len() == "2026-11-25T02:10:11.123Z".len() + 23,
        "{line:?}"
    );
    assert!(spool.gang_folder(GANG).exists(), "nothing is removed before it is acknowledged");
    acks.into_iter().for_each(|ack| spool.ack(1, ack));
    spool.close().await.unwrap();
    assert!(!spool.gang_folder(GANG).exists());
}

#[tokio::test]
async fn the_mirror_is_complete_and_follows_what_an_earlier_gang_left() {
    let root = tempfile::tempdir().unwrap();
    let std_dir = root.path().join("stdouterr");
    std::fs::create_dir(&std_dir).unwrap();
    std::fs::write(std_dir.join("a.txt"), "first gang\n").unwrap();
    let folder = root.path().join("spool");
    for (part, whole) in [("one\n", "first gang\none\n"), ("two\n", "first gang\none\ntwo\n")] {
        let spool = Spool::start(folder.clone(), "node-0".into(), 1 << 30).unwrap();
        spool.open(GANG, Vec::new()).unwrap();
        spool.mirror(GANG, std_dir.clone(), spool.notes(GANG, "execution.log"));
        append(&spool.gang_folder(GANG).join("a.txt"), part.as_bytes());
        spool.caught_up(GANG).await.unwrap();
        assert_eq!(std::fs::read_to_string(std_dir.join("a.txt")).unwrap(), whole);
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_mirror_follows_no_link_and_waits_for_no_fifo() {
    let root = tempfile::tempdir().unwrap();
    let std_dir = root.path().join("stdouterr");
    std::fs::create_dir(&std_dir).unwrap();
    let canary = root.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    std::os::unix::fs::symlink(&canary, std_dir.join("a.txt")).unwrap();
    nix::unistd::mkfifo(&std_dir.join("b.txt"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let spool = Spool::start(root.path().join("spool"), "node-0".into(), 1 << 30).unwrap();
    spool.open(GANG, Vec::new()).unwrap();
    append(&spool.gang_folder(GANG).join("a.txt"), b"evil");
    append(&spool.gang_folder(GANG).join("b.txt"), b"evil");
    spool.mirror(GANG, std_dir, spool.notes(GANG, "execution.log"));
    spool.caught_up(GANG).await.unwrap();
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
    let noted = std::fs::read_to_string(spool.gang_folder(GANG).join("execution.log")).unwrap();
    assert_eq!(noted.lines().count(), 2, "{noted}");
}

#[test]
fn the_tail_of_a_file_is_whole_lines() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("stderr.txt");
    assert_eq!(super::tail_of(&path, 10), "");
    std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
    assert_eq!(super::tail_of(&path, 100), "one\ntwo\nthree\n");
    assert_eq!(super::tail_of(&path, 8), "three\n");
    std::fs::write(&path, [0xff; 20]).unwrap();
    assert!(super::tail_of(&path, 8).len() <= 8);
}

/// Bytes and gaps of each file in turn, as the coordinator would store them.
async fn whole_stream(
    spool: &Spool,
    session: u64,
    chunks: &mut mpsc::Receiver<LogChunk>,
    file: &str,
) -> (Vec<u8>, Vec<(u64, u64)>) {
    let (mut bytes, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let chunk = chunks.recv().await.expect("the spool goes on");
        let (offset, length) = (chunk.offset, chunk.data.len() as u64 + chunk.gap);
        if chunk.file == file {
            assert_eq!(offset, bytes.len() as u64, "each piece begins where the last one ended");
            assert!(chunk.gap == 0 || chunk.data.is_empty());
            bytes.extend_from_slice(&chunk.data);
            bytes.resize(bytes.len() + usize::try_from(chunk.gap).unwrap(), 0);
            if chunk.gap > 0 {
                gaps.push((offset, offset + chunk.gap));
            }
        }
        let ack = LogAck {
            gang: chunk.gang,
            file: chunk.file.clone(),
            durable_offset: offset + length,
            end: chunk.end,
        };
        spool.ack(session, ack);
        if chunk.end && chunk.file == file {
            return (bytes, gaps);
        }
    }
}

/// What of these bytes is not in a gap is as it was written, and the length is that of all.
fn assert_exact(whole: &[u8], stored: &[u8], gaps: &[(u64, u64)]) {
    assert_eq!(stored.len(), whole.len(), "produced = stored + gaps");
    let lost = |at: usize| gaps.iter().any(|(from, to)| (*from..*to).contains(&(at as u64)));
    let wrong = (0..whole.len()).find(|at| stored[*at] != whole[*at] && !lost(*at));
    assert_eq!(wrong, None, "a byte outside of the gaps {gaps:?} differs");
}

fn can_punch(folder: &Path) -> bool {
    match super::hole::probe(folder) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("SKIPPED: this file system has no holes: {error}");
            false
        }
    }
}

#[tokio::test]
async fn fault_26_what_is_over_the_quota_is_an_exact_gap_and_the_rest_is_whole() {
    use std::os::unix::fs::MetadataExt;
    const QUOTA: u64 = 2 << 20;
    let root = tempfile::tempdir().unwrap();
    if !can_punch(root.path()) {
        return;
    }
    let folder = root.path().join("spool");
    let whole = noise(9_000_001, 3);
    let spool = Spool::start(folder.clone(), "node-0".into(), QUOTA).unwrap();
    spool.open(GANG, vec![vec!["stdout.txt".into(), "stderr.txt".into()]]).unwrap();
    let path = spool.gang_folder(GANG).join("stdout.txt");
    // No coordinator is there; between the blocks the thread does its turns.
    let on_disk = || std::fs::metadata(&path).unwrap().blocks() * 512;
    for block in whole.chunks(700_000) {
        append(&path, block);
        while spool.usage().held_bytes > QUOTA
            || spool.usage().held_bytes + spool.usage().dropped_bytes
                < std::fs::metadata(&path).unwrap().len()
        {
            tokio::task::yield_now().await;
        }
    }
    assert!(on_disk() <= QUOTA + 2 * 1024 * 1024, "{} bytes are on the disk", on_disk());
    let dropped = spool.usage().dropped_bytes;
    spool.close().await.unwrap();
    drop(spool);
    // The next agent knows it, and says it.
    let spool = Spool::start(folder, "node-0".into(), QUOTA).unwrap();
    spool.open(GANG, vec![vec!["stdout.txt".into(), "stderr.txt".into()]]).unwrap();
    spool.end(GANG, vec!["stdout.txt".into()]);
    let (sender, mut chunks) = mpsc::channel(4);
    spool.attach(1, sender);
    let (stored, gaps) = whole_stream(&spool, 1, &mut chunks, "stdout.txt").await;
    assert_exact(&whole, &stored, &gaps);
    let lost: u64 = gaps.iter().map(|(from, to)| to - from).sum();
    assert_eq!(lost, dropped, "every dropped byte is in a gap, and no other");
    assert!(lost > 5_000_000, "{lost}");
}

#[tokio::test]
async fn fault_26_what_is_stored_and_mirrored_takes_no_space_on_the_node() {
    use std::os::unix::fs::MetadataExt;
    const QUOTA: u64 = 2 << 20;
    let root = tempfile::tempdir().unwrap();
    if !can_punch(root.path()) {
        return;
    }
    let std_dir = root.path().join("stdouterr");
    std::fs::create_dir(&std_dir).unwrap();
    let spool = Spool::start(root.path().join("spool"), "node-0".into(), QUOTA).unwrap();
    spool.open(GANG, vec![vec!["stdout.txt".into(), "stderr.txt".into()]]).unwrap();
    spool.mirror(GANG, std_dir.clone(), spool.notes(GANG, "execution.log"));
    let (sender, mut chunks) = mpsc::channel(4);
    spool.attach(1, sender);
    let path = spool.gang_folder(GANG).join("stdout.txt");
    let whole = noise(12_000_000, 5);
    let mut kept = Kept::default();
    for (n, block) in whole.chunks(1_000_000).enumerate() {
        append(&path, block);
        let wanted = (n + 1) * 1_000_000;
        receive_until(&mut kept, &spool, 1, &mut chunks, |kept| {
            kept.files.get("stdout.txt").is_some_and(|file| file.len() == wanted)
        })
        .await;
        spool.caught_up(GANG).await.unwrap();
    }
    assert!(kept.files["stdout.txt"] == whole && spool.usage().dropped_bytes == 0, "nothing is lost");
    assert!(std::fs::read(std_dir.join("stdout.txt")).unwrap() == whole, "the mirror is whole");
    while spool.usage().held_bytes > QUOTA {
        tokio::task::yield_now().await;
    }
    let on_disk = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(on_disk <= QUOTA + 2 * 1024 * 1024, "{on_disk} bytes are on the disk");
}

#[tokio::test]
async fn the_mirror_keeps_every_offset_where_the_spool_has_dropped_bytes() {
    const QUOTA: u64 = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    if !can_punch(root.path()) {
        return;
    }
    let std_dir = root.path().join("stdouterr");
    std::fs::create_dir(&std_dir).unwrap();
    let spool = Spool::start(root.path().join("spool"), "node-0".into(), QUOTA).unwrap();
    spool.open(GANG, vec![vec!["stdout.txt".into()]]).unwrap();
    let whole = noise(4_000_000, 9);
    append(&spool.gang_folder(GANG).join("stdout.txt"), &whole);
    while spool.usage().dropped_bytes == 0 {
        tokio::task::yield_now().await;
    }
    let dropped = usize::try_from(spool.usage().dropped_bytes).unwrap();
    spool.mirror(GANG, std_dir.clone(), spool.notes(GANG, "execution.log"));
    spool.caught_up(GANG).await.unwrap();
    let mirrored = std::fs::read(std_dir.join("stdout.txt")).unwrap();
    assert_eq!(mirrored.len(), whole.len());
    assert!(mirrored[..dropped].iter().all(|byte| *byte == 0), "what is gone is a hole");
    assert!(mirrored[dropped..] == whole[dropped..], "what is there stands where it was written");
}

#[tokio::test]
async fn fault_27_a_job_that_renames_removes_or_cuts_its_log_file_loses_nothing_that_is_there() {
    let root = tempfile::tempdir().unwrap();
    let spool = Spool::start(root.path().join("spool"), "node-0".into(), 1 << 30).unwrap();
    spool.open(GANG, Vec::new()).unwrap();
    let path = spool.gang_folder(GANG).join("stdout.txt");
    let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    writer.write_all(b"before\n").unwrap();
    let (sender, mut chunks) = mpsc::channel(4);
    spool.attach(1, sender);
    let mut kept = Kept::default();
    let has = |wanted: usize| {
        move |kept: &Kept| kept.files.get("stdout.txt").is_some_and(|file| file.len() == wanted)
    };
    receive_until(&mut kept, &spool, 1, &mut chunks, has(7)).await;
    // What was opened is followed, whatever its name is now.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "an impostor\n").unwrap();
    writer.write_all(b"behind\n").unwrap();
    spool.end(GANG, vec!["stdout.txt".into()]);
    receive_until(&mut kept, &spool, 1, &mut chunks, |kept| kept.ended.contains_key("stdout.txt")).await;
    assert_eq!(String::from_utf8_lossy(&kept.files["stdout.txt"]), "before\nbehind\n");
}

/// A small ext4 of its own, mounted; it goes with the value.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`: this needs root, `mkfs.ext4` and a loop device.
    fn new(mib: u64) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        let disk = SmallDisk { folder };
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let done = std::process::Command::new(program).args(arguments).output();
            done.is_ok_and(|done| done.status.success())
        };
        let ready = run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), disk.path().as_os_str()]);
        if !ready {
            eprintln!("SKIPPED: no loop device can be mounted here (root and mkfs.ext4 are needed)");
        }
        ready.then_some(disk)
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}

#[tokio::test]
async fn fault_24_a_task_that_outgrows_the_disk_goes_on_and_the_gaps_are_exact() {
    let Some(disk) = SmallDisk::new(32) else { return };
    let spool = Spool::start(disk.path().join("spool"), "node-0".into(), 1 << 30).unwrap();
    if !can_punch(&disk.path()) {
        return;
    }
    spool.open(GANG, vec![vec!["stdout.txt".into()]]).unwrap();
    let path = spool.gang_folder(GANG).join("stdout.txt");
    let whole = noise(80 << 20, 11);
    let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let mut written = 0;
    for block in whole.chunks(1 << 20) {
        writer.write_all(block).expect("no write of the task fails");
        written += block.len() as u64;
        // Nobody stores anything: what is not held was dropped.
        while spool.usage().held_bytes + spool.usage().dropped_bytes < written {
            tokio::task::yield_now().await;
        }
    }
    let dropped = spool.usage().dropped_bytes;
    assert!(dropped > 40 << 20, "{dropped}");
    spool.end(GANG, vec!["stdout.txt".into()]);
    let (sender, mut chunks) = mpsc::channel(4);
    spool.attach(1, sender);
    let (stored, gaps) = whole_stream(&spool, 1, &mut chunks, "stdout.txt").await;
    assert_exact(&whole, &stored, &gaps);
    let lost: u64 = gaps.iter().map(|(from, to)| to - from).sum();
    assert_eq!(lost, dropped, "every dropped byte is in a gap, and no other");
    spool.close().await.unwrap();
}
