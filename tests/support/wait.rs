//! Waiting for a condition, with a deadline after which the test has failed.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. No test passes or fails by how long something took
/// within it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// Waits until there is a value.
///
/// # Panics
/// There is none within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits until nothing is wrong.
///
/// # Panics
/// Something is still wrong after [`PATIENCE`]: says what.
pub fn until_ok<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => {
                assert!(Instant::now() < deadline, "not within {} s: {what}: {why}", PATIENCE.as_secs())
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
