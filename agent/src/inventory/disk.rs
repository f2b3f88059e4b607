//! File systems on this machine's own disks, with their room.
//!
//! Network and FUSE file systems are not looked at: a dead server would hold up the caller.

use std::collections::BTreeSet;

use trainyard_proto::v1::Disk;

/// At most so many: a machine with more tells the first ones by mount point.
const DISKS_MAX: usize = 64;

pub(super) fn look() -> Vec<Disk> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let disk = |mount_point: String| {
        let room = nix::sys::statvfs::statvfs(mount_point.as_str()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(room.fragment_size());
        Some(Disk {
            total_bytes: bytes(room.blocks()),
            available_bytes: bytes(room.blocks_available()),
            mount_point,
        })
    };
    mount_points(&mounts)
        .into_iter()
        .filter_map(disk)
        .filter(|disk| disk.total_bytes > 0)
        .take(DISKS_MAX)
        .collect()
}

/// Where each local device is mounted first, and `/` whatever it is; sorted.
fn mount_points(mounts: &str) -> BTreeSet<String> {
    let mut devices = BTreeSet::new();
    let mut points = BTreeSet::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let local =
            device.starts_with("/dev/") && !device.starts_with("/dev/loop") && !kind.starts_with("fuse");
        if point == "/" || (local && devices.insert(device)) {
            points.insert(unescape(point));
        }
    }
    points
}

/// The kernel writes blanks, tabs, newlines and backslashes as `\040` and so on. Source: proc(5), getmntent(3).
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code =
            tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn local_disks_once_each() {
        let mounts = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /data\\040one ext4 rw 0 0\n\
                      /dev/sda1 /again ext4 rw 0 0\nserver:/x /nfs nfs4 rw 0 0\n/dev/fuse /f fuse rw 0 0\n\
                      /dev/loop0 /snap squashfs ro 0 0\nbroken\n";
        let points: Vec<String> = mount_points(mounts).into_iter().collect();
        assert_eq!(points, ["/", "/data one"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(/dev/.* .* .*\n?|.*\n)*") {
            let _ = mount_points(&text);
        }

        #[test]
        fn plain_fields_stay_as_they_are(text in "[^\\\\]*") {
            prop_assert_eq!(unescape(&text), text);
        }
    }
}
