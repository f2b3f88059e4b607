//! SIGKILL to coordinator and agents, again and again, in the middle of jobs.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trainyard_tests::{Fleet, Process, Rest, Sandbox, custom, until, with};

const NODES: [&str; 2] = ["node-a", "node-b"];
/// Of each daemon kind.
const KILLS: u64 = 20;
/// Kills of each kind during one pair of long jobs.
const KILLS_A_PAIR: u64 = 10;
/// Bytes that a long job writes at once: no multiple of any block.
const PIECE: usize = 3001;

/// Bytes that look like nothing and can be made again (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(length).collect()
    }
}

/// Writes who it is, then piece after piece of the stream, counting them, until `go` is there; then ends.
fn long_job(sandbox: &Sandbox, name: &str, code: i32) -> Value {
    let (audit, stream) = (sandbox.text("audit"), sandbox.text("stream"));
    let line = format!(
        "echo $TRAINYARD_JOB $TRAINYARD_GANG $$ >> {audit}/long\n\
         i=0\n\
         until test -e {audit}/go.{name}; do\n\
           tail -c +$((i % 64 * {PIECE} + 1)) {stream} | head -c {PIECE}; i=$((i + 1)); echo $i > {audit}/count.{name}\n\
           sleep 0.01\n\
         done\n\
         echo end of $i >&2; exit {code}"
    );
    with(custom(&line), &json!({ "stdOutErrPathPrefix": sandbox.path("out") }))
}

fn pieces_written(sandbox: &Sandbox, name: &str) -> u64 {
    // It may be read while it is being written.
    sandbox.read(&format!("audit/count.{name}")).trim().parse().unwrap_or(0)
}

fn body(properties: &Value) -> Value {
    let cluster = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/\
                   Microsoft.BatchAI/workspaces/default/clusters/default";
    json!({ "properties": with(properties.clone(), &json!({ "cluster": { "id": cluster } })) })
}

/// A job that was handed in, and what it has to end with.
struct Submitted {
    name: String,
    code: i32,
    acknowledged: bool,
}

#[test]
fn n1_n2_n3_n5_n6_forty_kills_change_nothing_for_jobs() {
    let sandbox = Sandbox::new();
    let mut noise = Noise(0x1234_5678_9abc_def1);
    let stream = noise.bytes(64 * PIECE);
    fs::write(sandbox.path("stream"), &stream).expect("the stream");
    let mut fleet = Fleet::start(&sandbox, &["--heartbeat-s", "1"]);
    let rest = fleet.rest();
    NODES.iter().for_each(|node| fleet.start_agent(node));
    fleet.until_connected(&NODES);

    let mut short = Vec::new();
    for pair in 0..KILLS / KILLS_A_PAIR {
        let names = [format!("long-{pair}-0"), format!("long-{pair}-7")];
        let (mut tasks, mut gangs) = (BTreeMap::new(), BTreeMap::new());
        for (name, code) in names.iter().zip([0, 7]) {
            let properties = body(&long_job(&sandbox, name, code));
            until("the job is taken", || {
                rest.put(&Rest::job_path(name), &properties).filter(|code| *code < 300)
            });
        }
        for name in &names {
            // Short jobs that were acknowledged earlier go first.
            let job = rest.until_running(name);
            let pid = job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid");
            gangs.insert(name, job["properties"]["trainyard"]["gang"].clone());
            tasks.insert(name, Process::of(i32::try_from(pid).expect("small")).expect("it runs"));
        }
        for round in 0..KILLS_A_PAIR {
            short.extend(submit_short(&sandbox, &rest, &format!("short-{pair}-{round}-a"), round));
            let goal = pieces_written(&sandbox, &names[0]) + noise.next() % 6;
            until("the job goes on", || (pieces_written(&sandbox, &names[0]) >= goal).then_some(()));
            fleet.kill_coordinator();
            fleet.start_coordinator();
            if !round.is_multiple_of(3) {
                rest.until_healthy();
            }
            let node = NODES[usize::try_from(round % 2).expect("0 or 1")];
            fleet.kill_agent(node);
            fleet.start_agent(node);
            if round.is_multiple_of(2) {
                fleet.until_connected(&NODES);
            }
            assert!(tasks.values().all(Process::lives), "a task ended in round {round}");
        }
        rest.until_healthy();
        fleet.until_connected(&NODES);
        for (name, task) in &tasks {
            let job = rest.until_running(name);
            let ours = &job["properties"]["trainyard"];
            assert_eq!((&ours["tasks"][0]["pid"], &ours["gang"]), (&json!(task.pid), &gangs[name]), "{name}");
            fs::write(sandbox.path(&format!("audit/go.{name}")), "").expect("a file");
        }
        // The exit itself meets a kill of everything.
        fleet.kill_coordinator();
        NODES.iter().for_each(|node| fleet.kill_agent(node));
        until("the tasks end", || tasks.values().all(|task| !task.lives()).then_some(()));
        fleet.start_coordinator();
        NODES.iter().for_each(|node| fleet.start_agent(node));
        rest.until_healthy();
        for (name, code) in names.iter().zip([0, 7]) {
            let job = rest.until_ended(name);
            assert_eq!(job["properties"]["executionInfo"]["exitCode"], code, "{name}: {job:#}");
            check_logs(&sandbox, &rest, name, &job, &stream);
        }
    }

    for job in &short {
        if !job.acknowledged
            && rest.try_get(&Rest::job_path(&job.name)).is_none_or(|(status, _)| status != 200)
        {
            continue;
        }
        let ended = rest.until_ended(&job.name);
        assert_eq!(ended["properties"]["executionInfo"]["exitCode"], job.code, "{}: {ended:#}", job.name);
    }
    let once = |file: &str| {
        let text = sandbox.read(file);
        let jobs: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        let mut unique = jobs.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), jobs.len(), "a task was started twice:\n{text}");
        unique.len()
    };
    assert_eq!(once("audit/long"), 4);
    let acknowledged = short.iter().filter(|job| job.acknowledged).count();
    let ran = once("audit/short");
    assert!((acknowledged..=short.len()).contains(&ran) && acknowledged > 0, "{ran} of {acknowledged} ran");
}

/// Hands in a short job; whether that was acknowledged is not sure while the coordinator is being killed.
fn submit_short(sandbox: &Sandbox, rest: &Rest, name: &str, round: u64) -> Option<Submitted> {
    let code = i32::try_from(round % 8).expect("below 8");
    let line =
        format!("echo $TRAINYARD_JOB $TRAINYARD_GANG $$ >> {}/short; exit {code}", sandbox.text("audit"));
    let properties = with(custom(&line), &json!({ "stdOutErrPathPrefix": sandbox.path("out") }));
    let status = rest.put(&Rest::job_path(name), &body(&properties));
    assert!(status.is_none_or(|status| status < 300 || status == 503), "{name}: {status:?}");
    Some(Submitted { name: name.to_owned(), code, acknowledged: status.is_some_and(|status| status < 300) })
}

/// What the task wrote is at the coordinator and in `stdouterr`, byte for byte.
fn check_logs(sandbox: &Sandbox, rest: &Rest, name: &str, job: &Value, stream: &[u8]) {
    let count = usize::try_from(pieces_written(sandbox, name)).expect("it fits");
    let written: Vec<u8> = stream.chunks(PIECE).cycle().take(count).flatten().copied().collect();
    let same = |bytes: &[u8], place: &str| {
        let first = bytes.iter().zip(&written).position(|(a, b)| a != b);
        let lengths = (bytes.len(), written.len());
        assert!(bytes == written, "{name} {place}: lengths {lengths:?}, first difference at {first:?}");
    };
    same(&rest.whole_log(name, "stdout.txt"), "at the coordinator");
    assert_eq!(rest.whole_log(name, "stderr.txt"), format!("end of {count}\n").into_bytes());
    let mirror = sandbox.logs(job).join("stdout.txt");
    until("the copy is complete", || {
        fs::metadata(&mirror).is_ok_and(|it| it.len() >= written.len() as u64).then_some(())
    });
    same(&fs::read(mirror).expect("the copy"), "on disk");
}

#[test]
fn the_agent_answers_on_its_node_while_the_coordinator_is_down() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    fleet.start_agent("node-a");
    let go = sandbox.text("audit/go");
    let file = sandbox.job("job", custom(&format!("echo hello; until test -e {go}; do sleep 0.02; done")));
    drop(fleet.run(&["job", "submit", &file, "-n", "held"]).expect(0));
    fleet.rest().until_running("held");
    fleet.kill_coordinator();
    let root = fleet.root("node-a");
    let ask = |arguments: &[&str]| sandbox.run(arguments.iter().copied().chain(["--root", &root]));
    let tasks = ask(&["agent", "tasks", "-o", "json"]).expect(0).json();
    assert_eq!((&tasks[0]["name"], &tasks[0]["state"]), (&json!("master"), &json!("running")), "{tasks:#}");
    until("it knows that it is alone", || {
        let status = ask(&["agent", "status", "-o", "json"]).expect(0).json();
        (status["connected"] == false).then_some(())
    });
    until("what it said is there", || {
        (ask(&["agent", "logs", "master"]).expect(0).stdout == "hello\n").then_some(())
    });
    fs::write(&go, "").expect("a file");
    fleet.start_coordinator();
    fleet.rest().until_healthy();
    drop(fleet.run(&["job", "wait", "held"]).expect(0));
}

#[test]
fn a_killed_shim_leaves_its_task_alone_and_the_job_is_tried_again_only_after_it() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    fleet.start_agent("node-a");
    let audit = sandbox.text("audit");
    let line = format!(
        "test -e {audit}/alive && echo twice >> {audit}/wrong; touch {audit}/alive; echo $TRAINYARD_GANG >> {audit}/gangs\n\
         until test -e {audit}/go; do sleep 0.02; done; rm {audit}/alive"
    );
    let file = sandbox.job("job", custom(&line));
    drop(fleet.run(&["job", "submit", &file, "-n", "orphan"]).expect(0));
    let rest = fleet.rest();
    let job = rest.until_running("orphan");
    let pid = i32::try_from(job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid"))
        .expect("small");
    let task = Process::of(pid).expect("it runs");
    let shim = Process::of(task.parent).expect("its shim runs");
    assert!(shim.name.starts_with("trainyard-shim"), "{shim:?}");
    trainyard_tests::signal(shim.pid, Signal::SIGKILL);
    until("the shim is gone", || (!shim.lives()).then_some(()));
    fleet.kill_agent("node-a");
    fleet.start_agent("node-a");
    fleet.until_connected(&["node-a"]);
    assert!(task.lives());
    let gang = |job: &Value| job["properties"]["trainyard"]["gang"].clone();
    assert_eq!(gang(&rest.job("orphan")), gang(&job), "it was given up while it ran");
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    // Nobody saw how the first one ended, so it is no success: the second one is.
    drop(fleet.run(&["job", "wait", "orphan"]).expect(0));
    let gangs = sandbox.read("audit/gangs");
    let gangs: Vec<&str> = gangs.lines().collect();
    assert!(gangs.len() == 2 && gangs[0] != gangs[1], "{gangs:?}");
    assert_eq!(sandbox.read("audit/wrong"), "", "two ran at once");
}

#[test]
fn those_who_follow_and_wait_outlive_the_coordinator_and_miss_nothing() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    fleet.start_agent("node-a");
    let audit = sandbox.text("audit");
    let line = format!(
        "for i in 1 2 3; do echo part $i; until test -e {audit}/$i; do sleep 0.02; done; done; exit 5"
    );
    let file = sandbox.job("job", custom(&line));
    drop(fleet.run(&["job", "submit", &file, "-n", "followed"]).expect(0));
    let mut follower = fleet.client("follower", &["job", "logs", "-f", "followed"]);
    until("the follower is connected", || (follower.stdout() == "part 1\n").then_some(()));
    let start_waiter = |fleet: &Fleet| fleet.client("waiter", &["job", "wait", "followed"]);
    let mut waiter = start_waiter(&fleet);
    let (mut looks, mut patience) = (0, 5);
    until("the waiter has lost a coordinator, and waits", || {
        // Its first question has met the kill: then nobody is there for it, which is what it says. The next one
        // is left alone for longer.
        if waiter.has_ended() {
            waiter = start_waiter(&fleet);
            (looks, patience) = (0, patience * 2);
        }
        looks += 1;
        if looks < patience {
            return None;
        }
        fleet.kill_coordinator();
        fleet.start_coordinator();
        fleet.rest().until_healthy();
        waiter.stderr().contains("waiting for the coordinator").then_some(())
    });
    for part in 1..=3 {
        let text: String = (1..=part).map(|i| format!("part {i}\n")).collect();
        until("the follower says it", || (follower.stdout() == text).then_some(()));
        fleet.kill_coordinator();
        fs::write(sandbox.path(&format!("audit/{part}")), "").expect("a file");
        fleet.start_coordinator();
        fleet.rest().until_healthy();
    }
    drop(waiter.wait().expect(5));
    assert_eq!(follower.wait().expect(0).stdout, "part 1\npart 2\npart 3\n");
}
