//! The loop: waits for a launch, starts it, then feeds what happens to `core::shim::Attempt` and performs
//! what that decides. It decides nothing itself.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{SystemTime, UNIX_EPOCH};

use trainyard_core::id::AttemptId;
use trainyard_core::shim::wire::wipe;
use trainyard_core::shim::{
    Attempt, BootMs, Cgroups, Effect, Event, ExitRecord, Failed, Frames, FromShim, Launch, Started, Step,
    ToShim,
};
use trainyard_core::unit::{Exit, WallMs};

use crate::sys::{self, Waited};
use crate::tree::{Tree, stat_field};
use crate::{exec, record};

/// More connections than this: the oldest is closed. An agent needs one.
const CONNECTIONS_MAX: usize = 4;
/// How often a record that could not be written (a full disk) is tried again, in ms.
const WRITE_AGAIN_MS: u64 = 1_000;

/// Owns one attempt from its launch until nothing of it is left.
pub(crate) fn run() -> io::Result<()> {
    let listener = sys::listener();
    // The record needs a name also if no launch ever comes.
    let name = std::env::args().nth(1).and_then(|text| text.parse::<AttemptId>().ok());
    let id = name.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let Some((mut stream, launch, cgroups)) = wait_for_launch(&listener, id)? else { return Ok(()) };
    match start(launch, &cgroups) {
        Ok(owner) => {
            stream.write_all(&FromShim::Started(owner.started).encode()).ok();
            owner.run(listener, stream)
        }
        Err(failed) => {
            let error = io::Error::from_raw_os_error(failed.errno);
            record::write_exit(&ExitRecord::not_started(
                id,
                wall_now(),
                format!("{}: {error}", failed.step),
            ))?;
            stream.write_all(&FromShim::Failed(failed).encode())
        }
    }
}

/// The first connection's launch; `None` after the record that there was none.
fn wait_for_launch(
    listener: &UnixListener,
    id: AttemptId,
) -> io::Result<Option<(UnixStream, Launch, Cgroups)>> {
    let (mut stream, _) = listener.accept()?;
    if let Some(ToShim::Launch(launch, cgroups)) = read_message(&mut stream)
        && launch.attempt == id
    {
        return Ok(Some((stream, *launch, cgroups)));
    }
    // The agent died before it had said all, or another one asks what this is: nothing was started.
    let record = ExitRecord::not_started(id, wall_now(), "the agent ended before the launch".to_owned());
    record::write_exit(&record)?;
    stream.write_all(&FromShim::Exited(record).encode()).ok();
    Ok(None)
}

fn read_message(stream: &mut UnixStream) -> Option<ToShim> {
    let mut frames = Frames::default();
    let mut buffer = [0u8; 4096];
    loop {
        if let Some(mut frame) = frames.next_frame().ok()? {
            let message = ToShim::decode(&frame).ok();
            wipe(&mut frame);
            wipe(&mut buffer);
            return message;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(length) => frames.push(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn start(mut launch: Launch, cgroups: &Cgroups) -> Result<Owner, Failed> {
    let errno = |step| move |error: io::Error| Failed { step, errno: error.raw_os_error().unwrap_or(0) };
    if launch.deadline.is_some_and(|deadline| sys::boot_now() >= deadline) {
        return Err(Failed { step: Step::Fence, errno: libc::ETIME });
    }
    let signals = sys::child_signals().map_err(errno(Step::Session))?;
    let timer = sys::boot_timer().map_err(errno(Step::Session))?;
    let marker = record::mark_start().map_err(errno(Step::Marker))?;
    let pid = exec::start(&launch, cgroups)?;
    launch.wipe();
    sys::release_memory();
    let started = Started {
        pid: pid.unsigned_abs(),
        start_time_ticks: stat_field(pid, 19).unwrap_or(0),
        at: wall_now(),
        shim_pid: std::process::id(),
    };
    // It runs: a full disk is no reason to end it. The marker is there already.
    record::write_started(marker, &started, &std::env::args().nth(2).unwrap_or_default()).ok();
    let attempt = Attempt::new(launch.attempt, started.pid, started.at, sys::boot_now(), launch.deadline);
    let tree = Tree::new(cgroups, pid);
    Ok(Owner {
        attempt,
        started,
        tree,
        pid,
        signals,
        timer,
        connections: Vec::new(),
        is_unkillable: false,
        end: None,
    })
}

/// A running attempt, and everything that is open for it.
struct Owner {
    attempt: Attempt,
    started: Started,
    tree: Tree,
    pid: i32,
    signals: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    is_unkillable: bool,
    end: Option<End>,
}

struct Connection {
    stream: UnixStream,
    frames: Frames,
}

/// Nothing of the attempt is left; the shim goes once the outcome is in one place that outlives it.
struct End {
    record: ExitRecord,
    is_kept: bool,
}

impl Owner {
    fn run(mut self, listener: UnixListener, first: UnixStream) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.add(first);
        loop {
            self.step(Event::Woke);
            self.look_after_children();
            if self.is_done() {
                return Ok(());
            }
            sys::arm(&self.timer, self.next_wake())?;
            self.wait(&listener)?;
        }
    }

    /// Sleeps until something happens, and takes what the agent says.
    fn wait(&mut self, listener: &UnixListener) -> io::Result<()> {
        let fd = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds =
            vec![fd(listener.as_raw_fd()), fd(self.signals.as_raw_fd()), fd(self.timer.as_raw_fd())];
        fds.extend(self.connections.iter().map(|c| fd(c.stream.as_raw_fd())));
        sys::poll(&mut fds, -1)?;
        let mut ready = fds.iter().map(|fd| fd.revents != 0);
        let mut next = || ready.next().unwrap_or(false);
        let is_called = next();
        for fd in [&self.signals, &self.timer] {
            if next() {
                sys::drain(fd);
            }
        }
        let mut messages = Vec::new();
        self.connections.retain_mut(|connection| !next() || connection.read(&mut messages));
        if is_called && let Ok((stream, _)) = listener.accept() {
            self.add(stream);
        }
        messages.into_iter().for_each(|message| self.on_message(message));
        Ok(())
    }

    fn add(&mut self, stream: UnixStream) {
        // A message that does not fit the socket's buffer closes the connection: a stuck agent stops nothing.
        if stream.set_nonblocking(true).is_ok() {
            if self.connections.len() >= CONNECTIONS_MAX {
                self.connections.remove(0);
            }
            self.connections.push(Connection { stream, frames: Frames::default() });
        }
    }

    fn on_message(&mut self, message: ToShim) {
        match message {
            ToShim::Stop { grace_ms } => self.step(Event::Stop { grace_ms }),
            ToShim::Renew(deadline) => self.step(Event::Renew(deadline)),
            ToShim::Status => self.tell_status(),
            // An attempt is started once.
            ToShim::Launch(..) => {}
        }
    }

    fn step(&mut self, event: Event) {
        for effect in self.attempt.step(sys::boot_now(), event) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let main_is_there = self.attempt.record().is_none() && self.end.is_none();
        match effect {
            Effect::Terminate => self.tree.terminate(main_is_there),
            Effect::Kill => self.tree.kill(main_is_there),
            // What fails here is tried again at the end, and every second from then on.
            Effect::WriteRecord(record) => drop(record::write_exit(&record)),
            Effect::TellUnkillable => {
                self.is_unkillable = true;
                self.tell(&FromShim::Unkillable);
            }
            Effect::Finish(record) => {
                let is_kept = std::fs::exists(trainyard_core::shim::EXIT_FILE).unwrap_or(false);
                let is_told = self.tell(&FromShim::Exited(record.clone()));
                self.end = Some(End { record, is_kept: is_kept || is_told });
            }
        }
    }

    fn look_after_children(&mut self) {
        let mut main_status = None;
        let has_children = loop {
            match sys::wait_any() {
                Waited::Ended(pid, status) if pid == self.pid => main_status = Some(status),
                Waited::Ended(..) => {}
                Waited::NoneEnded => break true,
                Waited::NoChildren => break false,
            }
        };
        let is_empty =
            !has_children && (main_status.is_some() || self.attempt.is_sweeping()) && self.tree.is_empty();
        if let Some(status) = main_status {
            let exit = exit_of(status);
            let oom_kills = if exit.is_success() { 0 } else { self.tree.oom_kills() };
            let leftovers = if is_empty { 0 } else { self.tree.count().max(1) };
            self.step(Event::MainEnded { exit, at: wall_now(), oom_kills, leftovers });
        } else if is_empty {
            self.step(Event::Empty);
        }
    }

    fn tell_status(&mut self) {
        if let Some(end) = &mut self.end {
            let message = FromShim::Exited(end.record.clone());
            self.tell(&message);
            return;
        }
        self.tell(&FromShim::Running(self.started));
        if self.is_unkillable {
            self.tell(&FromShim::Unkillable);
        }
    }

    /// Tells every agent that listens; whether one did.
    fn tell(&mut self, message: &FromShim) -> bool {
        let bytes = message.encode();
        self.connections.retain_mut(|connection| connection.stream.write_all(&bytes).is_ok());
        if let (Some(end), false, FromShim::Exited(_)) = (&mut self.end, self.connections.is_empty(), message)
        {
            end.is_kept = true;
        }
        !self.connections.is_empty()
    }

    fn is_done(&mut self) -> bool {
        let Some(end) = &mut self.end else { return false };
        end.is_kept = end.is_kept || record::write_exit(&end.record).is_ok();
        end.is_kept
    }

    fn next_wake(&self) -> Option<BootMs> {
        match self.end {
            None => self.attempt.next_wake(),
            Some(_) => Some(sys::boot_now().plus_ms(WRITE_AGAIN_MS)),
        }
    }
}

impl Connection {
    /// Takes what has come; false when the connection is over.
    fn read(&mut self, messages: &mut Vec<ToShim>) -> bool {
        let mut buffer = [0u8; 512];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.frames.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            loop {
                match self.frames.next_frame() {
                    Ok(Some(frame)) => match ToShim::decode(&frame) {
                        Ok(message) => messages.push(message),
                        Err(_) => return false,
                    },
                    Ok(None) => break,
                    Err(_) => return false,
                }
            }
        }
    }
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFEXITED(status) {
        Exit::Code(libc::WEXITSTATUS(status))
    } else {
        Exit::Signal(libc::WTERMSIG(status))
    }
}

fn wall_now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
