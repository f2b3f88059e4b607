//! What comes down the session: commands, and what only the link needs.

use trainyard_core::id::{Epoch, Generation};
use trainyard_core::session::{Command, Welcome};

use super::{WireError, need};
use crate::v1;

/// One message of the coordinator, without the generation and epoch that its envelope bears.
#[derive(Clone, Debug, PartialEq)]
pub enum Down {
    /// The answer to Hello.
    Welcome(Welcome),
    /// The answer to a heartbeat: the boot-time clock that it bore, in ms.
    HeartbeatAck {
        /// As it went.
        boot_ms: u64,
    },
    /// What the agent shall do.
    Command(Command),
    /// A client wants a file of a job.
    FileRequest(v1::FileRequest),
    /// The coordinator does not take this agent.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Down {
    /// The message, in its envelope.
    #[must_use]
    pub fn into_wire(self, generation: Generation, epoch: Epoch) -> v1::ToAgent {
        use v1::to_agent::Body;
        let body = match self {
            Down::Welcome(welcome) => Body::Welcome(v1::Welcome {
                lease_ms: welcome.lease_ms,
                heartbeat_ms: welcome.heartbeat_ms,
                metrics_period_ms: welcome.metrics_period_ms,
            }),
            Down::HeartbeatAck { boot_ms } => Body::HeartbeatAck(v1::HeartbeatAck { boot_ms }),
            Down::Command(command) => command.into(),
            Down::FileRequest(request) => Body::FileRequest(request),
            Down::Refused { reason } => Body::Refused(v1::Refused { reason }),
        };
        // Numbered where it goes out.
        v1::ToAgent { generation: generation.0, epoch: epoch.0, body: Some(body), seq: 0 }
    }
}

impl TryFrom<v1::ToAgent> for Down {
    type Error = WireError;

    fn try_from(message: v1::ToAgent) -> Result<Down, WireError> {
        use v1::to_agent::Body;
        Ok(match need(message.body, "body")? {
            Body::Welcome(welcome) => Down::Welcome(Welcome {
                generation: Generation(message.generation),
                epoch: Epoch(message.epoch),
                lease_ms: welcome.lease_ms,
                heartbeat_ms: welcome.heartbeat_ms,
                metrics_period_ms: welcome.metrics_period_ms,
            }),
            Body::HeartbeatAck(ack) => Down::HeartbeatAck { boot_ms: ack.boot_ms },
            Body::FileRequest(request) => Down::FileRequest(request),
            Body::Refused(refused) => Down::Refused { reason: refused.reason },
            Body::Prepare(prepare) => Down::Command(Command::Prepare {
                gang: need(prepare.gang, "prepare.gang")?.into(),
                plan: Box::new(need(prepare.plan, "prepare.plan")?.try_into()?),
                start_when_prepared: prepare.start_when_prepared,
                lease_ms: prepare.lease_ms,
            }),
            Body::Start(gang) => Down::Command(Command::Start(gang.into())),
            Body::Stop(stop) => Down::Command(Command::Stop {
                gang: need(stop.gang, "stop.gang")?.into(),
                grace_ms: stop.grace_ms,
                reason: stop.reason,
            }),
            Body::Release(gang) => Down::Command(Command::Release(gang.into())),
            Body::EndedAck(ack) => {
                Down::Command(Command::EndedAck(ack.attempts.into_iter().map(Into::into).collect()))
            }
        })
    }
}

impl From<Command> for v1::to_agent::Body {
    fn from(command: Command) -> v1::to_agent::Body {
        use v1::to_agent::Body;
        match command {
            Command::Prepare { gang, plan, start_when_prepared, lease_ms } => Body::Prepare(v1::Prepare {
                gang: Some(gang.into()),
                plan: Some((*plan).into()),
                start_when_prepared,
                lease_ms,
            }),
            Command::Start(gang) => Body::Start(gang.into()),
            Command::Stop { gang, grace_ms, reason } => {
                Body::Stop(v1::Stop { gang: Some(gang.into()), grace_ms, reason })
            }
            Command::Release(gang) => Body::Release(gang.into()),
            Command::EndedAck(attempts) => {
                Body::EndedAck(v1::EndedAck { attempts: attempts.into_iter().map(Into::into).collect() })
            }
        }
    }
}
