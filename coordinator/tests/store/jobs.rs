//! Jobs, plans and journal entries to store.

use serde_json::json;
use trainyard_coordinator::store::Change;
use trainyard_core::coordinator::effect::JournalEntry;
use trainyard_core::coordinator::reason::EndReason;
use trainyard_core::coordinator::state::{Gang, GangNode, Job, JobPhase, NodePhase};
use trainyard_core::coordinator::{JobKey, Record};
use trainyard_core::id::{GangId, GangNo, JobId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::spec;
use trainyard_core::text::Name;
use trainyard_core::unit::{Tick, WallMs};

pub(crate) fn key(job: &str) -> JobKey {
    JobKey {
        subscription: "Sub".to_owned(),
        resource_group: "rg".to_owned(),
        workspace: Name::parse("W").unwrap(),
        experiment: Name::parse("e").unwrap(),
        job: Name::parse(job).unwrap(),
    }
}

pub(crate) fn job(id: u64, name: &str) -> Job {
    job_with(id, name, "true", "canary-7f3a")
}

/// A queued job with this command line and this secret.
pub(crate) fn job_with(id: u64, name: &str, command: &str, secret: &str) -> Job {
    let document = json!({ "properties": {
        "cluster": { "id": "/subscriptions/Sub/resourceGroups/rg/providers/Microsoft.BatchAI/workspaces/W/clusters/default" },
        "nodeCount": 1,
        "customToolkitSettings": { "commandLine": command },
        "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_TEMP_DIR",
        "secrets": [{ "name": "PASSWORD", "value": secret }],
    }});
    let options = spec::Options { source: spec::Source::RestBody, ..Default::default() };
    Job {
        id: JobId(id),
        key: key(name),
        uuid: "u".to_owned(),
        spec: spec::read(document.to_string().as_bytes(), &options).unwrap().spec,
        created: WallMs(1),
        transition: WallMs(2),
        started: None,
        phase: JobPhase::Queued { not_before: None },
        gangs: 0,
        lost_gangs: vec![],
        retries_used: 0,
        infrastructure_faults: 0,
        taken_ports: vec![],
        avoid: vec![],
        cancelled: false,
        delete_when_ended: false,
        history: vec![],
    }
}

pub(crate) fn active(id: u64, name: &str) -> (Job, NodePlan) {
    let gang = GangId { job: JobId(id), gang: GangNo(1) };
    let node = NodeId("node-0".to_owned());
    let phase = JobPhase::Active(Box::new(Gang {
        id: gang,
        nodes: vec![GangNode { node: node.clone(), phase: NodePhase::Preparing, space: None }],
        tasks: vec![],
        lease_ms: 5,
        deadline: Tick(0),
        outcome: None,
    }));
    let plan = NodePlan {
        node,
        job_temp: "/t".to_owned(),
        directories: vec![],
        host_mounts: vec![],
        mounted_directories: vec![],
        files: vec![],
        std_dir: "/s".to_owned(),
        execution_log: "execution.log".to_owned(),
        preparation: None,
        ports: vec![],
        preflight: None,
        tasks: vec![],
        notes: vec![],
    };
    (Job { phase, gangs: 1, ..job(id, name) }, plan)
}

pub(crate) fn ended(id: u64, name: &str) -> Job {
    let phase = JobPhase::Ended { reason: EndReason::Succeeded, at: WallMs(9), tasks: vec![], gang: None };
    Job { phase, ..job(id, name) }
}

pub(crate) fn put(job: &Job) -> Change {
    Change::Record(Record::PutJob(Box::new(job.clone())))
}

pub(crate) fn journal(kind: &'static str, job: u64) -> Change {
    Change::Record(Record::Journal(JournalEntry {
        at: WallMs(3),
        kind,
        job_id: Some(JobId(job)),
        job: Some("j".to_owned()),
        node: None,
        detail: json!({ "a": 1 }),
    }))
}
