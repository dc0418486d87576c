//! Trying again what may succeed a little later: pauses that grow, with jitter, within one limit.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The pause after the first try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: what waits for an engine goes on soon after it came back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often [`Worth::Few`] is tried in all.
const FEW: u32 = 3;

/// Whether the same question may be answered a little later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// The answer is final.
    Nothing,
    /// It may be a stumble or final: nobody can tell.
    Few,
    /// Whoever answers is away or busy.
    Long,
}

/// An error that knows whether trying again is worth it.
pub trait Stumble: Display {
    /// See [`Worth`].
    fn worth(&self) -> Worth;
}

/// The tries of one thing.
#[derive(Debug)]
pub struct Tries {
    end: Instant,
    made: u32,
}

impl Tries {
    /// Tries within a limit, from now.
    pub fn within(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, made: 0 }
    }

    /// How many tries have failed.
    pub fn failed(&self) -> u32 {
        self.made
    }

    /// Logs why the last try failed and waits before the next; false where there shall be none.
    pub async fn again(&mut self, what: &str, error: &impl Stumble) -> bool {
        self.again_worth(error.worth(), what, error).await
    }

    /// As [`Tries::again`], where the caller knows better what trying again is worth.
    pub async fn again_worth(&mut self, worth: Worth, what: &str, error: &impl Display) -> bool {
        self.made += 1;
        let pause = pause(FIRST_PAUSE, LONGEST_PAUSE, self.made);
        let enough = match worth {
            Worth::Nothing => true,
            Worth::Few => self.made >= FEW,
            Worth::Long => false,
        };
        if enough || Instant::now() + pause >= self.end {
            return false;
        }
        let milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(error = %error, tries = self.made, milliseconds, "{what} failed, trying again");
        sleep(pause).await;
        true
    }
}

/// Asks until there is an answer, or an error that stands.
///
/// # Errors
/// The last try's.
pub async fn patiently<T, E: Stumble, F: Future<Output = Result<T, E>>>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, E> {
    let mut tries = Tries::within(limit);
    loop {
        match ask().await {
            Err(error) if tries.again(what, &error).await => {}
            other => return other,
        }
    }
}

/// The pause after so many tries: doubled each time up to the longest, less up to a half by chance, so that many
/// machines do not ask in step.
pub fn pause(first: Duration, longest: Duration, made: u32) -> Duration {
    less(first.saturating_mul(1 << made.saturating_sub(1).min(10)).min(longest), random())
}

/// Less up to a half. Pure.
fn less(whole: Duration, random: u8) -> Duration {
    whole - whole / 2 * u32::from(random) / 255
}

fn random() -> u8 {
    let mut byte = [0];
    // Where the kernel has none, the pauses are whole.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ_by_chance() {
        for (made, whole) in [(1, 100), (2, 200), (4, 800), (7, 5000), (100, 5000)] {
            let whole = Duration::from_millis(whole);
            assert_eq!((less(whole, 0), less(whole, 255)), (whole, whole / 2));
            let pause = pause(FIRST_PAUSE, LONGEST_PAUSE, made);
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no")]
    struct No(Worth);
    impl Stumble for No {
        fn worth(&self) -> Worth {
            self.0
        }
    }

    fn tries(worth: Worth, limit: Duration) -> u32 {
        let mut made = 0;
        let asked = async {
            patiently(limit, "asking", || {
                made += 1;
                async { Err::<(), _>(No(worth)) }
            })
            .await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(asked).unwrap_err();
        made
    }

    #[test]
    fn only_what_is_worth_it_is_tried_again_and_never_for_ever() {
        assert_eq!(tries(Worth::Nothing, Duration::from_secs(60)), 1);
        assert_eq!(tries(Worth::Few, Duration::from_secs(60)), FEW);
        assert!((2..10).contains(&tries(Worth::Long, Duration::from_millis(400))));
    }
}
