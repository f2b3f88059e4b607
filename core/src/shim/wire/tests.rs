//! Every message reads back; nothing else does, and nothing panics.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::shim::record::tests::any_record;

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    vec(1u8..=255, 0..20)
}

prop_compose! {
    fn any_credentials()(
        (uid, gid, no_new_privileges) in any::<(u32, u32, bool)>(),
        groups in vec(any::<u32>(), 0..5),
    ) -> Credentials {
        Credentials { uid, gid, groups, no_new_privileges }
    }
}

prop_compose! {
    fn any_launch()(
        (job, gang, rank, umask) in any::<(u64, u32, u32, u32)>(),
        argv in vec(any_text(), 1..5),
        env in vec((any_text(), any_text()), 0..5),
        (cwd, stdout, stderr) in (any_text(), any_text(), any_text()),
        credentials in proptest::option::of(any_credentials()),
        deadline in any::<Option<u64>>(),
    ) -> Launch {
        Launch {
            attempt: AttemptId { job: JobId(job), gang: GangNo(gang), rank: Rank(rank) },
            argv, env, cwd, stdout, stderr, credentials, deadline: deadline.map(BootMs), umask,
        }
    }
}

fn any_cgroups() -> impl Strategy<Value = Cgroups> {
    (proptest::option::of(any_text()), vec(any_text(), 0..4)).prop_map(|(v2, v1)| Cgroups { v2, v1 })
}

fn any_to_shim() -> impl Strategy<Value = ToShim> {
    prop_oneof![
        (any_launch(), any_cgroups()).prop_map(|(launch, cgroups)| ToShim::Launch(Box::new(launch), cgroups)),
        any::<Option<u64>>().prop_map(|deadline| ToShim::Renew(deadline.map(BootMs))),
        any::<u64>().prop_map(|grace_ms| ToShim::Stop { grace_ms }),
        Just(ToShim::Status),
    ]
}

prop_compose! {
    fn any_started()((pid, ticks, at, shim_pid) in any::<(u32, u64, i64, u32)>()) -> Started {
        Started { pid, start_time_ticks: ticks, at: WallMs(at), shim_pid }
    }
}

fn any_from_shim() -> impl Strategy<Value = FromShim> {
    let step = (0..Step::ALL.len()).prop_map(|index| Step::ALL[index]);
    prop_oneof![
        any_started().prop_map(FromShim::Started),
        (step, any::<i32>()).prop_map(|(step, errno)| FromShim::Failed(Failed { step, errno })),
        any_started().prop_map(FromShim::Running),
        Just(FromShim::Unkillable),
        any_record().prop_map(FromShim::Exited),
    ]
}

/// Sends `bytes` through [`Frames`] in pieces of `piece` bytes.
fn frames(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut frames = Frames::default();
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        frames.push(piece);
        while let Some(frame) = frames.next_frame().expect("no frame is too long") {
            out.push(frame);
        }
    }
    out
}

proptest! {
    #[test]
    fn messages_read_back_in_any_pieces(
        down in vec(any_to_shim(), 1..4), up in any_from_shim(), piece in 1usize..64,
    ) {
        let bytes: Vec<u8> = down.iter().flat_map(ToShim::encode).collect();
        let read: Result<Vec<_>, _> = frames(&bytes, piece).iter().map(|f| ToShim::decode(f)).collect();
        prop_assert_eq!(read, Ok(down));
        let read = frames(&up.encode(), piece);
        prop_assert_eq!(FromShim::decode(&read[0]), Ok(up));
    }

    #[test]
    fn the_start_marker_reads_back_whole_or_not_at_all(
        started in any_started(), at in any::<prop::sample::Index>(),
    ) {
        let text = started.to_string();
        prop_assert_eq!(Started::parse(&text), Some(started));
        prop_assert_eq!(Started::parse(&text[..at.index(text.len())]), None);
    }

    #[test]
    fn a_cut_or_longer_message_is_refused(message in any_to_shim(), at in any::<prop::sample::Index>()) {
        let frame = message.encode().split_off(4);
        prop_assert!(ToShim::decode(&frame[..at.index(frame.len())]).is_err());
        let mut longer = frame;
        longer.push(0);
        prop_assert!(ToShim::decode(&longer).is_err());
    }

    #[test]
    fn garbage_does_not_panic(mut bytes in vec(any::<u8>(), 0..200), kind in prop_oneof![1u8..6, 129u8..135]) {
        let mut frames = Frames::default();
        frames.push(&bytes);
        while let Ok(Some(_)) = frames.next_frame() {}
        bytes.splice(0..bytes.len().min(2), [VERSION, kind]);
        // Some garbage is a message by chance; then it has to be the one that encodes to these bytes.
        if let Ok(message) = ToShim::decode(&bytes) {
            prop_assert_eq!(&message.encode()[4..], &bytes[..]);
        }
        if let Ok(FromShim::Started(started)) = FromShim::decode(&bytes) {
            prop_assert_eq!(&FromShim::Started(started).encode()[4..], &bytes[..]);
        }
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
    let mut frames = Frames::default();
    frames.push(&u32::MAX.to_le_bytes());
    assert_eq!(frames.next_frame(), Err(WireError::TooLong));
}

#[test]
fn text_for_the_kernel_holds_no_nul_and_argv_is_not_empty() {
    let mut launch = Launch {
        attempt: AttemptId { job: JobId(1), gang: GangNo(1), rank: Rank(0) },
        argv: vec![b"/bin/true".to_vec()],
        env: vec![(b"A".to_vec(), b"b\0c".to_vec())],
        cwd: b"/".to_vec(),
        stdout: b"/o".to_vec(),
        stderr: b"/e".to_vec(),
        credentials: None,
        deadline: None,
        umask: 0o22,
    };
    let decode = |launch: &Launch| {
        ToShim::decode(&ToShim::Launch(Box::new(launch.clone()), Cgroups::default()).encode().split_off(4))
    };
    assert_eq!(decode(&launch), Err(WireError::Value("env")));
    launch.env.clear();
    assert!(decode(&launch).is_ok());
    launch.argv.clear();
    assert_eq!(decode(&launch), Err(WireError::Value("argv")));
}

#[test]
fn a_launch_shows_no_variable() {
    let secret = "c4n4ry";
    let launch = Launch {
        attempt: AttemptId { job: JobId(1), gang: GangNo(1), rank: Rank(0) },
        argv: vec![b"/bin/true".to_vec()],
        env: vec![(b"PASSWORD".to_vec(), secret.as_bytes().to_vec())],
        cwd: Vec::new(),
        stdout: Vec::new(),
        stderr: Vec::new(),
        credentials: None,
        deadline: None,
        umask: 0,
    };
    let shown = format!("{launch:?}");
    assert!(!shown.contains(secret) && !shown.contains(&format!("{:?}", secret.as_bytes())), "{shown}");
    assert_eq!(shown, "Launch { attempt: AttemptId { job: JobId(1), gang: GangNo(1), rank: Rank(0) }, .. }");
}

#[test]
fn every_step_has_its_own_number() {
    for step in Step::ALL {
        assert_eq!(Step::from_code(step.code()), Some(*step));
    }
    assert_eq!(Step::from_code(0), None);
}
