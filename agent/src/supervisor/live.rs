//! The task of an attempt whose shim lives: passes orders down and the end up, and notices when the shim is
//! killed or stuck. It keeps a shadow of the shim's state machine, so that the orphan's task can go on from it.

use std::io;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use trainyard_core::id::AttemptId;
use trainyard_core::shim::wire::wipe;
use trainyard_core::shim::{
    Attempt, BootMs, Effect, Event, ExitRecord, Frames, FromShim, Launch, Started, ToShim,
};

use super::cgroup::AttemptCgroups;
use super::orphan::{Orphan, UNSEEN, lost};
use super::rundir::RunDir;
use super::start::NewShim;
use super::{Order, Shared, ShimEvent, boot_now, process, sys, wall_now};

/// A shim that should have killed its attempt and has not reported its end after so many ms is asked how it is.
const OVERDUE_MS: u64 = 10_000;
/// How long a shim may take to answer, in ms. A stopped one never does.
const ANSWER_MS: u64 = 10_000;
/// How long a shim that answers is left alone before it is asked again, in ms.
const ASK_AGAIN_MS: u64 = 60_000;
/// So many connections without a word on them, and the shim counts as broken.
const FRUITLESS_CONNECTIONS_MAX: u32 = 3;

/// An attempt with its shim.
pub(super) struct Live {
    attempt: AttemptId,
    stream: UnixStream,
    frames: Frames,
    /// Of our own shims only: adopted ones are children of init.
    child: Option<Child>,
    started: Option<Started>,
    shadow: Attempt,
    health: Health,
    fruitless: u32,
    is_unkillable_told: bool,
}

/// Whether the shim does what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Nothing is expected of it now.
    Fine,
    /// The end of its attempt is expected by then.
    Due(BootMs),
    /// An answer is expected by then.
    Asked(BootMs),
}

/// What a shim says to its new agent.
pub(super) enum Answer {
    Running(Option<Started>),
    Ended(ExitRecord),
}

enum Next {
    Message(FromShim),
    Order(Order),
    Woke,
    Gone,
    Dropped,
}

impl Live {
    pub(super) fn new(attempt: AttemptId, shim: NewShim, deadline: Option<BootMs>) -> io::Result<Live> {
        let mut live = Live::with(attempt, shim.stream, None, deadline)?;
        live.child = Some(shim.child);
        Ok(live)
    }

    fn with(
        attempt: AttemptId,
        stream: std::os::unix::net::UnixStream,
        started: Option<Started>,
        deadline: Option<BootMs>,
    ) -> io::Result<Live> {
        stream.set_nonblocking(true)?;
        Ok(Live {
            attempt,
            stream: UnixStream::from_std(stream)?,
            frames: Frames::default(),
            child: None,
            started,
            shadow: shadow(attempt, started, deadline),
            health: Health::Fine,
            fruitless: 0,
            is_unkillable_told: false,
        })
    }

    /// Sends the launch and returns the shim's first word; `None` if it ended without one.
    pub(super) async fn begin(&mut self, launch: Launch, groups: &AttemptCgroups) -> Option<FromShim> {
        let deadline = launch.deadline;
        let message = ToShim::Launch(Box::new(launch), groups.to_wire());
        let mut bytes = message.encode();
        if let ToShim::Launch(mut launch, _) = message {
            launch.wipe();
        }
        let sent = self.stream.write_all(&bytes).await;
        wipe(&mut bytes);
        // The shim may have refused before it had read all; its answer says why.
        if let Err(error) = sent {
            tracing::debug!(attempt = %self.attempt, %error, "the shim has not read its launch");
        }
        let answer = self.message().await?;
        if let FromShim::Started(started) = answer {
            self.started = Some(started);
            self.shadow = shadow(self.attempt, self.started, deadline);
        }
        Some(answer)
    }

    /// Connects to the shim of a predecessor; `None` if there is none.
    pub(super) async fn connect(attempt: AttemptId, run_dir: &RunDir) -> Option<(Live, Answer)> {
        let stream = run_dir.connect().ok()?;
        let mut live = Live::with(attempt, stream, run_dir.marker().started(), None).ok()?;
        live.stream.write_all(&ToShim::Status.encode()).await.ok()?;
        match tokio::time::timeout(Duration::from_millis(ANSWER_MS), live.message()).await {
            Ok(Some(FromShim::Exited(record))) => Some((live, Answer::Ended(record))),
            Ok(Some(FromShim::Running(started))) => {
                live.started = Some(started);
                live.shadow = shadow(attempt, live.started, None);
                Some((live, Answer::Running(Some(started))))
            }
            Ok(Some(FromShim::Started(_) | FromShim::Failed(_) | FromShim::Unkillable) | None) => None,
            // A stopped shim. It is asked again, and ended if something has to be done about the attempt.
            Err(_) => {
                let started = live.started;
                Some((live, Answer::Running(started)))
            }
        }
    }

    pub(super) fn into_child(self) -> Option<Child> {
        self.child
    }

    /// Until the end of the attempt, or of the supervisor.
    pub(super) async fn run(mut self, shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>) {
        loop {
            match self.next(&mut orders).await {
                Next::Message(FromShim::Exited(record)) => {
                    shared.reap(self.child.take());
                    return shared.ended(self.attempt, record);
                }
                Next::Message(message) => self.on_message(&shared, &message),
                Next::Order(order) => self.on_order(order),
                Next::Woke => self.on_woke(),
                Next::Gone => {
                    if !self.reconnect(&shared.run_dir(self.attempt)).await {
                        return self.without_shim(shared, orders).await;
                    }
                }
                Next::Dropped => return,
            }
        }
    }

    async fn next(&mut self, orders: &mut mpsc::Receiver<Order>) -> Next {
        let wake = match self.health {
            Health::Fine => self.shadow.next_wake(),
            Health::Due(at) | Health::Asked(at) => Some(at),
        };
        tokio::select! {
            message = self.message() => message.map_or(Next::Gone, Next::Message),
            order = orders.recv() => order.map_or(Next::Dropped, Next::Order),
            () = sleep_until(wake) => Next::Woke,
        }
    }

    /// The next whole message; `None` when the connection is over. Can be dropped and called again.
    async fn message(&mut self) -> Option<FromShim> {
        let mut buffer = [0; 4096];
        loop {
            match self.frames.next_frame().and_then(|frame| frame.map(|f| FromShim::decode(&f)).transpose()) {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(attempt = %self.attempt, %error, "the shim is not understood");
                    return None;
                }
            }
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.frames.push(&buffer[..length]),
            }
        }
    }

    fn on_message(&mut self, shared: &Shared, message: &FromShim) {
        self.fruitless = 0;
        if matches!(self.health, Health::Asked(_)) {
            self.health = Health::Due(boot_now().plus_ms(ASK_AGAIN_MS));
        }
        match message {
            FromShim::Unkillable if !self.is_unkillable_told => {
                self.is_unkillable_told = true;
                shared.send(ShimEvent::Unkillable { attempt: self.attempt });
            }
            FromShim::Running(started) | FromShim::Started(started) => self.started = Some(*started),
            FromShim::Unkillable | FromShim::Failed(_) | FromShim::Exited(_) => {}
        }
    }

    fn on_order(&mut self, order: Order) {
        let event = match order {
            Order::Stop { grace_ms } => Event::Stop { grace_ms },
            Order::Renew(deadline) => Event::Renew(deadline),
        };
        self.shadow_step(event);
        self.tell(&order.into());
    }

    fn on_woke(&mut self) {
        match self.health {
            Health::Fine => self.shadow_step(Event::Woke),
            Health::Due(_) => {
                self.health = Health::Asked(boot_now().plus_ms(ANSWER_MS));
                self.tell(&ToShim::Status);
            }
            Health::Asked(_) => {
                tracing::warn!(attempt = %self.attempt, "the shim does not answer: the agent ends its attempt");
                self.kill_shim();
                self.health = Health::Due(boot_now().plus_ms(ASK_AGAIN_MS));
            }
        }
    }

    /// What the shim does now by itself. If that is a kill, its end has to be heard of before long.
    fn shadow_step(&mut self, event: Event) {
        let effects = self.shadow.step(boot_now(), event);
        if effects.contains(&Effect::Kill) && self.health == Health::Fine {
            self.health = Health::Due(boot_now().plus_ms(OVERDUE_MS));
        }
    }

    /// Never waits: a stuck shim must not keep the end from being heard. What is lost then is either
    /// repeated (a renewal) or enforced by the agent (a stop).
    fn tell(&mut self, message: &ToShim) {
        let bytes = message.encode();
        match self.stream.try_write(&bytes) {
            Ok(length) if length == bytes.len() => {}
            Ok(_) | Err(_) => tracing::warn!(attempt = %self.attempt, "the shim takes no message"),
        }
    }

    fn kill_shim(&self) {
        let pid = self.started.map(|started| started.shim_pid).or(self.child.as_ref().map(Child::id));
        let Some(handle) = pid.and_then(|pid| sys::pidfd_open(pid).ok().filter(|_| process::is_shim(pid)))
        else {
            return;
        };
        if let Err(error) = sys::pidfd_signal(&handle, libc::SIGKILL) {
            tracing::warn!(attempt = %self.attempt, %error, "cannot kill a stuck shim");
        }
    }

    /// The connection is over. Whether the shim is still there: then it has closed only the connection.
    async fn reconnect(&mut self, run_dir: &RunDir) -> bool {
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_CONNECTIONS_MAX {
            self.kill_shim();
            return false;
        }
        let Some(stream) = run_dir.connect().ok().filter(|stream| stream.set_nonblocking(true).is_ok())
        else {
            return false;
        };
        let Ok(stream) = UnixStream::from_std(stream) else { return false };
        self.stream = stream;
        self.frames = Frames::default();
        self.stream.write_all(&ToShim::Status.encode()).await.is_ok()
    }

    /// The shim was killed. What it has left decides how this goes on.
    async fn without_shim(mut self, shared: Arc<Shared>, orders: mpsc::Receiver<Order>) {
        shared.reap(self.child.take());
        let run_dir = shared.run_dir(self.attempt);
        let record = run_dir.exit_record();
        if !shared.tracked(self.attempt).is_empty() {
            tracing::warn!(attempt = %self.attempt, "the shim was killed: the agent watches its attempt itself");
            let orphan = Orphan::of_shadow(self.attempt, self.shadow, self.started, record);
            return orphan.run(shared, orders).await;
        }
        let record = record.unwrap_or_else(|| {
            let started = run_dir.marker().started().or(self.started);
            shared.keep(lost(self.attempt, started, wall_now(), UNSEEN))
        });
        shared.ended(self.attempt, record);
    }
}

fn shadow(attempt: AttemptId, started: Option<Started>, deadline: Option<BootMs>) -> Attempt {
    let (pid, at) = started.map_or_else(|| (0, wall_now()), |started| (started.pid, started.at));
    Attempt::new(attempt, pid, at, boot_now(), deadline)
}

/// Sleeps until this time of the boot-time clock, or for ever.
pub(super) async fn sleep_until(at: Option<BootMs>) {
    match at {
        None => std::future::pending().await,
        Some(at) => tokio::time::sleep(Duration::from_millis(at.0.saturating_sub(boot_now().0))).await,
    }
}
