//! Retries what may succeed a little later: with growing pauses and jitter, within one limit.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The pause after the first attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: short enough to go on soon after an engine is back.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How many attempts [`Retry::AFewTimes`] makes in all.
const FEW: u32 = 3;

/// Whether the same request may succeed a little later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The answer is final.
    Never,
    /// It is unknown whether the answer is final.
    AFewTimes,
    /// The other side is unavailable or busy.
    UntilDeadline,
}

/// An error that knows whether it may pass.
pub trait Transient: Display {
    /// Returns whether to try again.
    fn retry(&self) -> Retry;
}

/// The attempts at one operation.
#[derive(Debug)]
pub struct Attempts {
    end: Instant,
    failed: u32,
    /// How many of these failures were [`Retry::AFewTimes`].
    doubtful: u32,
    /// True if such failures are retried until the end as well.
    persistent: bool,
    said: String,
}

impl Attempts {
    /// Allows attempts for `limit`, from now.
    pub fn within(limit: Duration) -> Self {
        let end = Instant::now() + limit;
        Self { end, failed: 0, doubtful: 0, persistent: false, said: String::new() }
    }

    /// Sets whether an answer that may be final is retried until the end.
    pub fn persistent(self, persistent: bool) -> Self {
        Self { persistent, ..self }
    }

    /// Returns the number of attempts that have failed.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Logs why the last attempt failed, at WARN if the reason is new, and waits before the next
    /// attempt. Returns false if there is to be none.
    pub async fn wait(&mut self, what: &str, error: &impl Transient) -> bool {
        self.wait_as(error.retry(), what, error).await
    }

    /// Does the same as [`Attempts::wait`], for a caller that knows better whether the error may
    /// pass.
    pub async fn wait_as(&mut self, retry: Retry, what: &str, error: &dyn Display) -> bool {
        self.failed += 1;
        self.doubtful += u32::from(retry == Retry::AFewTimes);
        let pause = pause(FIRST_PAUSE, MAX_PAUSE, self.failed);
        let enough = match retry {
            Retry::Never => true,
            Retry::AFewTimes => self.doubtful >= FEW && !self.persistent,
            Retry::UntilDeadline => false,
        };
        if enough || Instant::now() + pause >= self.end {
            return false;
        }
        let milliseconds = milliseconds(pause);
        let said = error.to_string();
        if said == self.said {
            log::debug!(error = said.as_str(), tries = self.failed, milliseconds; "{what} failed again, trying again");
        } else {
            log::warn!(error = said.as_str(), tries = self.failed, milliseconds; "{what} failed, trying again");
            self.said = said;
        }
        sleep(pause).await;
        true
    }
}

/// Asks until there is an answer or a final error, for at most `limit`.
///
/// # Errors
/// If no attempt succeeds: the last attempt's error.
pub fn retry_within<T, E: Transient, F: Future<Output = Result<T, E>>>(
    limit: Duration,
    what: &str,
    ask: impl FnMut() -> F,
) -> impl Future<Output = Result<T, E>> {
    retry(limit, false, what, ask)
}

/// Like [`retry_within`], with [`Attempts::persistent`].
///
/// # Errors
/// If no attempt succeeds: the last attempt's error.
pub async fn retry<T, E: Transient, F: Future<Output = Result<T, E>>>(
    limit: Duration,
    persistent: bool,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, E> {
    let mut attempts = Attempts::within(limit).persistent(persistent);
    loop {
        match ask().await {
            Err(error) if attempts.wait(what, &error).await => {}
            other => return other,
        }
    }
}

/// Returns the pause after so many failures. It doubles each time up to the longest, and is
/// shortened at random by up to a half, so that many machines do not ask in step.
pub fn pause(first: Duration, longest: Duration, failed: u32) -> Duration {
    shorten(
        first.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(longest),
        chance::byte(),
    )
}

/// Returns a time in whole milliseconds, for the log. Pure.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Shortens a pause by up to a half. Pure.
fn shorten(whole: Duration, random: u8) -> Duration {
    whole - whole / 2 * u32::from(random) / 255
}

#[cfg(not(test))]
mod chance {
    /// Returns a random byte from the kernel; zero, which keeps pauses whole, if it has none.
    pub fn byte() -> u8 {
        let mut byte = [0];
        let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
        byte[0]
    }
}

/// In tests chance is seeded, so that a simulation can be repeated.
#[cfg(test)]
pub mod chance {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) };
    }

    /// Restarts this thread's sequence from a seed.
    pub fn seed(seed: u64) {
        STATE.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    }

    /// Returns the next number of this thread's sequence (xorshift64*).
    pub fn number() -> u64 {
        let mut state = STATE.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        STATE.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Returns the next byte.
    pub fn byte() -> u8 {
        number().to_le_bytes()[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ_by_chance() {
        for (failed, whole) in [(1, 100), (2, 200), (4, 800), (7, 5000), (100, 5000)] {
            let whole = Duration::from_millis(whole);
            assert_eq!((shorten(whole, 0), shorten(whole, 255)), (whole, whole / 2));
            let pause = pause(FIRST_PAUSE, MAX_PAUSE, failed);
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no")]
    struct No(Retry);
    impl Transient for No {
        fn retry(&self) -> Retry {
            self.0
        }
    }

    fn attempts(retry: Retry, limit: Duration) -> u32 {
        let mut made = 0;
        let asked = async {
            retry_within(limit, "asking", || {
                made += 1;
                async { Err::<(), _>(No(retry)) }
            })
            .await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(asked).unwrap_err();
        made
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_never_for_ever() {
        assert_eq!(attempts(Retry::Never, Duration::from_secs(60)), 1);
        assert_eq!(attempts(Retry::AFewTimes, Duration::from_secs(60)), FEW);
        assert!((2..10).contains(&attempts(Retry::UntilDeadline, Duration::from_millis(400))));
    }
}
