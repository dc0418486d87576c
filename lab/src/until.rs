//! Waiting for a condition, with a limit and words for what was awaited.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition, at least.
const PAUSE: Duration = Duration::from_millis(10);
/// The pause is this many times as long as the look took: those who wait leave the machine to those who work.
const SHARE: u32 = 4;
/// Between two looks at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Waits until `look` gives something, and returns it.
///
/// # Errors
/// What `look` reports, or after `limit` that `what` did not come.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let begin = Instant::now();
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for: {what}", limit.as_secs());
        }
        std::thread::sleep((begin.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE));
    }
}
