//! The sampling loop: one thread, asleep between rounds.
//!
//! While tasks run, a round each period (default 5 s); while none does, each third period, for nobody looks
//! and a node at rest should stay at rest. [`Sampler::wake`] starts a round at once: call it when a task
//! starts. Batches that the receiver has no room for are dropped and counted, never waited for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::error::TrySendError;
use trainyard_proto::v1::MetricBatch;

use super::{ALL, Context, Desc, Out, Probe, Tasks};
use crate::gpu::GpuHandle;

/// How often while tasks run, unless set otherwise.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Nothing asks more often than this, whatever is set.
pub const PERIOD_MIN: Duration = Duration::from_millis(100);
/// Without tasks a round is due after so many periods.
pub const IDLE_PERIODS: u32 = 3;

/// The sampler's own number.
pub const DROPPED: Desc = Desc::counter(
    "agent_metric_batches_dropped_total",
    "Rounds whose numbers were dropped, since the session could not take them.",
    &[],
);

/// What the sampler is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// While tasks run.
    pub period: Duration,
    /// The node's root folder, whose file system is watched.
    pub root: PathBuf,
}

/// Stops its thread when dropped.
pub struct Sampler {
    commands: Sender<Command>,
}

enum Command {
    Wake,
    Period(Duration),
    Stop,
}

impl Sampler {
    /// Starts the thread; the first round is at once. It ends when the receiver of `batches` is gone, too.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn spawn(
        config: Config,
        gpu: GpuHandle,
        tasks: Arc<dyn Tasks>,
        batches: tokio::sync::mpsc::Sender<MetricBatch>,
    ) -> std::io::Result<Sampler> {
        let (commands, receiver) = channel();
        let probes = ALL.iter().map(|source| (Instant::now(), (source.start)())).collect();
        let mut worker = Worker { config, gpu, tasks, batches, probes, dropped: 0 };
        std::thread::Builder::new().name("metrics".to_owned()).spawn(move || worker.run(&receiver))?;
        Ok(Sampler { commands })
    }

    /// Starts a round now, and counts the period from here.
    pub fn wake(&self) {
        self.send(Command::Wake);
    }

    /// Changes the period while tasks run, as the coordinator asks for it.
    pub fn set_period(&self, period: Duration) {
        self.send(Command::Period(period));
    }

    fn send(&self, command: Command) {
        // The thread has ended only if nobody takes batches any more: then there is nothing to do.
        drop(self.commands.send(command));
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.send(Command::Stop);
    }
}

struct Worker {
    config: Config,
    gpu: GpuHandle,
    tasks: Arc<dyn Tasks>,
    batches: tokio::sync::mpsc::Sender<MetricBatch>,
    /// Each with the time from which on it may be asked again.
    probes: Vec<(Instant, Box<dyn Probe>)>,
    dropped: u64,
}

impl Worker {
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let Ok(busy) = self.round() else { return };
            let mut due = Instant::now() + self.pause(busy);
            loop {
                match commands.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Ok(Command::Wake) | Err(RecvTimeoutError::Timeout) => break,
                    Ok(Command::Period(period)) => {
                        self.config.period = period;
                        due = due.min(Instant::now() + self.pause(busy));
                    }
                    Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn pause(&self, busy: bool) -> Duration {
        let period = self.config.period.max(PERIOD_MIN);
        if busy { period } else { period * IDLE_PERIODS }
    }

    /// Asks all probes and sends what they say; tells whether tasks run.
    fn round(&mut self) -> Result<bool, ReceiverGone> {
        let running = self.tasks.running();
        let context =
            Context { gpu: &*self.gpu, running: &running, tasks: &*self.tasks, root: &self.config.root };
        let mut out = Out::default();
        let now = Instant::now();
        for (due, probe) in &mut self.probes {
            if *due <= now {
                *due = now + probe.period();
                probe.sample(&context, &mut out);
            }
        }
        out.count(&DROPPED, &[], self.dropped);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        match self.batches.try_send(MetricBatch { at_ms, samples: out.samples }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.dropped += 1,
            Err(TrySendError::Closed(_)) => return Err(ReceiverGone),
        }
        Ok(!running.is_empty())
    }
}

struct ReceiverGone;

#[cfg(test)]
mod tests {
    use trainyard_core::id::{AttemptId, GangNo, JobId, Rank};

    use super::*;
    use crate::gpu::fake::Fake;
    use crate::metric::RunningTask;

    /// One task: this process.
    struct Own;

    impl Tasks for Own {
        fn running(&self) -> Vec<RunningTask> {
            let attempt = AttemptId { job: JobId(1), gang: GangNo(1), rank: Rank(0) };
            vec![RunningTask { attempt, pids: vec![std::process::id()], cgroups: Vec::new() }]
        }
    }

    fn start(room: usize, period: Duration) -> (Sampler, tokio::sync::mpsc::Receiver<MetricBatch>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(room);
        let config = Config { period, root: "/".into() };
        let sampler = Sampler::spawn(config, Arc::new(Fake::with_gpus(1)), Arc::new(Own), sender).unwrap();
        (sampler, receiver)
    }

    fn out(batch: MetricBatch) -> Out {
        Out { samples: batch.samples }
    }

    #[test]
    fn a_round_has_numbers_of_host_gpu_and_task() {
        let (sampler, mut batches) = start(4, Duration::from_secs(3600));
        let first = batches.blocking_recv().unwrap();
        assert!(first.at_ms > 0);
        let first = out(first);
        for (name, labels) in [
            ("host_memory_total_bytes", &[][..]),
            ("host_filesystem_total_bytes", &[("path", "/")]),
            ("gpu_nvml_up", &[]),
            ("task_threads", &[("task", "1.1.0")]),
            ("task_memory_resident_bytes", &[("task", "1.1.0")]),
        ] {
            assert!(first.value(name, labels).is_some_and(|value| value > 0.0), "{name}");
        }
        // A ratio needs two rounds; the second comes when asked for, an hour too early.
        assert_eq!(first.value("host_cpu_utilization_ratio", &[]), None);
        sampler.wake();
        let second = out(batches.blocking_recv().unwrap());
        assert_eq!(second.value("agent_metric_batches_dropped_total", &[]), Some(0.0));
        // Its own period is not over.
        assert_eq!(second.value("host_filesystem_total_bytes", &[("path", "/")]), None);
    }

    #[test]
    fn the_period_can_be_changed_while_it_sleeps() {
        let (sampler, mut batches) = start(4, Duration::from_secs(3600));
        assert!(batches.blocking_recv().is_some());
        sampler.set_period(Duration::ZERO);
        assert!(batches.blocking_recv().is_some());
        assert!(batches.blocking_recv().is_some());
    }

    #[test]
    fn rounds_that_nobody_takes_are_counted() {
        let (batches, mut receiver) = tokio::sync::mpsc::channel(1);
        let config = Config { period: PERIOD, root: "/".into() };
        let gpu: GpuHandle = Arc::new(Fake::absent());
        let mut worker =
            Worker { config, gpu, tasks: Arc::new(Own), batches, probes: Vec::new(), dropped: 0 };
        for _ in 0..3 {
            assert!(matches!(worker.round(), Ok(true)));
        }
        assert_eq!(out(receiver.try_recv().unwrap()).value(DROPPED.name, &[]), Some(0.0));
        assert!(worker.round().is_ok());
        assert_eq!(out(receiver.try_recv().unwrap()).value(DROPPED.name, &[]), Some(2.0));
        drop(receiver);
        assert!(worker.round().is_err());
    }

    #[test]
    fn it_ends_with_its_handle() {
        let (sampler, mut batches) = start(4, Duration::from_secs(3600));
        assert!(batches.blocking_recv().is_some());
        drop(sampler);
        while batches.blocking_recv().is_some() {}
    }
}
