//! What a task finds when it starts, and what happens when it cannot.

use std::error::Error as _;
use std::fs;

use trainyard_agent::supervisor::{Adopted, LaunchError, ShimEvent};
use trainyard_core::shim::{Cause, Credentials, Step};
use trainyard_core::unit::Exit;

use crate::yard::{Yard, modes};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_its_environment_folder_and_output_and_nothing_else() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        let script = "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort; pwd; umask; echo err >&2; \
             ls /proc/$$/fd; cut -d' ' -f1,5,6,7 /proc/$$/stat; \
             grep -e SigBlk -e SigIgn /proc/self/status; readlink /proc/$$/fd/0; echo $$; exit 7";
        let (attempt, started) = yard.run(script).await;
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause, record.leftovers), (Exit::Code(7), Cause::Itself, 0));
        assert_eq!((record.pid, record.started), (started.pid, started.at));
        assert!(record.ended >= record.started);
        let (dir, pid) = (yard.dir(), started.pid);
        let expected = format!(
            "D={0}\nPATH=/usr/bin:/bin\n{0}\n0027\n0\n1\n2\n{pid} {pid} {pid} 0\n\
             SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n/dev/null\n{pid}\n",
            dir.display()
        );
        assert_eq!(yard.stdout(attempt), expected);
        assert_eq!(fs::read_to_string(dir.join(format!("{attempt}.err"))).unwrap(), "err\n");
        assert_eq!(yard.events(), [ShimEvent::Started { attempt, started }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_appended_and_a_link_is_not_followed() {
    let mut yard = Yard::new(modes()[0]);
    let mut launch = yard.script("echo two");
    fs::write(yard.dir().join(format!("{}.out", launch.attempt)), "one\n").unwrap();
    let attempt = launch.attempt;
    yard.launch(launch).await.unwrap();
    yard.ended(attempt).await;
    assert_eq!(yard.stdout(attempt), "one\ntwo\n");

    launch = yard.script("echo evil");
    let (link, victim) = (yard.dir().join(format!("{}.out", launch.attempt)), yard.dir().join("victim"));
    fs::write(&victim, "").unwrap();
    std::os::unix::fs::symlink(&victim, link).unwrap();
    let error = yard.launch(launch).await.unwrap_err();
    assert!(matches!(error, LaunchError::Refused { step: Step::Spool, .. }), "{error:?}");
    assert_eq!(fs::read_to_string(victim).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_or_folder_is_said_and_nothing_is_left() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        let mut launch = yard.script("");
        launch.argv[0] = b"/no/such/program".to_vec();
        let again = launch.clone();
        let error = yard.launch(launch).await.unwrap_err();
        assert_eq!(
            error.in_words(),
            "cannot execute the program /no/such/program: No such file or directory (os error 2)"
        );
        assert!(error.source().is_some());
        let attempt = again.attempt;
        let error = yard.launch(again).await.unwrap_err();
        assert!(matches!(error, LaunchError::AlreadyLaunched(a) if a == attempt), "{error:?}");

        let mut launch = yard.script("");
        launch.cwd = b"/no/such/folder".to_vec();
        let error = yard.launch(launch).await.unwrap_err();
        assert!(
            error.in_words().starts_with("cannot enter its working directory /no/such/folder: "),
            "{error:?}"
        );

        assert!(yard.supervisor.processes(attempt).is_empty());
        assert_eq!(yard.events(), [], "a launch that failed has no events");
        yard.restart();
        assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::NeverStarted);
        yard.supervisor.forget(attempt).await.unwrap();
        assert!(!yard.supervisor.list().unwrap().contains(&attempt));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_after_its_own_fence_starts_nothing() {
    let yard = Yard::new(modes()[0]);
    let mut launch = yard.script("touch $D/ran");
    launch.deadline = Some(trainyard_core::shim::BootMs(1));
    let error = yard.launch(launch).await.unwrap_err();
    assert!(matches!(error, LaunchError::Refused { step: Step::Fence, .. }), "{error:?}");
    assert!(!yard.dir().join("ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_of_64_starts_and_ends_together() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("start");
        let launches: Vec<_> =
            (0..64).map(|rank| yard.script(&format!("echo {rank}; exit {rank}"))).collect();
        let attempts: Vec<_> = launches.iter().map(|launch| launch.attempt).collect();
        let started =
            futures_util::future::join_all(launches.into_iter().map(|launch| yard.launch(launch))).await;
        assert!(started.iter().all(Result::is_ok), "{started:?}");
        for (rank, attempt) in attempts.iter().enumerate() {
            let record = yard.ended(*attempt).await;
            assert_eq!(record.exit, Exit::Code(i32::try_from(rank).unwrap()));
            assert_eq!(yard.stdout(*attempt), format!("{rank}\n"));
        }
        assert_eq!(yard.supervisor.list().unwrap().len(), 64);
        for attempt in attempts {
            let groups = yard.supervisor.cgroup_paths(attempt);
            yard.supervisor.forget(attempt).await.unwrap();
            assert!(groups.dirs().all(|dir| !dir.exists()), "{groups:?}");
        }
        assert_eq!(yard.supervisor.list().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_the_task_only() {
    let mut yard = Yard::new(modes()[0]);
    yard.pipe("ready");
    yard.pipe("end");
    let canary = format!("c4n4ry-{}", std::process::id());
    let mut launch = yard.script("echo $SECRET > $D/ready; read x < $D/end");
    launch.env.push((b"SECRET".to_vec(), canary.clone().into_bytes()));
    let attempt = launch.attempt;
    let started = yard.launch(launch).await.unwrap();
    assert_eq!(yard.hear("ready").await, canary);
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{file}", started.shim_pid)).unwrap();
        assert!(!contains(&text, canary.as_bytes()), "in the shim's {file}");
    }
    match memory(started.shim_pid) {
        Ok(memory) => {
            assert!(contains(&memory, b"trainyard"), "the shim's memory can be read");
            assert!(!contains(&memory, canary.as_bytes()), "in the shim's memory");
        }
        Err(error) => eprintln!("SKIPPED: the shim's memory cannot be read: {error}"),
    }
    yard.say("end").await;
    yard.ended(attempt).await;
    for entry in fs::read_dir(yard.supervisor.exit_record_path(attempt).parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read(&path).unwrap_or_default();
        assert!(!contains(&text, canary.as_bytes()), "in {}", path.display());
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Everything that a process has in memory and may write.
fn memory(pid: u32) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut all = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut words = line.split(' ');
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        if rights.starts_with("rw") {
            let mut part = vec![0; usize::try_from(to - from).unwrap()];
            file.read_exact_at(&mut part, from)?;
            all.extend(part);
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_dropped_for_good() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can become another user");
    }
    for mode in modes() {
        let mut yard = Yard::new(mode);
        let script =
            "id -ru; id -u; id -rg; id -g; id -G; grep -e NoNewPrivs -e CapEff -e CapPrm /proc/self/status";
        let mut launch = yard.script(script);
        // Its own folder: the others' is closed to it.
        launch.cwd = b"/".to_vec();
        launch.credentials =
            Some(Credentials { uid: 65534, gid: 65533, groups: vec![65533, 4242], no_new_privileges: true });
        let attempt = launch.attempt;
        yard.launch(launch).await.unwrap();
        assert_eq!(yard.ended(attempt).await.exit, Exit::Code(0));
        assert_eq!(
            yard.stdout(attempt),
            "65534\n65534\n65533\n65533\n65533 4242\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
        );

        // A folder of root's: entered with the task's rights, so it is refused.
        let mut launch = yard.script("true");
        let closed = yard.dir().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        launch.cwd = closed.into_os_string().into_encoded_bytes();
        launch.credentials =
            Some(Credentials { uid: 65534, gid: 65534, groups: Vec::new(), no_new_privileges: false });
        let error = yard.launch(launch).await.unwrap_err();
        assert!(matches!(error, LaunchError::Refused { step: Step::Directory, .. }), "{error:?}");
    }
}
