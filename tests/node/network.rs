//! Three nodes and a coordinator, each in a network of its own: addresses, ports, and a link that is cut.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns};
use serde_json::json;
use trainyard_tests::{Fleet, Process, Sandbox, is_root, tensorflow, until};

/// Of the coordinator, and of the nodes.
pub(crate) const COORDINATOR: &str = "10.77.0.1";
pub(crate) const ADDRESSES: [&str; 3] = ["10.77.0.4", "10.77.0.5", "10.77.0.6"];
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A network namespace. It lives as long as the process that holds it, so nothing is left of it in any case.
pub(crate) struct Network {
    holder: Child,
}

impl Network {
    fn new(sandbox: &Sandbox) -> Network {
        let mut command = Command::new("unshare");
        sandbox.settle(&mut command);
        let holder = command.args(["--net", "sleep", "1000"]).spawn().expect("unshare");
        let network = Network { holder };
        let inode = |path: String| fs::metadata(path).map(|it| it.ino()).ok();
        let own = inode("/proc/self/ns/net".to_owned());
        until("the namespace is there", || inode(network.path()).filter(|it| Some(*it) != own));
        network.ip("link set lo up");
        network
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Runs a program inside.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered
            .arg(format!("--net={}", self.path()))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            entered.current_dir(folder);
        }
        entered
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        let output = self.inside(&command).output().expect("ip");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// The coordinator's network with a bridge in it, and one network per node.
pub(crate) fn networks(sandbox: &Sandbox) -> (Network, Vec<Network>) {
    let middle = Network::new(sandbox);
    middle.ip("link add yard type bridge");
    middle.ip(&format!("addr add {COORDINATOR}/24 dev yard"));
    middle.ip("link set yard up");
    let nodes = ADDRESSES.iter().zip(NODES).map(|(address, name)| {
        let node = Network::new(sandbox);
        middle.ip(&format!("link add {name} type veth peer name eth0 netns {}", node.holder.id()));
        middle.ip(&format!("link set {name} master yard"));
        middle.ip(&format!("link set {name} up"));
        node.ip(&format!("addr add {address}/24 dev eth0"));
        node.ip("link set eth0 up");
        node
    });
    let nodes = nodes.collect();
    (middle, nodes)
}

/// Whether networks of their own cannot be made here: then a test is skipped, which is said.
pub(crate) fn tools_are_missing() -> bool {
    let tools = ["ip", "nsenter", "unshare", "python3"];
    let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    let unable = !is_root() || missing.is_some();
    if unable {
        trainyard_tests::skipped(&format!(
            "network namespaces need root and {tools:?} (missing: {missing:?})"
        ));
    }
    unable
}

/// A server that every worker must reach, and workers that reach each other: then all wait for `go`.
const SCRIPT: &str = r#"
import os, socket, sys, time
audit, role = sys.argv[1], sys.argv[2]
servers, workers = (os.environ[name].split(",") for name in ("PS_HOSTS", "WORKER_HOSTS"))
index = int(os.environ["TASK_INDEX"])
with open(f"{audit}/{role}-{index}.new", "w") as file:
    file.write(os.environ["PS_HOSTS"] + " " + os.environ["WORKER_HOSTS"])
os.rename(f"{audit}/{role}-{index}.new", f"{audit}/{role}-{index}")
own = (servers if role == "ps" else workers)[index]
listener = socket.create_server(("", int(own.rsplit(":", 1)[1])))
if role == "ps":
    while True:
        peer, (address, _) = listener.accept()
        with open(f"{audit}/heard", "a") as file:
            file.write(peer.recv(100).decode() + " from " + address + "\n")
        peer.sendall(b"heard")
        peer.close()
def say(address):
    host, port = address.rsplit(":", 1)
    while True:
        try:
            peer = socket.create_connection((host, int(port)), timeout=5)
            break
        except OSError:
            time.sleep(0.05)
    peer.sendall(f"worker-{index}".encode())
    return peer.recv(100)
assert say(servers[0]) == b"heard"
import threading
def answer():
    while True:
        peer, _ = listener.accept()
        peer.recv(100)
        peer.sendall(b"hello")
threading.Thread(target=answer, daemon=True).start()
assert [say(address) for address in workers] == [b"hello"] * len(workers)
open(f"{audit}/met-{index}", "w").close()
while not os.path.exists(f"{audit}/go"):
    time.sleep(0.02)
"#;

#[test]
fn fault_11_three_machines_train_on_through_a_cut_that_both_sides_notice() {
    if tools_are_missing() {
        return;
    }
    let sandbox = Sandbox::new();
    let (middle, nodes) = networks(&sandbox);
    // A namespace belongs to a thread: this one's children and connections are the coordinator's.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let namespace = fs::File::open(middle.path()).expect("the namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            three_machines(&sandbox, &middle, &nodes);
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn three_machines(sandbox: &Sandbox, middle: &Network, nodes: &[Network]) {
    let settings = ["--insecure-listen", "--heartbeat-s", "1", "--lease-s", "600", "--keep-local", "false"];
    let mut fleet = Fleet::start_at(sandbox, &format!("{COORDINATOR}:8470"), &settings);
    for ((name, address), network) in NODES.iter().zip(ADDRESSES).zip(nodes) {
        let command = network.inside(&fleet.agent_command(name, address));
        fleet.start_agent_as(name, command);
    }
    fleet.until_connected(&NODES);
    let rest = fleet.rest();
    let script = sandbox.path("task.py");
    fs::write(&script, SCRIPT).expect("the script");
    let mut job = tensorflow(script.to_str().expect("UTF-8"), 3, 1, 3);
    let settings = &mut job["tensorFlowSettings"];
    settings["pythonInterpreterPath"] = json!(null);
    for (role, key) in [
        ("worker", "masterCommandLineArgs"),
        ("worker", "workerCommandLineArgs"),
        ("ps", "parameterServerCommandLineArgs"),
    ] {
        settings[key] = json!(format!("{} {role}", sandbox.text("audit")));
    }
    settings.as_object_mut().expect("settings").remove("pythonInterpreterPath");
    let file = sandbox.job("job", job);
    drop(fleet.run(&["job", "submit", &file, "-n", "far"]).expect(0));
    let running = rest.until_running("far");
    // The example of Batch AI's own behaviour, digit for digit.
    let hosts = "10.77.0.4:2222 10.77.0.4:2223,10.77.0.5:2222,10.77.0.6:2222";
    for task in ["ps-0", "worker-0", "worker-1", "worker-2"] {
        until("the task says what it sees", || sandbox.path(&format!("audit/{task}")).exists().then_some(()));
        assert_eq!(sandbox.read(&format!("audit/{task}")), hosts, "{task}");
    }
    for index in 0..3 {
        until("all tasks reach each other", || {
            sandbox.path(&format!("audit/met-{index}")).exists().then_some(())
        });
    }
    let mut heard: Vec<String> = sandbox.read("audit/heard").lines().map(str::to_owned).collect();
    heard.sort();
    assert_eq!(heard, ["worker-0 from 10.77.0.4", "worker-1 from 10.77.0.5", "worker-2 from 10.77.0.6"]);
    let port: SocketAddr = "10.77.0.5:2222".parse().expect("an address");
    assert!(TcpStream::connect(port).is_ok(), "the worker's port is open on its node's address");

    let tasks: Vec<Process> = running["properties"]["trainyard"]["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .filter_map(|task| Process::of(i32::try_from(task["pid"].as_i64()?).ok()?))
        .collect();
    assert_eq!(tasks.len(), 4);
    let state = |node: &str| rest.get(&format!("/api/v1/nodes/{node}"))["state"].clone();
    middle.ip("link set n2 down");
    until("the node is unknown", || (state("n2") == "unknown").then_some(()));
    let root = fleet.root("n2");
    until("the other side of the half-open connection knows it too", || {
        let status = sandbox.run(["agent", "status", "-o", "json", "--root", &root]).expect(0).json();
        (status["connected"] == false).then_some(())
    });
    let shown = rest.get("/api/v1/nodes/n2");
    assert!(shown["unknownSince"].is_string(), "{shown:#}");
    assert_eq!((state("n1"), state("n3")), (json!("running"), json!("running")));
    let job = rest.job("far");
    assert_eq!(job["properties"]["executionState"], "running", "cannot reach is not failed");
    assert_eq!(job["properties"]["trainyard"]["gang"], 1);
    let explained = fleet.run(&["job", "explain", "far"]).expect(0).stdout;
    assert!(explained.contains("unknown since"), "{explained}");
    assert!(tasks.iter().all(Process::lives), "the cut ended a task");
    middle.ip("link set n2 up");
    fleet.until_connected(&NODES);
    assert!(tasks.iter().all(Process::lives), "the reunion ended a task");
    assert_eq!(
        rest.job("far")["properties"]["trainyard"]["tasks"],
        running["properties"]["trainyard"]["tasks"]
    );
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    drop(fleet.run(&["job", "wait", "far"]).expect(0));
}
