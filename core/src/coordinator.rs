//! The coordinator's decisions: `step(state, now, event) -> Step`.
