//! `trainyard up` in the foreground, as a child of the test.

use serde_json::Value;

use crate::{Daemon, Rest, Sandbox, until};

/// A coordinator with local nodes.
pub struct Up {
    daemon: Daemon,
    ready: Value,
}

impl Up {
    /// Starts it in the sandbox's state folder, on any free port, and waits until it is ready.
    #[must_use]
    pub fn start(sandbox: &Sandbox, nodes: u32) -> Up {
        Up::start_with(sandbox, nodes, &[], &[])
    }

    /// The same with more arguments and variables.
    ///
    /// # Panics
    /// It does not become ready.
    #[must_use]
    pub fn start_with(sandbox: &Sandbox, nodes: u32, arguments: &[&str], variables: &[(&str, &str)]) -> Up {
        let (state, nodes) = (sandbox.text("state/up"), nodes.to_string());
        let fixed = ["up", "-o", "json", "--nodes", &nodes, "--listen", "127.0.0.1:0", "--state-dir", &state];
        let mut command = sandbox.command(fixed);
        command.args(arguments).envs(variables.iter().copied());
        let before = sandbox.read("up.stdout").len();
        let mut daemon = Daemon::start(sandbox, "up", command);
        let ready = until("`up` is ready", || {
            let said = daemon.stdout();
            if let Ok(ready) = serde_json::from_str(said.get(before..).unwrap_or_default()) {
                return Some(ready);
            }
            assert!(!daemon.has_ended(), "`up` has ended:\n{}", daemon.stderr());
            None
        });
        Up { daemon, ready }
    }

    /// Where its coordinator listens.
    ///
    /// # Panics
    /// It has not said so.
    #[must_use]
    pub fn url(&self) -> &str {
        self.ready["coordinator"].as_str().expect("an URL")
    }

    /// A client with its token.
    #[must_use]
    pub fn rest(&self, sandbox: &Sandbox) -> Rest {
        Rest::new(self.url(), sandbox.read("state/up/token").trim())
    }

    /// Its process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
