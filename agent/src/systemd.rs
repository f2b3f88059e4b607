//! Words for systemd, said only where it asked for them (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};

use crate::driver::Event;

/// The agent is up.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The agent is ending; its tasks are not.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Says that the agent's loop turns, as often as systemd wants; never returns without a watchdog.
pub(crate) async fn watchdog(driver: mpsc::Sender<Event>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut timer = tokio::time::interval(limit / 2);
    loop {
        timer.tick().await;
        let (reply, answer) = oneshot::channel();
        // A loop that does not answer is what the watchdog is for.
        if driver.send(Event::Pinged(reply)).await.is_err() || answer.await.is_err() {
            return;
        }
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(words: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing.
    if let Err(error) = sd_notify::notify(words) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
