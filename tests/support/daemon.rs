//! A long-running `trainyard` process: started, killed and awaited by its own number.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::{Finished, Sandbox, signal, until};

/// A process whose output goes to files of its sandbox. Dropping it kills it.
pub struct Daemon {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    /// Starts a command; `name` names its output files, which are appended to.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(sandbox: &Sandbox, name: &str, mut command: Command) -> Daemon {
        let append =
            |path: &PathBuf| File::options().create(true).append(true).open(path).expect("an output file");
        let (stdout, stderr) =
            (sandbox.path(&format!("{name}.stdout")), sandbox.path(&format!("{name}.stderr")));
        command.stdin(Stdio::null()).stdout(append(&stdout)).stderr(append(&stderr));
        let child = command.spawn().expect("trainyard can be started");
        Daemon { child, stdout, stderr }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process numbers are small")
    }

    /// Sends it a signal.
    pub fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits until it has ended, and tells how.
    ///
    /// # Panics
    /// It does not end.
    pub fn wait(&mut self) -> Finished {
        use std::os::unix::process::ExitStatusExt as _;
        let status = until("the process ends", || self.child.try_wait().expect("a child can be asked"));
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Finished { code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Whether it has ended already.
    ///
    /// # Panics
    /// It cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// What it has written to stdout up to now.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has written to stderr up to now.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.stderr.display(), self.stderr());
        }
    }
}
