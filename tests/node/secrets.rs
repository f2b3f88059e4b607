//! A secret reaches the environment of its task, and nothing else that can be read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use trainyard_tests::{Rest, Sandbox, Up, custom, processes, until, with};

const CANARY: &str = "canary-5up3r-53cr3t-in-no-output";

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

fn files_with_it(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_with_it(&entry.path(), found),
            Ok(kind) if kind.is_file() && holds(&fs::read(entry.path()).unwrap_or_default()) => {
                found.push(entry.path())
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn a_secret_is_in_its_tasks_environment_and_nowhere_else() {
    let sandbox = Sandbox::new();
    let up = Up::start_with(&sandbox, 1, &[], &[("TRAINYARD_LOG", "trace")]);
    let audit = sandbox.text("audit");
    let line = format!(
        "printf %s \"$PASSWORD\" | cksum > {audit}/sum; echo $$ > {audit}/pid\n\
         until test -e {audit}/go; do sleep 0.02; done; exit 3"
    );
    let more = json!({
        "secrets": [{ "name": "PASSWORD", "value": CANARY }],
        "jobPreparation": { "commandLine": format!("printf %s \"$PASSWORD\" | cksum > {audit}/prepared") },
        "retries": 1,
    });
    let text = sandbox.job("job", with(custom(&line), &more));
    drop(sandbox.run(["job", "submit", &text, "-n", "secret"]).expect(0));
    // The only file that may hold it is the user's own.
    fs::remove_file(&text).expect("the job file");
    let rest = up.rest(&sandbox);
    let job = rest.until_running("secret");
    let pid = until("the task says its number", || sandbox.read("audit/pid").trim().parse::<i32>().ok());
    let sum = "2785103806 32\n";
    assert_eq!(sandbox.read("audit/sum").len(), sum.len(), "cksum tells a sum and the length");
    assert!(
        sandbox.read("audit/sum").trim_end().ends_with(&format!(" {}", CANARY.len())),
        "it is in the environment"
    );
    assert_eq!(sandbox.read("audit/prepared"), sandbox.read("audit/sum"), "and in that of the preparation");
    assert!(!holds(job.to_string().as_bytes()));

    for process in processes() {
        assert!(!holds(&process.arguments), "in the arguments of {} {}", process.pid, process.name);
        let ours = process.pid == pid || process.parent == pid;
        assert!(
            ours || !holds(&process.environment),
            "in the environment of {} {}",
            process.pid,
            process.name
        );
    }
    let root = sandbox.text("state/up/nodes/0/LS_root");
    let outputs = |when: &str| {
        for arguments in [
            "job show secret",
            "job list",
            "job env secret master",
            "job plan secret",
            "job explain secret",
            "job logs secret",
            "job logs secret --stderr",
            "job logs secret --file execution.log",
            "node list",
            "node show node-0",
            "agent tasks",
            "agent env master",
            "agent status",
            "agent logs master",
        ] {
            for form in ["table", "json", "yaml"] {
                let mut words: Vec<&str> = arguments.split(' ').chain(["-o", form]).collect();
                if words[0] == "agent" {
                    words.extend(["--root", &root]);
                }
                let said = sandbox.run(&words);
                assert!(!holds(format!("{said:?}").as_bytes()), "{when}: trainyard {}", words.join(" "));
            }
        }
        for path in [
            Rest::job_path("secret"),
            Rest::extra_path("secret", "plan"),
            Rest::extra_path("secret", "explain"),
        ] {
            let (status, body) = rest.try_get(&path).expect("an answer");
            assert!(status == 200 && !holds(&body), "{when}: {path}");
        }
        assert!(!holds(up_log(&sandbox).as_bytes()), "{when}: in the log");
    };
    outputs("while it runs");
    let database = sandbox.path("state/up/coordinator/trainyard.db");
    assert_eq!(tables_with_it(&database), ["job_secrets"]);
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    let ended = rest.until_ended("secret");
    assert_eq!(ended["properties"]["trainyard"]["retriesUsed"], 1, "the retry got it as well: {ended:#}");
    assert_eq!(sandbox.read("audit/prepared"), sandbox.read("audit/sum"));
    outputs("after its end");
    let events = rest.events_until(0, |event| event["kind"] == "jobEnded");
    assert!(events.iter().all(|event| !holds(event.to_string().as_bytes())));

    let mut found = Vec::new();
    files_with_it(&sandbox.path(""), &mut found);
    let names: BTreeSet<&Path> = found.iter().map(PathBuf::as_path).collect();
    let write_ahead = sandbox.path("state/up/coordinator/trainyard.db-wal");
    let allowed = BTreeSet::from([database.as_path(), write_ahead.as_path()]);
    assert!(names.is_subset(&allowed), "{found:?}");
    assert_eq!(tables_with_it(&database), [""; 0], "an ended job's secret is gone");

    drop(sandbox.run(["job", "delete", "secret"]).expect(0));
    assert_eq!(tables_with_it(&database), [""; 0], "a deleted job's secret is gone");
}

fn up_log(sandbox: &Sandbox) -> String {
    sandbox.read("up.stdout") + &sandbox.read("up.stderr")
}

/// The tables of a database in which a text holds the canary.
fn tables_with_it(database: &Path) -> Vec<String> {
    let database = rusqlite::Connection::open(database).expect("the database");
    let names = |sql: &str| {
        let mut statement = database.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
        rows.map(|name| name.expect("a name")).collect::<Vec<String>>()
    };
    let mut found = names("SELECT name FROM sqlite_schema WHERE type = 'table'");
    found.retain(|table| {
        let columns = names(&format!("SELECT name FROM pragma_table_info('{table}')"));
        columns.iter().any(|column| {
            let sql =
                format!("SELECT count(*) FROM \"{table}\" WHERE instr(CAST(\"{column}\" AS TEXT), ?1) > 0");
            database.query_row(&sql, [CANARY], |row| row.get::<_, i64>(0)).expect("a count") > 0
        })
    });
    found.sort();
    found
}

#[test]
fn an_error_about_a_secret_does_not_quote_it() {
    let sandbox = Sandbox::new();
    for (name, secrets) in [
        ("twice", json!([{ "name": "A", "value": CANARY }, { "name": "A", "value": CANARY }])),
        ("nul", json!([{ "name": "A", "value": format!("{CANARY}\u{0}") }])),
        ("list", json!([{ "name": "A", "value": [CANARY] }])),
        ("both", json!([{ "name": "A", "value": CANARY, "valueSecretReference": { "secretUrl": CANARY } }])),
        ("name", json!([{ "name": "A=B", "value": CANARY }])),
    ] {
        let file = sandbox.job(name, with(custom("true"), &json!({ "secrets": secrets })));
        let said = sandbox.run(["job", "validate", &file]).expect(2);
        assert!(!holds(said.stdout.as_bytes()), "{name}: {}", said.stdout);
        let quoted = said.stderr.contains(CANARY) && !said.stderr.contains("secretUrl");
        assert!(!quoted, "{name}: {}", said.stderr);
    }
    let file = sandbox.job(
        "uses",
        with(
            custom("true"),
            &json!({
                "secrets": [{ "name": "A", "value": CANARY }],
                "environmentVariables": [{ "name": "B", "value": "$A" }],
            }),
        ),
    );
    let said = sandbox.run(["job", "validate", &file]).expect(2);
    assert!(!holds(format!("{said:?}").as_bytes()), "{}", said.stderr);
}
