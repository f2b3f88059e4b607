//! The coordinator's database under kills, full disks, disks that fail, and damage: what was acknowledged stays.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trainyard_tests::{Fleet, Rest, Sandbox, custom, is_root, signal, skipped, until, with};

fn body(sandbox: &Sandbox) -> Value {
    let cluster = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/\
                   Microsoft.BatchAI/workspaces/default/clusters/default";
    let extra = json!({ "stdOutErrPathPrefix": sandbox.path("out"), "cluster": { "id": cluster } });
    json!({ "properties": with(custom("true"), &extra) })
}

fn submit(rest: &Rest, sandbox: &Sandbox, name: &str) -> Option<u16> {
    rest.put(&Rest::job_path(name), &body(sandbox))
}

/// Numbers of all jobs, by name; a name that is listed twice is a failure.
fn numbers(rest: &Rest) -> BTreeMap<String, u64> {
    let jobs = rest.get("/api/v1/jobs?limit=10000");
    let mut numbers = BTreeMap::new();
    for job in jobs["value"].as_array().expect("a list") {
        let name = job["name"].as_str().expect("a name").to_owned();
        let number = job["jobId"].as_u64().expect("a number");
        assert_eq!(numbers.insert(name.clone(), number), None, "two jobs named {name}");
    }
    numbers
}

#[test]
fn fault_01_kills_at_any_point_of_a_submit_lose_and_double_nothing() {
    const ROUNDS: u64 = 12;
    const NAMES: u64 = 25;
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    let (mut acknowledged, mut cut_off) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let rest = fleet.rest();
        let begun = AtomicU64::new(0);
        let name = |n: u64| format!("j-{round}-{n}");
        let answers: Vec<Option<u16>> = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let submit = |n| {
                    begun.store(n, Ordering::SeqCst);
                    submit(&rest, &sandbox, &name(n))
                };
                (1..=NAMES).map(submit).collect()
            });
            // Somewhere within a request: each round at another one.
            let goal = 2 + round * 7 % (NAMES - 4);
            while begun.load(Ordering::SeqCst) < goal {
                std::hint::spin_loop();
            }
            (0..round * 20_000).for_each(|_| std::hint::spin_loop());
            fleet.kill_coordinator();
            client.join().expect("the client ends")
        });
        fleet.start_coordinator();
        let rest = fleet.rest();
        rest.until_healthy();
        let before = numbers(&rest);
        for (n, answer) in (1..).zip(answers) {
            match answer {
                Some(202) => acknowledged.push(name(n)),
                None => cut_off += 1,
                other => panic!("{}: {other:?}", name(n)),
            }
            if answer.is_some() {
                assert!(before.contains_key(&name(n)), "{} was acknowledged and is lost", name(n));
            }
        }
        // Whoever does not know asks again: the same job, or the first of that name.
        for n in 1..=NAMES {
            let known = before.contains_key(&name(n));
            assert_eq!(submit(&rest, &sandbox, &name(n)), Some(if known { 200 } else { 202 }), "{}", name(n));
        }
        let after = numbers(&rest);
        assert!(before.iter().all(|(name, number)| after[name] == *number), "a job has another number");
    }
    assert_eq!(numbers(&fleet.rest()).len() as u64, ROUNDS * NAMES);
    assert!(acknowledged.len() as u64 >= ROUNDS && cut_off >= ROUNDS, "{} {cut_off}", acknowledged.len());
}

#[test]
fn fault_16_a_second_coordinator_on_one_database_ends_and_the_first_goes_on() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    let before = fleet.rest().get("/api/v1/version")["generation"].clone();
    let mut arguments = fleet.coordinator_arguments();
    arguments.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
    arguments.drain(1..3);
    let second = sandbox.command(&arguments).env("TRAINYARD_TOKEN", "another-token-for-this").output();
    let second = second.expect("trainyard can be started");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another coordinator runs on"), "{said}");
    assert_eq!(submit(&fleet.rest(), &sandbox, "j"), Some(202));
    fleet.kill_coordinator();
    fleet.start_coordinator();
    fleet.rest().until_healthy();
    let after = fleet.rest().get("/api/v1/version")["generation"].clone();
    assert_eq!(after.as_u64(), before.as_u64().map(|generation| generation + 1));
    assert_eq!(numbers(&fleet.rest()).len(), 1);
}

/// A file system of its own below the coordinator's state; `false`: that cannot be done here.
fn mount_small(sandbox: &Sandbox, at: &str) -> bool {
    if !is_root() {
        skipped("a file system is mounted by root only");
        return false;
    }
    let image = sandbox.path("image");
    File::create(&image).and_then(|file| file.set_len(24 << 20)).expect("an image");
    fs::create_dir_all(sandbox.path(at)).expect("a folder");
    let run =
        |command: &mut Command| command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    let made = run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))
        && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(sandbox.path(at)));
    if !made {
        skipped("mkfs.ext4 and loop mounts are needed");
    }
    made
}

/// Fills a file system to its last block.
fn fill(file: &std::path::Path) {
    let mut ballast = File::create(file).expect("a file");
    for size in [1 << 16, 1 << 10, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
    ballast.sync_all().ok();
}

#[test]
fn fault_18_a_full_disk_refuses_submits_and_reads_go_on_until_there_is_space_again() {
    let sandbox = Sandbox::new();
    if !mount_small(&sandbox, "state/coordinator") {
        return;
    }
    let mut fleet = Fleet::start(&sandbox, &[]);
    let rest = fleet.rest();
    assert_eq!(submit(&rest, &sandbox, "before"), Some(202));
    let ballast = sandbox.path("state/coordinator/ballast");
    fill(&ballast);
    // What is left of the write-ahead log's last block still takes some.
    let mut taken = vec!["before".to_owned()];
    let refused = loop {
        let name = format!("j{}", taken.len());
        match submit(&rest, &sandbox, &name) {
            Some(202) => taken.push(name),
            Some(507) => break name,
            other => panic!("{name}: {other:?}"),
        }
        assert!(taken.len() < 5_000, "the disk is not full");
    };
    for _ in 0..5 {
        assert_eq!(submit(&rest, &sandbox, &refused), Some(507), "no request hangs");
        assert_eq!(
            rest.try_get(&Rest::job_path(&refused)).map(|(status, _)| status),
            Some(404),
            "a partial row"
        );
        assert_eq!(rest.job("before")["properties"]["executionState"], "queued");
        assert_eq!(numbers(&rest).len(), taken.len());
        rest.until_healthy();
    }
    fs::remove_file(&ballast).expect("removed");
    until("it takes jobs again by itself", || (submit(&rest, &sandbox, &refused) == Some(202)).then_some(()));
    taken.push(refused);
    taken.sort();

    // The same once more, and this time it is killed while the disk is full.
    fill(&ballast);
    while submit(&rest, &sandbox, &format!("k{}", taken.len())) == Some(202) {
        taken.push(format!("k{}", taken.len()));
    }
    fleet.kill_coordinator();
    fs::remove_file(&ballast).expect("removed");
    fleet.start_coordinator();
    fleet.rest().until_healthy();
    let there = numbers(&fleet.rest());
    assert!(taken.iter().all(|name| there.contains_key(name)), "{taken:?} {there:?}");
    assert_eq!(there.len(), taken.len(), "one that was refused is there");
    // The mount goes with the sandbox: nothing may hold it.
    fleet.kill_coordinator();
}

#[test]
fn fault_19_a_failing_fsync_stops_the_coordinator_at_once_and_nothing_acknowledged_is_lost() {
    if Command::new("strace").arg("-V").output().is_err() {
        skipped("strace is needed");
        return;
    }
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    fleet.kill_coordinator();
    let mut acknowledged = Vec::new();
    let mut hits = 0;
    for n in 1..=12 {
        let trace = sandbox.text(&format!("trace.{n}"));
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={n}");
        // -y: with the names of files. Calls are counted for each thread.
        let arguments = ["-f", "-y", "-qq", "-o", &trace, "-e", "trace=fsync,fdatasync", "-e", &inject];
        fleet.start_coordinator_below("strace", &arguments);
        let rest = fleet.rest();
        until("it answers or has ended", || {
            let answers = rest.try_get("/healthz").is_some_and(|(status, _)| status == 200);
            (answers || fleet.coordinator().has_ended()).then_some(())
        });
        for i in 0..15 {
            let name = format!("j-{n}-{i}");
            match submit(&rest, &sandbox, &name) {
                Some(202) => acknowledged.push(name),
                Some(503) | None => break,
                other => panic!("{name}: {other:?}"),
            }
        }
        // SQLite itself passes over a folder that cannot be synced.
        let injected = |line: &&str| line.contains("(INJECTED)") && line.contains("trainyard.db");
        let trace = sandbox.read(&format!("trace.{n}"));
        if trace.lines().any(|line| injected(&line)) {
            hits += 1;
            let ended = fleet.coordinator().wait();
            assert!(ended.code == 1, "at call {n} it ended with {}: {}", ended.code, ended.stderr);
            assert!(ended.stderr.contains("database"), "{}", ended.stderr);
        } else if !fleet.coordinator().has_ended() {
            for process in sandbox.processes().iter().filter(|process| process.name.starts_with("trainyard"))
            {
                signal(process.pid, Signal::SIGKILL);
            }
            fleet.coordinator().wait();
        }
        fleet.start_coordinator();
        let rest = fleet.rest();
        rest.until_healthy();
        let there = numbers(&rest);
        for name in &acknowledged {
            assert!(there.contains_key(name), "{name} was acknowledged and is lost, at call {n}");
        }
        fleet.kill_coordinator();
    }
    assert!(hits >= 8, "only {hits} calls met the database");
    assert!(acknowledged.len() >= 10, "{acknowledged:?}");
}

#[test]
fn fault_20_the_daemon_refuses_a_damaged_database_and_names_restore_which_helps() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    for n in 0..30 {
        assert_eq!(submit(&fleet.rest(), &sandbox, &format!("j{n}")), Some(202));
    }
    let backup = sandbox.text("backup.db");
    let state = fleet.state_dir();
    let place = ["--state-dir", state.as_str()];
    let made = sandbox.run(["-o", "json", "coordinator", "backup", "--to", &backup].into_iter().chain(place));
    assert_eq!(made.expect(0).json()["jobs"], 30);
    let running = sandbox.run(["coordinator", "restore", &backup].into_iter().chain(place));
    assert!(running.code == 1 && running.stderr.contains("another coordinator runs on"), "{running:?}");
    fleet.kill_coordinator();

    let database = sandbox.path("state/coordinator/coordinator/trainyard.db");
    let connection = rusqlite::Connection::open(&database).expect("a database");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    drop(connection);
    let mut bytes = fs::read(&database).expect("a database");
    let page = bytes.len() / 4096 / 2 * 4096;
    bytes[page..page + 4096].fill(0);
    fs::write(&database, &bytes).expect("damage");
    fleet.start_coordinator();
    let refused = fleet.coordinator().wait();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("trainyard coordinator restore"), "{}", refused.stderr);
    assert!(fs::read(&database).expect("it") == bytes, "a refused database was changed");

    let restored = sandbox.run(["-o", "json", "coordinator", "restore", &backup].into_iter().chain(place));
    let replaced = restored.expect(0).json()["replaced"].as_str().expect("kept aside").to_owned();
    assert!(fs::read(replaced).expect("it") == bytes);
    fleet.start_coordinator();
    fleet.rest().until_healthy();
    assert_eq!(numbers(&fleet.rest()).len(), 30);
}

#[test]
fn fault_21_the_daemon_refuses_a_missing_database_until_init_is_given() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    assert_eq!(submit(&fleet.rest(), &sandbox, "j"), Some(202));
    fleet.kill_coordinator();
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(sandbox.path(&format!("state/coordinator/coordinator/trainyard.db{suffix}"))).ok();
    }
    fleet.start_coordinator();
    let refused = fleet.coordinator().wait();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("is missing") && refused.stderr.contains("--init"), "{}", refused.stderr);
    fleet.start_coordinator_below("env", &[]);
    assert_eq!(fleet.coordinator().wait().code, 1, "a second start is refused as well");
    let mut arguments = fleet.coordinator_arguments();
    arguments.push("--init".to_owned());
    let mut begun = trainyard_tests::Daemon::start(&sandbox, "begun", {
        let mut command = sandbox.command(&arguments);
        command.env("TRAINYARD_TOKEN", "another-token-for-this");
        command
    });
    fleet.rest().until_healthy();
    assert!(!begun.has_ended());
}
