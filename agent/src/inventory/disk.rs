//! File systems on this machine's own disks, with their room.
//!
//! `sysinfo` looks at every mount but NFS, CIFS and automounts before one can choose. Behind FUSE, Ceph, Lustre
//! and the like may be a dead server, so it is asked on a thread of its own: its callers wait for a moment only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use sysinfo::{DiskRefreshKind, Disks};
use trainyard_proto::v1::Disk;

/// At most so many: a machine with more tells the first ones by mount point.
const DISKS_MAX: usize = 64;

/// How long a look may take. Local file systems answer in microseconds.
const DEADLINE: Duration = Duration::from_secs(2);

/// Held by the thread that looks: one that hangs stays the only one.
static LOOKING: Mutex<()> = Mutex::new(());

/// By mount point; empty if a mount hangs.
pub(super) fn look() -> Vec<Disk> {
    within(&LOOKING, DEADLINE, list).unwrap_or_else(|| {
        tracing::warn!("disks are left out of the inventory: a mounted file system does not answer");
        Vec::new()
    })
}

/// What `look` finds; `None` if it takes longer than `deadline`, or if an earlier one still hangs.
fn within<T: Send + 'static>(
    looking: &'static Mutex<()>,
    deadline: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (found, finds) = sync_channel(1);
    let thread = std::thread::Builder::new().name("disks".to_owned()).spawn(move || {
        let held = match looking.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let all = look();
        drop(held);
        // It fails if the caller has given up.
        found.send(all).ok();
    });
    thread.ok()?;
    finds.recv_timeout(deadline).ok()
}

fn list() -> Vec<Disk> {
    let room = DiskRefreshKind::nothing().with_storage();
    let Ok(disks) = Disks::new_with_refreshed_list_specifics(room) else { return Vec::new() };
    let mut devices = BTreeSet::new();
    let mut by_mount_point = BTreeMap::new();
    for disk in &disks {
        let (Some(device), Some(kind)) = (disk.name().to_str(), disk.file_system().to_str()) else {
            continue;
        };
        let Some(mount_point) = disk.mount_point().to_str() else { continue };
        let is_root = mount_point == "/";
        // Containers have single files mounted, as /etc/hosts.
        let counts = is_root || (is_local(device, kind) && disk.mount_point().is_dir());
        if !counts || disk.total_space() == 0 || !(devices.insert(device) || is_root) {
            continue;
        }
        let disk = Disk {
            mount_point: mount_point.to_owned(),
            total_bytes: disk.total_space(),
            available_bytes: disk.available_space(),
        };
        by_mount_point.insert(mount_point, disk);
    }
    by_mount_point.into_values().take(DISKS_MAX).collect()
}

/// Whether a file system lies on a device of this machine, and not in an image file.
fn is_local(device: &str, kind: &str) -> bool {
    device.starts_with("/dev/") && !device.starts_with("/dev/loop") && !kind.starts_with("fuse")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn only_devices_of_this_machine_count() {
        for (device, kind) in
            [("/dev/sda1", "ext4"), ("/dev/nvme0n1p2", "xfs"), ("/dev/mapper/data", "btrfs")]
        {
            assert!(is_local(device, kind), "{device}");
        }
        for (device, kind) in
            [("overlay", "overlay"), ("mon:/", "ceph"), ("/dev/loop0", "ext4"), ("/dev/fuse", "fuse.sshfs")]
        {
            assert!(!is_local(device, kind), "{device}");
        }
    }

    #[test]
    fn each_disk_is_mounted_and_has_the_room_that_the_kernel_says() {
        let disks = list();
        assert!(disks.iter().any(|disk| disk.mount_point == "/"), "{disks:?}");
        let points: BTreeSet<&str> = disks.iter().map(|disk| disk.mount_point.as_str()).collect();
        assert_eq!(points.len(), disks.len(), "{disks:?}");
        for disk in disks {
            // The total only: what is free changes all the time.
            let room = nix::sys::statvfs::statvfs(disk.mount_point.as_str()).unwrap();
            assert_eq!(disk.total_bytes, room.blocks() * room.fragment_size(), "{disk:?}");
            assert!(disk.available_bytes <= disk.total_bytes, "{disk:?}");
        }
    }

    #[test]
    fn a_mount_that_hangs_holds_up_nobody_and_takes_one_thread() {
        static ONE: Mutex<()> = Mutex::new(());
        let (enter, entered) = channel();
        let (release, released) = channel::<()>();
        let hanging = move || {
            enter.send(()).unwrap();
            released.recv().ok();
        };
        assert_eq!(within(&ONE, Duration::ZERO, hanging), None);
        entered.recv().unwrap();
        assert_eq!(within(&ONE, DEADLINE, || panic!("a second one looks")), None::<()>);
        drop(release);
        drop(ONE.lock().unwrap());
        assert_eq!(within(&ONE, DEADLINE, || 7), Some(7));
    }
}
