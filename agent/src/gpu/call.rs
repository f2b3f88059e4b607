//! Calls with a deadline into a thread that may hang: at most one call is under way, callers never stack.
//!
//! ```text
//! idle --begin--> busy --end--> idle
//!                 busy --a caller's deadline passes--> hangs --end--> idle (and `changes` grows)
//! ```
//! While it hangs, callers get `Hangs { since }` at once; requests whose caller has given up are dropped.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use trainyard_core::unit::{GpuUuid, WallMs};

use super::{GpuProblem, Health, Listing};

/// Requests that may wait while another is answered; more callers are told that NVML is busy.
pub(super) const QUEUE: usize = 16;

/// What a caller wants of the thread.
pub(super) struct Request<C> {
    /// When its caller gives up.
    pub(super) expires: Instant,
    pub(super) call: C,
}

/// What the thread and the callers both see; locked for moments only, never across a call.
pub(super) struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The call under way.
    busy: Option<Busy>,
    /// A caller has waited in vain for the call under way.
    hangs: bool,
    /// As NVML last told it; `problem` is that of the library as a whole.
    listing: Listing,
}

#[derive(Clone, Copy)]
struct Busy {
    call: &'static str,
    started: Instant,
    since: WallMs,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared { state: Mutex::default(), changes: watch::Sender::new(0) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The thread goes into NVML.
    pub(super) fn begin(&self, call: &'static str) {
        self.state().busy = Some(Busy { call, started: Instant::now(), since: wall_now() });
    }

    /// The thread is back.
    pub(super) fn end(&self) {
        let recovered = {
            let mut state = self.state();
            state.busy = None;
            std::mem::take(&mut state.hangs)
        };
        if recovered {
            tracing::info!("NVML answers again");
            self.changed();
        }
    }

    /// Replaces what is known; tells those who watch if it differs.
    pub(super) fn publish(&self, listing: Listing) {
        let differs = {
            let mut state = self.state();
            let differs = state.listing != listing;
            state.listing = listing;
            differs
        };
        if differs {
            self.changed();
        }
    }

    /// Nothing can be known now: what was known stays listed, but nothing may be placed on it.
    pub(super) fn fail(&self, problem: &GpuProblem) {
        let mut listing = self.state().listing.clone();
        make_unknown(&mut listing, problem);
        self.publish(listing);
    }

    /// The last listing, as it must be seen now: under a hang every unit has a fault.
    pub(super) fn listing(&self) -> Listing {
        let state = self.state();
        let mut listing = state.listing.clone();
        if let (true, Some(busy)) = (state.hangs, state.busy) {
            make_unknown(&mut listing, &busy.problem());
        }
        listing
    }

    pub(super) fn health(&self) -> Health {
        let listing = self.listing();
        let faults = listing.gpus.into_iter().filter_map(|unit| Some((unit.uuid, unit.fault?)));
        Health {
            problem: listing.problem,
            faults: faults.collect::<std::collections::BTreeMap<GpuUuid, String>>(),
        }
    }

    /// Asks the thread, and waits for at most `deadline`.
    pub(super) fn ask<C, T>(
        &self,
        requests: &SyncSender<Request<C>>,
        deadline: Duration,
        call: impl FnOnce(SyncSender<T>) -> C,
    ) -> Result<T, GpuProblem> {
        if let Some(problem) = self.hang(deadline) {
            return Err(problem);
        }
        let (answer, answers) = sync_channel(1);
        let request = Request { expires: Instant::now() + deadline, call: call(answer) };
        match requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(GpuProblem::NotReady(format!("{QUEUE} callers wait for it already")));
            }
            Err(TrySendError::Disconnected(_)) => {
                return Err(GpuProblem::NotReady("its thread has ended".to_owned()));
            }
        }
        match answers.recv_timeout(deadline) {
            Ok(answer) => Ok(answer),
            // The thread did not get to it: it hangs in another call, or the machine is overloaded.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(self.hang(Duration::ZERO).unwrap_or_else(|| {
                    GpuProblem::NotReady(format!("no answer within {} ms", deadline.as_millis()))
                }))
            }
        }
    }

    /// The call under way if it takes longer than `deadline`; it then counts as hanging.
    fn hang(&self, deadline: Duration) -> Option<GpuProblem> {
        let (problem, first) = {
            let mut state = self.state();
            let busy = state.busy?;
            if !state.hangs && busy.started.elapsed() < deadline {
                return None;
            }
            (busy.problem(), !std::mem::replace(&mut state.hangs, true))
        };
        if first {
            tracing::warn!("{problem}");
            self.changed();
        }
        Some(problem)
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot happen between two writes that belong together: the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    fn problem(self) -> GpuProblem {
        GpuProblem::Hangs { call: self.call, since: self.since }
    }
}

fn make_unknown(listing: &mut Listing, problem: &GpuProblem) {
    for unit in &mut listing.gpus {
        unit.fault.get_or_insert_with(|| format!("unknown: {problem}"));
    }
    listing.problem = Some(problem.clone());
}

/// The next request whose caller still waits; `Ok(None)` if none came in time.
///
/// # Errors
/// All callers are gone.
pub(super) fn next<C>(requests: &Receiver<Request<C>>, wait: Duration) -> Result<Option<Request<C>>, Gone> {
    loop {
        match requests.recv_timeout(wait) {
            Ok(request) if request.expires > Instant::now() => return Ok(Some(request)),
            Ok(_given_up) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(Gone),
        }
    }
}

/// Nobody can ask any more.
pub(super) struct Gone;

fn wall_now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
