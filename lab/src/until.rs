//! Waiting for a condition, with a limit and words for what was awaited.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `look` gives something, and returns it.
///
/// # Errors
/// What `look` reports, or after `limit` that `what` did not come.
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(PAUSE, what, limit, look)
}

/// As [`until`], with a longer pause, for looks that cost much.
///
/// # Errors
/// As [`until`].
pub fn until_every<T>(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for: {what}", limit.as_secs());
        }
        std::thread::sleep(pause);
    }
}
