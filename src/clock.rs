//! The clock of the wait: seconds since boot, which neither setting the time (NTP) nor a suspend disturbs
//! (clock_gettime(2), CLOCK_BOOTTIME).

use std::io;
use std::ops::Add;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// A moment, as the time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        // Neither is negative: clock_gettime(2).
        Self(Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0)))
    }

    /// From now until this moment; zero where it is past.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(more))
    }
}

/// Sleeps until this moment; a suspend that reaches over it ends the sleep at once.
///
/// # Errors
/// Where the kernel gives no timer.
pub async fn sleep_until(moment: Moment) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    // A time of zero would disarm it: timerfd_create(2).
    let at = moment.0.max(Duration::from_nanos(1));
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let it_value = Timespec { tv_sec: seconds, tv_nsec: at.subsec_nanos().into() };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value })?;
    // A timer becomes readable when it expires; nothing is ever read from it.
    let timer = Receiver::from_owned_fd_unchecked(timer)?;
    timer.readable().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(future: impl Future<Output = io::Result<()>>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future).unwrap();
    }

    #[test]
    fn sleeps_until_the_moment_and_not_longer() {
        let begin = std::time::Instant::now();
        run(sleep_until(Moment::now() + Duration::from_millis(200)));
        let took = begin.elapsed();
        assert!((200..1000).contains(&took.as_millis()), "{took:?}");
        run(sleep_until(Moment(Duration::ZERO)));
        assert_eq!(Moment::now().left(), Duration::ZERO);
    }
}
