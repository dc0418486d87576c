//! The clock of the wait: seconds since boot, unaffected by setting the time (NTP) and by a suspend
//! (clock_gettime(2), CLOCK_BOOTTIME).

use std::io;
use std::ops::Add;
use std::time::Duration;

use super::readable;
use crate::error::{Context, Failure};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// A moment, as the time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Returns the time from `now` until this moment; zero if it is past.
    pub fn since(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }

    /// Returns the moment in nanoseconds since boot.
    pub fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the moment of a value from [`Moment::nanoseconds`].
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(Duration::from_nanos(nanoseconds))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(more))
    }
}

/// Where the time comes from.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// CLOCK_BOOTTIME.
    SinceBoot,
    /// tokio's clock, which a simulation pauses.
    #[cfg(test)]
    Simulated {
        /// Moment zero.
        boot: tokio::time::Instant,
    },
}

impl Clock {
    /// Returns the current moment.
    pub fn now(self) -> Moment {
        match self {
            Self::SinceBoot => {
                let now = clock_gettime(ClockId::Boottime);
                // Neither is negative: clock_gettime(2).
                Moment(Duration::new(
                    now.tv_sec.try_into().unwrap_or(0),
                    now.tv_nsec.try_into().unwrap_or(0),
                ))
            }
            #[cfg(test)]
            Self::Simulated { boot } => Moment(boot.elapsed()),
        }
    }

    /// Sleeps until this moment. If it passes during a suspend, the sleep ends at once.
    ///
    /// # Errors
    /// If the kernel provides no timer.
    pub async fn sleep_until(self, moment: Moment) -> Result<(), Failure> {
        match self {
            Self::SinceBoot => sleep_since_boot(moment.0).await.context("cannot set a timer"),
            #[cfg(test)]
            Self::Simulated { boot } => {
                tokio::time::sleep_until(boot + moment.0).await;
                Ok(())
            }
        }
    }
}

async fn sleep_since_boot(until: Duration) -> io::Result<()> {
    let timer =
        timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    // A time of zero would disarm the timer: timerfd_create(2).
    let at = until.max(Duration::from_nanos(1));
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let it_value = Timespec { tv_sec: seconds, tv_nsec: at.subsec_nanos().into() };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(
        &timer,
        TimerfdTimerFlags::ABSTIME,
        &Itimerspec { it_interval: never, it_value },
    )?;
    // A timer becomes readable when it expires.
    readable::watch(timer)?.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(future: impl Future<Output = Result<(), Failure>>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
            .unwrap();
    }

    #[test]
    fn sleeps_until_the_moment_and_not_longer() {
        let begin = std::time::Instant::now();
        let clock = Clock::SinceBoot;
        run(clock.sleep_until(clock.now() + Duration::from_millis(200)));
        let took = begin.elapsed();
        assert!((200..1000).contains(&took.as_millis()), "{took:?}");
        run(clock.sleep_until(Moment(Duration::ZERO)));
        assert_eq!(Moment(Duration::ZERO).since(clock.now()), Duration::ZERO);
    }
}
