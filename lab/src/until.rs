//! Waits for a condition, with a limit and a description of what is awaited.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The shortest pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);
/// The pause is this many times as long as the look took, so that waiting leaves the machine to the
/// work.
const SHARE: u32 = 4;
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Waits until `look` gives something, and returns it.
///
/// # Errors
/// The error of `look`, or after `limit` that `what` did not come.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
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
