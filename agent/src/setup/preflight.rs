//! Checks of a node before a start, if the job asks for them: GPUs, directories, peers.
//!
//! Each check has a deadline and a verdict in the execution log. What hangs (a dead mount) keeps a thread
//! of its own, and the verdict does not wait for it.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use trainyard_core::plan::Preflight;
use trainyard_core::unit::GpuUuid;

use crate::gpu::{Gpu, GpuHandle};
use crate::spool::Notes;

/// Peers that are tried at one time.
const PEERS_AT_ONCE: usize = 32;

/// Does all checks; what made the node unfit.
pub(super) fn check(wanted: &Preflight, gpu: Option<&GpuHandle>, notes: &Notes) -> Result<(), String> {
    let timeout = Duration::from_millis(wanted.timeout_ms);
    let verdict = gpus(&wanted.gpus, gpu)
        .and_then(|()| directories(&wanted.directories, timeout))
        .and_then(|()| peers(&wanted.peers, timeout));
    match &verdict {
        Ok(()) => notes.write(&format!(
            "preflight: fit: {} GPUs healthy, {} directories readable, {} peer ports reachable",
            wanted.gpus.len(),
            wanted.directories.len(),
            wanted.peers.len()
        )),
        Err(unfit) => notes.write(&format!("preflight: unfit: {unfit}")),
    }
    verdict
}

fn gpus(wanted: &[GpuUuid], gpu: Option<&GpuHandle>) -> Result<(), String> {
    if wanted.is_empty() {
        return Ok(());
    }
    let gpu: &dyn Gpu = gpu.ok_or("this agent has no GPUs")?.as_ref();
    let listing = gpu.list();
    if let Some(problem) = listing.problem {
        return Err(problem.to_string());
    }
    let readings = gpu.sample().map_err(|problem| problem.to_string())?;
    for uuid in wanted {
        let unit = listing.gpus.iter().find(|unit| unit.uuid == *uuid);
        let unit = unit.ok_or_else(|| format!("GPU {uuid} is not there"))?;
        if let Some(fault) = &unit.fault {
            return Err(format!("GPU {uuid}: {fault}"));
        }
        let reading = readings.iter().find(|reading| reading.uuid == *uuid);
        let errors = reading.and_then(|reading| reading.ecc_uncorrected).unwrap_or(0);
        if errors > 0 {
            return Err(format!("GPU {uuid}: {errors} uncorrected ECC errors since the driver was loaded"));
        }
    }
    Ok(())
}

fn directories(wanted: &[String], timeout: Duration) -> Result<(), String> {
    for path in wanted {
        let (answer, answered) = mpsc::channel();
        let folder = PathBuf::from(path);
        let look = move || {
            let read = std::fs::read_dir(folder).and_then(|mut entries| entries.next().transpose());
            // Nobody waits any more if it took too long.
            answer.send(read.map(drop)).unwrap_or_default();
        };
        let thread = std::thread::Builder::new().name("preflight".to_owned()).spawn(look);
        thread.map_err(|error| format!("no thread can be started: {error}"))?;
        match answered.recv_timeout(timeout) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("{path} cannot be read: {error}")),
            Err(_) => return Err(format!("{path} does not answer within {} ms", timeout.as_millis())),
        }
    }
    Ok(())
}

/// A refused connection is an answer too: before the start nothing listens there.
fn peers(wanted: &[String], timeout: Duration) -> Result<(), String> {
    for some in wanted.chunks(PEERS_AT_ONCE) {
        let failed = std::thread::scope(|scope| {
            let tries: Vec<_> =
                some.iter().map(|peer| (peer, scope.spawn(|| reach(peer, timeout)))).collect();
            let mut failed = None;
            for (peer, tried) in tries {
                // A panic of a thread is one of this one.
                if let Err(error) = tried.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                    failed = failed.or(Some(format!("{peer} cannot be reached: {error}")));
                }
            }
            failed
        });
        if let Some(failed) = failed {
            return Err(failed);
        }
    }
    Ok(())
}

fn reach(peer: &str, timeout: Duration) -> io::Result<()> {
    let address = peer.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    match TcpStream::connect_timeout(&address, timeout) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::gpu::Reading;
    use crate::gpu::fake::Fake;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn gpus_must_be_there_and_without_errors() {
        let fake = Arc::new(Fake::with_gpus(2));
        let handle: GpuHandle = fake.clone();
        let all = ["GPU-fake-0", "GPU-fake-1"].map(|uuid| GpuUuid(uuid.to_owned()));
        assert_eq!(gpus(&all, Some(&handle)), Ok(()));
        assert_eq!(gpus(&[], None), Ok(()));
        let absent = gpus(&[GpuUuid("GPU-other".to_owned())], Some(&handle));
        assert_eq!(absent, Err("GPU GPU-other is not there".to_owned()));
        let bad = Reading { ecc_uncorrected: Some(3), ..Reading::new(all[1].clone()) };
        fake.set_readings(vec![bad]);
        assert!(gpus(&all, Some(&handle)).is_err_and(|why| why.contains("3 uncorrected ECC errors")));
        fake.set_readings(vec![]);
        fake.set_fault("GPU-fake-0", "Xid 79: gone");
        assert_eq!(gpus(&all, Some(&handle)), Err("GPU GPU-fake-0: Xid 79: gone".to_owned()));
    }

    #[test]
    fn directories_must_be_readable() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().to_str().unwrap().to_owned();
        assert_eq!(directories(std::slice::from_ref(&path), PATIENCE), Ok(()));
        let missing = format!("{path}/missing");
        assert!(directories(&[missing], PATIENCE).is_err_and(|why| why.contains("cannot be read")));
    }

    #[test]
    fn a_port_where_nothing_listens_is_reachable_and_a_name_without_an_address_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().to_string();
        assert_eq!(peers(std::slice::from_ref(&open), PATIENCE), Ok(()));
        drop(listener);
        assert_eq!(peers(&[open], PATIENCE), Ok(()));
        let unknown = peers(&["no-such-host.invalid:2222".to_owned()], PATIENCE);
        assert!(unknown.is_err_and(|why| why.contains("cannot be reached")));
    }
}
