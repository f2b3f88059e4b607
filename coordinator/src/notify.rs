//! What the service manager is told, if there is one (`NOTIFY_SOCKET`): ready, alive, stopping.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::driver::Driver;

/// Says that requests are answered; from then on, that the driver's loop comes around, as often as the
/// manager wants to hear it. The task ends with the driver, or when it is aborted.
pub(crate) fn started(driver: Driver) -> JoinHandle<()> {
    tell(&[NotifyState::Ready]);
    tokio::spawn(async move {
        let Some(period) = sd_notify::watchdog_enabled() else { return };
        let mut due = tokio::time::interval((period / 2).max(Duration::from_millis(100)));
        loop {
            due.tick().await;
            if driver.ping().await.is_err() {
                return;
            }
            tell(&[NotifyState::Watchdog]);
        }
    })
}

/// Says that the coordinator goes down because it was told to.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Without a service manager this does nothing.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
