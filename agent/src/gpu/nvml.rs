//! The GPUs that NVIDIA's driver shows. One thread owns NVML and is the only one that ever calls it.
//!
//! The library is loaded at run time, from the usual name or from a path (tests load a fake one). Without
//! it the node joins without GPUs; a driver that is not ready yet is tried again. Between requests the
//! thread looks for events (Xid, ECC). It never decides what follows from a fault.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nvml_wrapper::error::NvmlError;
use tokio::sync::watch;

use super::call::{Gone, QUEUE, Request, Shared, next};
use super::read::{Lost, Session};
use super::{Gpu, GpuProblem, Health, Listing, Reading};

/// Where NVML is, and how long it may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// The library; `None`: `libnvidia-ml.so.1` by the loader's search.
    pub library: Option<PathBuf>,
    /// How long a caller waits for one answer. Default 5 s.
    pub deadline: Duration,
    /// How long after a failed start the next one is tried, at the earliest. Default 30 s.
    pub retry: Duration,
    /// How often events are looked for between requests. Default 5 s.
    pub events: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            library: None,
            deadline: Duration::from_secs(5),
            retry: Duration::from_secs(30),
            events: Duration::from_secs(5),
        }
    }
}

/// GPUs by NVML.
pub struct NvmlGpu {
    requests: SyncSender<Request<Call>>,
    shared: Arc<Shared>,
    deadline: Duration,
}

enum Call {
    List(SyncSender<Listing>),
    Sample(SyncSender<Result<Vec<Reading>, GpuProblem>>),
}

impl NvmlGpu {
    /// Starts the thread, which at once loads the library. The thread ends after the last handle is gone;
    /// one that hangs in the driver ends with the process.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(options: Options) -> std::io::Result<NvmlGpu> {
        let (requests, receiver) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::new());
        let deadline = options.deadline;
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("nvml".to_owned()).spawn(move || {
            let Err(Gone) = run(&receiver, &options, &theirs);
        })?;
        Ok(NvmlGpu { requests, shared, deadline })
    }
}

impl Gpu for NvmlGpu {
    fn list(&self) -> Listing {
        match self.shared.ask(&self.requests, self.deadline, Call::List) {
            Ok(listing) => listing,
            Err(problem) => {
                let mut listing = self.shared.listing();
                listing.problem.get_or_insert(problem);
                listing
            }
        }
    }

    fn sample(&self) -> Result<Vec<Reading>, GpuProblem> {
        self.shared.ask(&self.requests, self.deadline, Call::Sample)?
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }
}

enum Never {}

fn run(requests: &Receiver<Request<Call>>, options: &Options, shared: &Shared) -> Result<Never, Gone> {
    loop {
        shared.begin("init");
        let loaded = load(options);
        let problem = match loaded {
            Ok(library) => {
                let mut session = Session::new(&library);
                let listed = session.list();
                match listed {
                    Ok(()) => {
                        shared.publish(session.listing());
                        shared.end();
                        serve(&mut session, requests, options, shared)?
                    }
                    Err(lost) => lost.into(),
                }
            }
            Err(problem) => problem,
        };
        shared.fail(&problem);
        shared.end();
        refuse(&problem, requests, options.retry, shared)?;
    }
}

fn load(options: &Options) -> Result<nvml_wrapper::Nvml, GpuProblem> {
    let path: Option<OsString> = options.library.as_ref().map(|path| path.clone().into_os_string());
    let mut builder = nvml_wrapper::Nvml::builder();
    if let Some(path) = &path {
        builder.lib_path(path);
    }
    builder.init().map_err(|error| match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => GpuProblem::Absent(chain(&error)),
        other => GpuProblem::NotReady(chain(&other)),
    })
}

/// Answers with this problem until it is time to try again and somebody asks.
fn refuse(
    problem: &GpuProblem,
    requests: &Receiver<Request<Call>>,
    retry: Duration,
    shared: &Shared,
) -> Result<(), Gone> {
    let again = Instant::now() + retry;
    loop {
        let Some(request) = next(requests, Duration::from_secs(3600))? else { continue };
        // A caller that has given up has dropped its end: nothing is lost.
        match request.call {
            Call::List(answer) => drop(answer.try_send(shared.listing())),
            Call::Sample(answer) => drop(answer.try_send(Err(problem.clone()))),
        }
        if Instant::now() >= again {
            return Ok(());
        }
    }
}

/// Answers until NVML has to be started anew; says why.
fn serve(
    session: &mut Session<'_>,
    requests: &Receiver<Request<Call>>,
    options: &Options,
    shared: &Shared,
) -> Result<GpuProblem, Gone> {
    loop {
        let request = next(requests, options.events)?;
        shared.begin(match &request {
            None => "events",
            Some(Request { call: Call::List(_), .. }) => "list",
            Some(Request { call: Call::Sample(_), .. }) => "sample",
        });
        session.drain_events();
        // Settled before the answer: who has it and asks again must not find this call under way.
        let settle = |session: &Session<'_>, failed: Option<&GpuProblem>| {
            match failed {
                None => shared.publish(session.listing()),
                Some(problem) => shared.fail(problem),
            }
            shared.end();
        };
        let failed = match request.map(|request| request.call) {
            None => {
                settle(session, None);
                None
            }
            Some(Call::List(answer)) => {
                let failed = session.list().err().map(GpuProblem::from);
                settle(session, failed.as_ref());
                drop(answer.try_send(shared.listing()));
                failed
            }
            Some(Call::Sample(answer)) => {
                let readings = session.sample().map_err(GpuProblem::from);
                let failed = readings.as_ref().err().cloned();
                settle(session, failed.as_ref());
                drop(answer.try_send(readings));
                failed
            }
        };
        if let Some(problem) = failed {
            return Ok(problem);
        }
    }
}

impl From<Lost> for GpuProblem {
    fn from(lost: Lost) -> GpuProblem {
        GpuProblem::NotReady(chain(&lost.0))
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
