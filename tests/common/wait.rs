//! Waiting for a condition, with one deadline for all tests; nothing waits by sleeping for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine. What is not done by then is taken to hang.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Waits until `is_so` returns true. Panics at the deadline, with `what` as the message.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}

/// Waits until `find` returns something, and returns it. Panics at the deadline, with `what` as the message. Leaves half of
/// the time to others, however long a look takes.
pub fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    const INTERVAL: Duration = Duration::from_millis(1);
    let started = Instant::now();
    loop {
        let look = Instant::now();
        if let Some(found) = find() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(INTERVAL.max(look.elapsed()));
    }
}
