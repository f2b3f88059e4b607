//! What goes up the session: Hello, reports, and what only the coordinator's shell needs.

use trainyard_core::id::{GangId, Generation, NodeId};
use trainyard_core::plan::PortSpace;
use trainyard_core::session::{
    EndCause, GangPhase, GpuFact, HeldAttempt, HeldGang, Hello, NodeFacts, PrepareFailed, PrepareFailure,
    Report, TaskEnded,
};
use trainyard_core::unit::{Exit, GpuUuid, WallMs};

use super::{WireError, absolute_path, need, plan};
use crate::v1;

/// One message of an agent, without the generation and epoch that its envelope bears.
#[derive(Clone, Debug, PartialEq)]
pub enum Up {
    /// The first of a session, with the inventory for display.
    Hello(Box<Hello>, Box<v1::Inventory>),
    /// A sign of life: the agent's boot-time clock in ms, to be sent back.
    Heartbeat {
        /// As it came.
        boot_ms: u64,
    },
    /// What has happened, and the newest inventory if the node's facts have changed.
    Reports(Vec<Report>, Option<Box<v1::Inventory>>),
    /// Numbers.
    Metrics(v1::MetricBatch),
    /// The answer to a file request.
    FileReply(v1::FileReply),
}

impl TryFrom<v1::FromAgent> for Up {
    type Error = WireError;

    fn try_from(message: v1::FromAgent) -> Result<Up, WireError> {
        use v1::from_agent::Body;
        Ok(match need(message.body, "body")? {
            Body::Hello(mut hello) => {
                let inventory = need(hello.inventory.take(), "hello.inventory")?;
                Up::Hello(Box::new(hello_to_core(hello, &inventory)?), Box::new(inventory))
            }
            Body::Heartbeat(heartbeat) => Up::Heartbeat { boot_ms: heartbeat.boot_ms },
            Body::Reports(reports) => {
                let mut inventory = None;
                let mut list = Vec::with_capacity(reports.reports.len());
                for report in reports.reports {
                    match report.body {
                        Some(v1::report::Body::Inventory(newest)) => inventory = Some(Box::new(newest)),
                        body => list.push(v1::Report { body }.try_into()?),
                    }
                }
                Up::Reports(list, inventory)
            }
            Body::Metrics(batch) => Up::Metrics(batch),
            Body::FileReply(reply) => Up::FileReply(reply),
        })
    }
}

/// Hello for the wire: the facts that placement needs travel in the inventory and beside it.
#[must_use]
pub fn hello_to_wire(hello: Hello, inventory: v1::Inventory) -> v1::Hello {
    v1::Hello {
        protocol_version: crate::PROTOCOL_VERSION,
        version: hello.facts.version,
        node: hello.node.0,
        boot_id: hello.facts.port_space.boot_id,
        network_namespace: hello.facts.port_space.network_namespace,
        address: hello.facts.address,
        root: hello.facts.root,
        privileged: hello.facts.privileged,
        base_environment: hello.facts.base_environment,
        inventory: Some(inventory),
        held: hello.held.into_iter().map(Into::into).collect(),
        last_generation: hello.last_generation.0,
        stuck: hello.facts.stuck.into_iter().map(Into::into).collect(),
    }
}

fn hello_to_core(hello: v1::Hello, inventory: &v1::Inventory) -> Result<Hello, WireError> {
    if hello.node.is_empty() || hello.node.len() > 255 {
        return Err(WireError::OutOfRange("hello.node", i64::try_from(hello.node.len()).unwrap_or(i64::MAX)));
    }
    if hello.boot_id.is_empty() {
        return Err(WireError::Missing("hello.boot_id"));
    }
    let gpus = inventory.gpus.iter();
    Ok(Hello {
        node: NodeId(hello.node),
        facts: NodeFacts {
            version: hello.version,
            address: hello.address,
            root: absolute_path(hello.root, "hello.root")?,
            port_space: PortSpace { boot_id: hello.boot_id, network_namespace: hello.network_namespace },
            privileged: hello.privileged,
            base_environment: hello.base_environment,
            gpus: gpus
                .map(|gpu| GpuFact { uuid: GpuUuid(gpu.uuid.clone()), fault: gpu.fault.clone() })
                .collect(),
            gpu_problem: inventory.gpu_problem.clone(),
            degraded: inventory.degraded.clone(),
            stuck: hello.stuck.into_iter().map(Into::into).collect(),
        },
        held: hello.held.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        last_generation: Generation(hello.last_generation),
    })
}

impl From<HeldGang> for v1::HeldGang {
    fn from(held: HeldGang) -> v1::HeldGang {
        v1::HeldGang {
            gang: Some(held.gang.into()),
            phase: v1::GangPhase::from(held.phase).into(),
            attempts: held.attempts.into_iter().map(Into::into).collect(),
            prepare_failed: held.prepare_failed.map(Into::into),
        }
    }
}

impl TryFrom<v1::HeldGang> for HeldGang {
    type Error = WireError;

    fn try_from(held: v1::HeldGang) -> Result<HeldGang, WireError> {
        let gang: GangId = need(held.gang, "held.gang")?.into();
        let phase = v1::GangPhase::try_from(held.phase).map_err(|_| WireError::Unspecified("held.phase"))?;
        Ok(HeldGang {
            gang,
            phase: phase.try_into()?,
            prepare_failed: held.prepare_failed.map(TryInto::try_into).transpose()?,
            attempts: held
                .attempts
                .into_iter()
                .map(|attempt| held_attempt(gang, attempt))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<HeldAttempt> for v1::HeldAttempt {
    fn from(held: HeldAttempt) -> v1::HeldAttempt {
        let started = held.started.map(|(pid, at)| v1::TaskStarted {
            attempt: Some(held.attempt.into()),
            pid,
            at_ms: at.0,
        });
        v1::HeldAttempt { rank: held.attempt.rank.0, ended: held.ended.map(Into::into), started }
    }
}

fn held_attempt(gang: GangId, held: v1::HeldAttempt) -> Result<HeldAttempt, WireError> {
    Ok(HeldAttempt {
        attempt: gang.attempt(trainyard_core::id::Rank(held.rank)),
        started: held.started.map(|started| (started.pid, WallMs(started.at_ms))),
        ended: held.ended.map(TryInto::try_into).transpose()?,
    })
}

impl From<GangPhase> for v1::GangPhase {
    fn from(phase: GangPhase) -> v1::GangPhase {
        match phase {
            GangPhase::Preparing => v1::GangPhase::Preparing,
            GangPhase::Prepared => v1::GangPhase::Prepared,
            GangPhase::Running => v1::GangPhase::Running,
            GangPhase::Ended => v1::GangPhase::Ended,
        }
    }
}

impl TryFrom<v1::GangPhase> for GangPhase {
    type Error = WireError;

    fn try_from(phase: v1::GangPhase) -> Result<GangPhase, WireError> {
        match phase {
            v1::GangPhase::Unspecified => Err(WireError::Unspecified("held.phase")),
            v1::GangPhase::Preparing => Ok(GangPhase::Preparing),
            v1::GangPhase::Prepared => Ok(GangPhase::Prepared),
            v1::GangPhase::Running => Ok(GangPhase::Running),
            v1::GangPhase::Ended => Ok(GangPhase::Ended),
        }
    }
}

impl From<Report> for v1::Report {
    fn from(report: Report) -> v1::Report {
        use v1::report::Body;
        let body = match report {
            Report::Prepared(gang) => Body::Prepared(gang.into()),
            Report::PrepareFailed(failed) => Body::PrepareFailed(failed.into()),
            Report::Started { attempt, pid, at } => {
                Body::Started(v1::TaskStarted { attempt: Some(attempt.into()), pid, at_ms: at.0 })
            }
            Report::Ended(ended) => Body::Ended(ended.into()),
            Report::GangEnded(gang) => Body::GangEnded(gang.into()),
            Report::Stuck(attempt) => Body::Stuck(attempt.into()),
            Report::Gone(attempt) => Body::Gone(attempt.into()),
        };
        v1::Report { body: Some(body) }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = WireError;

    /// An inventory is no report of the core's: [`Up`] takes those out before.
    fn try_from(report: v1::Report) -> Result<Report, WireError> {
        use v1::report::Body;
        Ok(match need(report.body, "report")? {
            Body::Prepared(gang) => Report::Prepared(gang.into()),
            Body::PrepareFailed(failed) => Report::PrepareFailed(failed.try_into()?),
            Body::Started(started) => Report::Started {
                attempt: need(started.attempt, "started.attempt")?.into(),
                pid: started.pid,
                at: WallMs(started.at_ms),
            },
            Body::Ended(ended) => Report::Ended(ended.try_into()?),
            Body::GangEnded(gang) => Report::GangEnded(gang.into()),
            Body::Stuck(attempt) => Report::Stuck(attempt.into()),
            Body::Gone(attempt) => Report::Gone(attempt.into()),
            Body::Inventory(_) => return Err(WireError::Unspecified("report")),
        })
    }
}

impl From<PrepareFailed> for v1::PrepareFailed {
    fn from(failed: PrepareFailed) -> v1::PrepareFailed {
        let (kind, exit, taken_ports) = match failed.kind {
            PrepareFailure::Command(exit) => (v1::PrepareFailure::Command, Some(exit.into()), Vec::new()),
            PrepareFailure::Setup => (v1::PrepareFailure::Setup, None, Vec::new()),
            PrepareFailure::Preflight => (v1::PrepareFailure::Preflight, None, Vec::new()),
            PrepareFailure::PortsTaken(ports) => {
                let ports = ports.into_iter().map(|port| u32::from(port.0)).collect();
                (v1::PrepareFailure::PortsTaken, None, ports)
            }
        };
        v1::PrepareFailed {
            gang: Some(failed.gang.into()),
            kind: kind.into(),
            message: failed.message,
            exit,
            taken_ports,
        }
    }
}

impl TryFrom<v1::PrepareFailed> for PrepareFailed {
    type Error = WireError;

    fn try_from(failed: v1::PrepareFailed) -> Result<PrepareFailed, WireError> {
        let kind = v1::PrepareFailure::try_from(failed.kind)
            .map_err(|_| WireError::Unspecified("prepare_failed.kind"))?;
        let kind = match kind {
            v1::PrepareFailure::Unspecified => return Err(WireError::Unspecified("prepare_failed.kind")),
            v1::PrepareFailure::Command => {
                PrepareFailure::Command(need(failed.exit, "prepare_failed.exit")?.try_into()?)
            }
            v1::PrepareFailure::Setup => PrepareFailure::Setup,
            v1::PrepareFailure::Preflight => PrepareFailure::Preflight,
            v1::PrepareFailure::PortsTaken => PrepareFailure::PortsTaken(
                failed.taken_ports.into_iter().map(plan::port).collect::<Result<_, _>>()?,
            ),
        };
        Ok(PrepareFailed {
            gang: need(failed.gang, "prepare_failed.gang")?.into(),
            kind,
            message: failed.message,
        })
    }
}

impl From<Exit> for v1::Exit {
    fn from(exit: Exit) -> v1::Exit {
        use v1::exit::How;
        let how = match exit {
            Exit::Code(code) => How::Code(code),
            Exit::Signal(signal) => How::Signal(signal),
            Exit::Unknown => How::Unknown(true),
        };
        v1::Exit { how: Some(how) }
    }
}

impl TryFrom<v1::Exit> for Exit {
    type Error = WireError;

    fn try_from(exit: v1::Exit) -> Result<Exit, WireError> {
        use v1::exit::How;
        match need(exit.how, "exit")? {
            How::Code(code) if (0..=255).contains(&code) => Ok(Exit::Code(code)),
            How::Code(code) => Err(WireError::OutOfRange("exit.code", code.into())),
            How::Signal(signal) if (1..=64).contains(&signal) => Ok(Exit::Signal(signal)),
            How::Signal(signal) => Err(WireError::OutOfRange("exit.signal", signal.into())),
            How::Unknown(_) => Ok(Exit::Unknown),
        }
    }
}

impl From<TaskEnded> for v1::TaskEnded {
    fn from(ended: TaskEnded) -> v1::TaskEnded {
        v1::TaskEnded {
            attempt: Some(ended.attempt.into()),
            exit: Some(ended.exit.into()),
            cause: v1::EndCause::from(ended.cause).into(),
            started_ms: ended.started.0,
            ended_ms: ended.ended.0,
            stderr_tail: ended.stderr_tail,
            message: ended.message,
        }
    }
}

impl TryFrom<v1::TaskEnded> for TaskEnded {
    type Error = WireError;

    fn try_from(ended: v1::TaskEnded) -> Result<TaskEnded, WireError> {
        let cause = v1::EndCause::try_from(ended.cause).map_err(|_| WireError::Unspecified("ended.cause"))?;
        Ok(TaskEnded {
            attempt: need(ended.attempt, "ended.attempt")?.into(),
            exit: need(ended.exit, "ended.exit")?.try_into()?,
            cause: cause.try_into()?,
            started: WallMs(ended.started_ms),
            ended: WallMs(ended.ended_ms),
            stderr_tail: ended.stderr_tail,
            message: ended.message,
        })
    }
}

impl From<EndCause> for v1::EndCause {
    fn from(cause: EndCause) -> v1::EndCause {
        match cause {
            EndCause::Itself => v1::EndCause::Itself,
            EndCause::Stopped => v1::EndCause::Stopped,
            EndCause::Fenced => v1::EndCause::Fenced,
            EndCause::Oom => v1::EndCause::Oom,
            EndCause::NotStarted => v1::EndCause::NotStarted,
            EndCause::Lost => v1::EndCause::Lost,
            EndCause::Unkillable => v1::EndCause::Unkillable,
        }
    }
}

impl TryFrom<v1::EndCause> for EndCause {
    type Error = WireError;

    fn try_from(cause: v1::EndCause) -> Result<EndCause, WireError> {
        match cause {
            v1::EndCause::Unspecified => Err(WireError::Unspecified("ended.cause")),
            v1::EndCause::Itself => Ok(EndCause::Itself),
            v1::EndCause::Stopped => Ok(EndCause::Stopped),
            v1::EndCause::Fenced => Ok(EndCause::Fenced),
            v1::EndCause::Oom => Ok(EndCause::Oom),
            v1::EndCause::NotStarted => Ok(EndCause::NotStarted),
            v1::EndCause::Lost => Ok(EndCause::Lost),
            v1::EndCause::Unkillable => Ok(EndCause::Unkillable),
        }
    }
}
