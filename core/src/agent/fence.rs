//! Fences: until when a shim lets its task live without a word from the coordinator.
//!
//! The coordinator counts the lease from when it last heard of the node. The agent knows only when it
//! *sent* what was answered, which is earlier, and takes a margin off: the fence always falls first (N6).

use super::Turn;
use super::effect::{Effect, Record};
use super::state::{Attempt, Phase, State};
use crate::id::GangId;

/// Between the fence and the end of the lease at the latest, in ms: KILL and clock rates take time.
const MARGIN_MS: (u64, u64) = (500, 30_000);

/// The coordinator has answered what was sent at this time.
pub(super) fn on_contact(turn: &mut Turn<'_>, boot_ms: u64) {
    note_lapsed(turn);
    turn.state.contact_boot_ms = turn.state.contact_boot_ms.max(Some(boot_ms));
    if let Some(shortest_ms) = turn.state.shortest_lease_ms() {
        note_contact(turn, shortest_ms / 4);
    }
    let ids: Vec<GangId> = turn.state.gangs.keys().copied().collect();
    for id in ids {
        renew(turn, id);
    }
}

/// A gang that was not started while its lease lasted may run elsewhere by now. This contact must not bring it to life
/// again: the coordinator is told `Prepared`, and answers with `Start` or `Stop` (N6).
fn note_lapsed(turn: &mut Turn<'_>) {
    let ids: Vec<GangId> = turn.state.gangs.keys().copied().collect();
    for id in ids {
        let over = fence(turn.state, id).is_some_and(|fence_boot_ms| turn.now.boot_ms >= fence_boot_ms);
        if let Some(gang) = turn.state.gangs.get_mut(&id).filter(|_| over) {
            match gang.phase {
                Phase::Awaiting | Phase::SettingUp | Phase::Preparation(_) | Phase::Prepared => {
                    gang.lapsed = true;
                    gang.start_wanted = false;
                }
                Phase::Running(_) | Phase::Closing(_) | Phase::Ended(_) => {}
            }
        }
    }
}

/// Writes the contact down if what is written is older by more than this. An agent that is killed together with a
/// shim leaves an attempt that nobody fences: the next agent does, and needs to know from when on, also if it
/// cannot reach the coordinator (N6).
pub(super) fn note_contact(turn: &mut Turn<'_>, older_ms: u64) {
    let Some(boot_ms) = turn.state.contact_boot_ms.filter(|_| !mutant!("orphan-not-fenced")) else { return };
    if turn.state.noted_boot_ms.is_none_or(|noted| boot_ms > noted.saturating_add(older_ms)) {
        turn.record(Record::Contact { boot_ms });
    }
}

/// Moves the fences of a gang's attempts, if that is worth a message to each shim.
pub(super) fn renew(turn: &mut Turn<'_>, id: GangId) {
    let Some(fence_boot_ms) = fence(turn.state, id) else { return };
    let Some(gang) = turn.state.gangs.get_mut(&id) else { return };
    if fence_boot_ms < gang.fence_boot_ms.saturating_add(gang.lease_ms / 4) {
        return;
    }
    let running: Vec<_> = gang
        .attempts()
        .into_iter()
        .filter(|(_, attempt)| matches!(attempt, Attempt::Running { .. }))
        .map(|(rank, _)| id.attempt(rank))
        .collect();
    if running.is_empty() {
        return;
    }
    gang.fence_boot_ms = fence_boot_ms;
    for attempt in running {
        turn.then(Effect::Renew { attempt, fence_boot_ms });
    }
}

/// Where the fence of a gang may stand now; absent if it is never fenced, or no contact is known.
pub(super) fn fence(state: &State, id: GangId) -> Option<u64> {
    let gang = state.gangs.get(&id).filter(|gang| gang.lease_ms > 0 && !mutant!("never-fenced"))?;
    let margin = (gang.lease_ms / 10).clamp(MARGIN_MS.0, MARGIN_MS.1);
    Some(state.contact_boot_ms?.saturating_add(gang.lease_ms.saturating_sub(margin)))
}
