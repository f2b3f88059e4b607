//! A coordinator and agents as processes of their own, so that each can be killed and started again alone.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::{Daemon, Finished, Rest, Sandbox, trainyard, until};

/// The daemons of a test. Each has its own folder in the sandbox.
pub struct Fleet<'a> {
    sandbox: &'a Sandbox,
    address: String,
    /// What agents and clients show to the coordinator: that of another test does not fit.
    token: String,
    settings: Vec<String>,
    coordinator: Option<Daemon>,
    agents: BTreeMap<String, Daemon>,
}

impl<'a> Fleet<'a> {
    /// A coordinator at any free port of loopback, with these settings beside the usual ones.
    #[must_use]
    pub fn start(sandbox: &'a Sandbox, settings: &[&str]) -> Fleet<'a> {
        Fleet::start_at(sandbox, &format!("127.0.0.1:{}", free_port()), settings)
    }

    /// A coordinator at this address, in the network namespace of the calling thread.
    #[must_use]
    pub fn start_at(sandbox: &'a Sandbox, address: &str, settings: &[&str]) -> Fleet<'a> {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut fleet = Fleet {
            sandbox,
            address: address.to_owned(),
            token: format!("token-of{}", sandbox.text("").replace('/', "-")),
            settings,
            coordinator: None,
            agents: BTreeMap::new(),
        };
        fleet.start_coordinator();
        fleet.rest().until_healthy();
        fleet
    }

    /// Where the coordinator listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(&self.url(), &self.token)
    }

    /// `trainyard` as a client of this coordinator, to its end.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        Finished::of(&self.client_command(arguments).output().expect("trainyard can be started"))
    }

    /// The same in the background; `name` names its output files.
    #[must_use]
    pub fn client(&self, name: &str, arguments: &[&str]) -> Daemon {
        Daemon::start(self.sandbox, name, self.client_command(arguments))
    }

    fn client_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        command.env("TRAINYARD_COORDINATOR", self.url()).env("TRAINYARD_TOKEN", &self.token);
        command
    }

    /// Starts the coordinator, and does not wait for it.
    pub fn start_coordinator(&mut self) {
        let mut command = self.sandbox.command(self.coordinator_arguments());
        command.env("TRAINYARD_TOKEN", &self.token);
        self.coordinator = Some(Daemon::start(self.sandbox, "coordinator", command));
    }

    /// Starts it below another program, as `strace`, whose arguments come first.
    pub fn start_coordinator_below(&mut self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        self.sandbox.settle(&mut command);
        command.args(arguments).arg(trainyard()).args(self.coordinator_arguments());
        command.env("TRAINYARD_TOKEN", &self.token);
        self.coordinator = Some(Daemon::start(self.sandbox, "coordinator", command));
    }

    /// What `trainyard` is started with as this coordinator.
    #[must_use]
    pub fn coordinator_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["coordinator".to_owned(), "--listen".to_owned(), self.address.clone()];
        arguments.extend(["--state-dir".to_owned(), self.state_dir()]);
        arguments.extend_from_slice(&self.settings);
        arguments
    }

    /// The state directory of the coordinator.
    #[must_use]
    pub fn state_dir(&self) -> String {
        self.sandbox.text("state/coordinator")
    }

    /// The coordinator's process.
    ///
    /// # Panics
    /// It was killed.
    pub fn coordinator(&mut self) -> &mut Daemon {
        self.coordinator.as_mut().expect("it was started")
    }

    /// SIGKILL to the coordinator.
    pub fn kill_coordinator(&mut self) {
        if let Some(mut daemon) = self.coordinator.take() {
            daemon.kill();
        }
    }

    /// The coordinator's process, while there is one.
    #[must_use]
    pub fn living_coordinator(&self) -> Option<&Daemon> {
        self.coordinator.as_ref()
    }

    /// The process of a node's agent, while there is one.
    #[must_use]
    pub fn agent(&self, node: &str) -> Option<&Daemon> {
        self.agents.get(node)
    }

    /// The command that is the agent of a node.
    #[must_use]
    pub fn agent_command(&self, node: &str, address: &str) -> Command {
        let mut command = self.sandbox.command(["agent", "--node", node, "--address", address]);
        command
            .args(["--coordinator", &self.url(), "--root", &self.root(node)])
            .env("TRAINYARD_TOKEN", &self.token);
        command
    }

    /// The root folder of a node.
    #[must_use]
    pub fn root(&self, node: &str) -> String {
        self.sandbox.text(&format!("state/{node}/LS_root"))
    }

    /// Starts the agent of a node on loopback, and does not wait for it.
    pub fn start_agent(&mut self, node: &str) {
        let command = self.agent_command(node, "127.0.0.1");
        self.start_agent_as(node, command);
    }

    /// Starts a command as the agent of a node.
    pub fn start_agent_as(&mut self, node: &str, command: Command) {
        let daemon = Daemon::start(self.sandbox, node, command);
        self.agents.insert(node.to_owned(), daemon);
    }

    /// SIGKILL to the agent of a node.
    pub fn kill_agent(&mut self, node: &str) {
        if let Some(mut daemon) = self.agents.remove(node) {
            daemon.kill();
        }
    }

    /// Waits until these nodes are connected.
    pub fn until_connected(&self, nodes: &[&str]) {
        let rest = self.rest();
        until("all nodes are connected", || {
            let (_, body) = rest.try_get("/api/v1/nodes").filter(|(status, _)| *status == 200)?;
            let shown: serde_json::Value = serde_json::from_slice(&body).ok()?;
            let shown = shown["value"].as_array()?;
            let connected =
                |name: &&str| shown.iter().any(|it| it["name"] == **name && it["state"] != "unknown");
            nodes.iter().all(connected).then_some(())
        });
    }
}

/// A port of loopback that is free now, that the kernel gives to nobody by itself, and that no other test of this
/// program has got.
fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 10_000).expect("it is below 10,000");
    loop {
        let port = first + GIVEN.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
