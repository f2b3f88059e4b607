//! What each task of a gang is, to the last variable: a plan leaves nothing to decide.
//!
//! The toolkit seats its tasks on the nodes (`role`) and names what only it knows; this module adds what every
//! task gets: directories, mounts, environment, command line. Same input, same plan, to the byte.

use std::collections::BTreeMap;

use crate::id::{GangNo, Rank};
use crate::spec::{self, JobSpec};

mod directory;
mod env;
mod error;
mod export;
mod hostfile;
mod line;
mod lint;
mod order;
pub(crate) mod path;
mod port;
pub(crate) mod role;
pub mod task;

pub use error::PlanError;
pub use export::export_lines;
pub use lint::lint;
pub use task::{Command, GangPlan, NodeGrant, NodePlan, PortSpace, Preflight, ReservedPorts, TaskPlan};

use env::Environment;
use path::Layout;
use port::Ports;
use role::Seat;

/// How long each check before the start may take, ms: a dead mount or peer is not waited for.
const PREFLIGHT_MS: u64 = 10_000;

/// The job to plan, by its names.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// What it asks for; has passed the checks of `spec`.
    pub spec: &'a JobSpec,
    /// Part of the output path.
    pub subscription: &'a str,
    /// Part of the output path.
    pub resource_group: &'a str,
    /// Its workspace.
    pub workspace: &'a str,
    /// Its experiment.
    pub experiment: &'a str,
    /// Its name.
    pub job: &'a str,
    /// Drawn anew for each job that is created: a second job of one name does not write over the first.
    pub uuid: &'a str,
    /// Which try this is.
    pub gang: GangNo,
}

impl PlanInput<'_> {
    /// `jobOutputDirectoryPathSegment`. Source: docs/compat.md, "Paths and files".
    #[must_use]
    pub fn segment(&self) -> String {
        let PlanInput { subscription, resource_group, workspace, experiment, job, uuid, .. } = self;
        format!(
            "{subscription}/{resource_group}/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/{uuid}"
        )
    }
}

/// The plan of one gang: one [`NodePlan`] per grant, in that order; ranks count up node by node.
///
/// `reserved` holds the ports that live attempts have, or that an agent found taken.
///
/// # Errors
/// [`PlanError`]: what in the spec, or at which node, does not fit.
pub fn plan(
    input: &PlanInput<'_>,
    grants: &[NodeGrant],
    reserved: &ReservedPorts,
) -> Result<GangPlan, PlanError> {
    let features: Vec<String> = spec::not_built(input.spec).iter().map(ToString::to_string).collect();
    if !features.is_empty() {
        return Err(PlanError::NotBuilt { features });
    }
    if grants.is_empty() || grants.len() != input.spec.node_count as usize {
        return Err(PlanError::NodeCount { need: input.spec.node_count, have: grants.len() });
    }
    let mut gang = Gang::new(input, grants, reserved)?;
    let seating = input.spec.toolkit.seat(&mut gang)?;
    gang.ports.master()?;
    let environment = Environment::new(&gang, &seating)?;
    let mut ranks = (0..).map(Rank);
    let nodes = (0..grants.len())
        .map(|node| node_plan(&environment, node, &mut ranks))
        .collect::<Result<Vec<NodePlan>, PlanError>>()?;
    let plan = GangPlan { nodes };
    debug_assert_eq!(lint(&plan, grants), Vec::<String>::new());
    Ok(plan)
}

/// What planning knows of the gang as a whole.
pub(crate) struct Gang<'a> {
    pub(crate) input: &'a PlanInput<'a>,
    pub(crate) grants: &'a [NodeGrant],
    pub(crate) layouts: Vec<Layout>,
    /// `AZ_BATCHAI_SHARED_JOB_TEMP`; `None`: the nodes have no common disk that we know of.
    pub(crate) shared_temp: Option<String>,
    pub(crate) ports: Ports<'a>,
}

impl<'a> Gang<'a> {
    fn new(
        input: &'a PlanInput<'a>,
        grants: &'a [NodeGrant],
        reserved: &'a ReservedPorts,
    ) -> Result<Gang<'a>, PlanError> {
        path::check_names(input)?;
        let layouts = grants
            .iter()
            .map(|grant| Layout::new(input, grant))
            .collect::<Result<Vec<Layout>, PlanError>>()?;
        // One port space is one machine, so one disk. The first node's folder is everybody's.
        let together = grants.iter().all(|grant| grant.port_space == grants[0].port_space);
        let shared_temp = together.then(|| format!("{}/shared", layouts[0].job_temp));
        Ok(Gang { input, grants, layouts, shared_temp, ports: Ports::new(grants, reserved) })
    }
}

fn node_plan(
    environment: &Environment<'_>,
    node: usize,
    ranks: &mut impl Iterator<Item = Rank>,
) -> Result<NodePlan, PlanError> {
    let Environment { gang, seating, .. } = environment;
    let (grant, layout, spec) = (&gang.grants[node], &gang.layouts[node], gang.input.spec);
    let mut variables = environment.of_node(node);
    let resolved = directory::resolve(gang, node, &variables)?;
    variables.extend(resolved.variables.clone());

    let mut notes = environment.notes(node);
    let preparation = spec.job_preparation.as_ref().map(|preparation| {
        let what = env::Process::Preparation;
        let (env, secret_env) = environment.of_process(node, &variables, &what)?;
        let suffix = format!("-job_prep{}", per_node(gang, node));
        let argv = line::bash(&preparation.command_line, "jobPreparation.commandLine")?;
        command(argv, env, secret_env, layout, &suffix)
    });
    let preparation = preparation.transpose()?;
    let mut tasks = Vec::new();
    for seat in seating.seats.iter().filter(|seat| seat.node == node) {
        let rank = ranks.next().expect("ranks count further than tasks are allowed");
        tasks.push(task_plan(environment, seat, rank, &variables)?);
    }
    let preflight = spec.preflight.then(|| Preflight {
        gpus: grant.gpus.clone(),
        directories: resolved.host_mounts.iter().map(|mount| mount.target.clone()).collect(),
        peers: peers(gang, node),
        timeout_ms: PREFLIGHT_MS,
    });
    notes.extend(seating.notes.iter().filter(|(of, _)| *of == node).map(|(_, note)| note.clone()));
    Ok(NodePlan {
        node: grant.node.clone(),
        job_temp: layout.job_temp.clone(),
        directories: resolved.directories,
        host_mounts: resolved.host_mounts,
        mounted_directories: resolved.mounted_directories,
        files: vec![hostfile::planned(gang.grants, layout)],
        std_dir: resolved.std_dir,
        execution_log: format!("execution{}.log", per_node(gang, node)),
        preparation,
        ports: gang.ports.of_node(node),
        preflight,
        tasks,
        notes,
    })
}

/// Planned ports of the other nodes.
fn peers(gang: &Gang<'_>, node: usize) -> Vec<String> {
    let others = (0..gang.grants.len()).filter(|other| *other != node);
    others
        .flat_map(|other| {
            gang.ports.of_node(other).into_iter().map(move |port| gang.ports.address(other, port))
        })
        .collect()
}

fn task_plan(
    environment: &Environment<'_>,
    seat: &Seat<'_>,
    rank: Rank,
    variables: &BTreeMap<String, String>,
) -> Result<TaskPlan, PlanError> {
    let layout = &environment.gang.layouts[seat.node];
    let (env, secret_env) = environment.of_process(seat.node, variables, &env::Process::Task(seat))?;
    let argv = line::argv(&seat.program, &env, environment.gang.input.spec)?;
    Ok(TaskPlan {
        rank,
        role: seat.role,
        index: seat.index,
        name: seat.name.clone(),
        command: command(argv, env, secret_env, layout, &seat.file_suffix)?,
        gpus: seat.gpus.clone(),
    })
}

fn command(
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    secret_env: BTreeMap<String, crate::text::Secret>,
    layout: &Layout,
    suffix: &str,
) -> Result<Command, PlanError> {
    env::check_size(&argv, &env, &secret_env)?;
    let cwd = layout.job_temp.clone();
    Ok(Command {
        argv,
        env,
        secret_env,
        cwd,
        stdout: format!("stdout{suffix}.txt"),
        stderr: format!("stderr{suffix}.txt"),
    })
}

/// `-<node>` in file names that several nodes write into one directory.
fn per_node(gang: &Gang<'_>, node: usize) -> String {
    if gang.grants.len() == 1 {
        return String::new();
    }
    let name = gang.grants[node].node.0.as_str();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("-{}", name.chars().map(safe).collect::<String>())
}
