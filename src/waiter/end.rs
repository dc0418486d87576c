//! Takes the machine down, in order first, then by force. Also handles a user container that should
//! have done so and did not.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Waiter;
use super::journal::Fact;
use super::state::State;
use crate::end::{End, Init};
use crate::error::{Context, Failure};
use crate::machine::clock::Moment;
use crate::machine::kexec;
use crate::process::{EndTarget, Process};
use crate::report::Event;
use crate::signals::Signals;

/// How long the machine may go on after the user's command asked init for its end, before systemd
/// is asked.
const GRACE: Duration = Duration::from_secs(3);
/// How long systemd may take to end us once it is asked.
const EFFECT_LIMIT: Duration = Duration::from_secs(60);
/// The pause before systemd is asked again: the SIGTERM of BusyBox's command makes it re-execute
/// itself, and a signal that arrives meanwhile may be lost. Asking for what it is already doing
/// changes nothing.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// How long data may take to reach the disks before the kernel is asked.
const SYNC_LIMIT: Duration = Duration::from_secs(10);
/// How long the machine may go on after the kernel was asked.
const KERNEL_LIMIT: Duration = Duration::from_secs(10);
/// How long the machine may go on after the end of a user container that was to take it down.
const STILL_RUNNING_AFTER: Duration = Duration::from_secs(15);
/// How long reports may hold up the machine's end.
const LAST_REPORT_LIMIT: Duration = Duration::from_secs(2);

impl Waiter<'_> {
    /// Asks PID 1 for the machine's end. Asks the kernel if PID 1 cannot be asked, or if the
    /// machine still runs after `WAITDAEMON_FORCE_AFTER_SECONDS`. Returns when a signal tells us to
    /// stop, as it does when the machine goes down.
    ///
    /// # Errors
    /// If the machine does not go down.
    pub(super) async fn end_machine(
        &self,
        end: End,
        since: Moment,
        signals: &mut Signals,
    ) -> Result<State, Failure> {
        let Self { duty, process, .. } = self;
        let (name, init) = (end.name(), duty.init);
        self.journal.note(&Fact::Ending(since, end));
        if end == End::Kexec && !kexec::is_loaded() {
            let message =
                "cannot kexec: the kernel that was loaded before SUCCESS is not loaded any more";
            self.tell(Event::Failed, message);
            let fix = "find out what unloads kernels on this machine, and run the Workflow again";
            return Err(Failure::new(message).field("command").fix(fix));
        }
        self.tell(Event::GoingDown, name);
        self.reporter.flush(LAST_REPORT_LIMIT).await;
        if init.signal(end).is_some() {
            log::info!("asking {} for {name}", init.name());
            let forced = (duty.force_after_seconds > 0)
                .then(|| Duration::from_secs(duty.force_after_seconds));
            let until = since + forced.unwrap_or(EFFECT_LIMIT);
            loop {
                if let Err(error) = (process.request_end)(EndTarget::Init(init), end) {
                    log::warn!(error = error.to_string().as_str(); "cannot ask {} for {name}", init.name());
                }
                let next = (process.clock.now() + ASK_AGAIN_EVERY).min(until);
                tokio::select! {
                    biased;
                    slept = process.clock.sleep_until(next) => slept?,
                    _ = signals.next_stop() => return Ok(State::Interrupted),
                }
                if process.clock.now() >= until {
                    break;
                }
            }
            if forced.is_none() {
                let seconds = EFFECT_LIMIT.as_secs();
                let message = format!(
                    "the machine still runs {seconds} s after {} was asked for {name}",
                    init.name()
                );
                self.tell(Event::StillRunning, &message);
                let fix = "see what keeps it; set WAITDAEMON_FORCE_AFTER_SECONDS to have the kernel end the machine then";
                return Err(Failure::new(message)
                    .field("environment.WAITDAEMON_FORCE_AFTER_SECONDS")
                    .fix(fix));
            }
            let seconds = duty.force_after_seconds;
            log::warn!(
                "the machine still runs {seconds} s after {} was asked for {name}; asking the kernel",
                init.name()
            );
        } else {
            log::info!("{} cannot be asked for {name}; asking the kernel", init.name());
        }
        self.force(end, signals).await
    }

    /// Asks the kernel, once data has reached the disks or [`SYNC_LIMIT`] is over.
    async fn force(&self, end: End, signals: &mut Signals) -> Result<State, Failure> {
        let (name, process) = (end.name(), self.process);
        if timeout(SYNC_LIMIT, (process.flush_disks)()).await.is_err() {
            log::warn!(
                "sync did not finish within {} s; asking the kernel anyway",
                SYNC_LIMIT.as_secs()
            );
        }
        let asked = (process.request_end)(EndTarget::Kernel, end)
            .context(format!("the kernel refuses the {name}"));
        let failure = match asked {
            Ok(()) => tokio::select! {
                biased;
                () = sleep(KERNEL_LIMIT) => Failure::new(format!("the machine still runs after the kernel was asked for {name}")),
                _ = signals.next_stop() => return Ok(State::Interrupted),
            },
            Err(failure) => failure,
        };
        self.tell(Event::Failed, &failure.message);
        Err(failure
            .field("command")
            .fix("power-cycle the machine through its BMC, and see the kernel's log"))
    }

    /// Goes on to the fallback, if there is one and it has not failed itself.
    ///
    /// # Errors
    /// If there is no fallback to go on to: the same failure.
    pub(super) fn fall_back(&self, failure: Failure) -> Result<State, Failure> {
        if self.duty.fallback.is_none() || self.fell_back.get() {
            return Err(failure);
        }
        (self.process.log_failure)(&failure);
        Ok(self.falling_back(self.process.clock.now()))
    }

    /// Returns the state that waits for the fallback, counted from this moment.
    pub(super) fn falling_back(&self, since: Moment) -> State {
        self.journal.note(&Fact::Failed(since));
        self.fell_back.set(true);
        State::FallingBack { since }
    }

    /// Waits until the fallback is due.
    pub(super) async fn await_fallback(
        &self,
        since: Moment,
        signals: &mut Signals,
    ) -> Result<State, Failure> {
        let fallback = self.duty.fallback.ok_or_else(|| Failure::new("there is no fallback"))?;
        let (seconds, name) = (fallback.after_seconds, fallback.end.name());
        log::warn!(
            "falling back to {name} if the machine still runs {seconds} s after the failure"
        );
        tokio::select! {
            biased;
            slept = self.process.clock.sleep_until(since + Duration::from_secs(seconds)) => {
                slept?;
            }
            signal = signals.next_stop() => return self.give_up_fallback(signal, name).await,
        }
        log::warn!("the machine still runs; falling back to {name}");
        Ok(State::Ending { end: fallback.end, since: self.process.clock.now() })
    }

    /// Handles a signal to stop before the fallback is due: a request to the waiter, or the machine
    /// going down at last.
    async fn give_up_fallback(&self, signal: &str, name: &str) -> Result<State, Failure> {
        if !self.engine_is_there().await {
            return Ok(State::Interrupted);
        }
        let message = format!("the waiter received {signal}; cancelling the fallback to {name}");
        log::warn!("{message}");
        self.tell(Event::Cancelled, &message);
        Ok(State::Retired)
    }

    /// Complains if the machine still runs after the user container, which was to take it down,
    /// ended with success.
    pub(super) async fn complain(
        &self,
        since: Moment,
        signals: &mut Signals,
    ) -> Result<State, Failure> {
        let Some(word) = &self.duty.word_of_end else { return Ok(self.falling_back(since)) };
        let fallback =
            self.duty.fallback.map(|fallback| Duration::from_secs(fallback.after_seconds));
        let after =
            fallback.map_or(STILL_RUNNING_AFTER, |fallback| fallback.min(STILL_RUNNING_AFTER));
        tokio::select! {
            biased;
            slept = self.process.clock.sleep_until(since + after) => slept?,
            signal = signals.next_stop() => return Ok(State::Stopped { signal, started: true }),
        }
        let seconds = after.as_secs();
        let message = format!(
            "the machine still runs {seconds} s after the user container ended with success, although its command contains {word}"
        );
        self.tell(Event::StillRunning, &message);
        let failure = without_effect(message, self.duty.has_host_pids);
        if fallback.is_none() {
            return Err(failure);
        }
        (self.process.log_failure)(&failure);
        Ok(self.falling_back(since))
    }
}

/// Explains why a command that was to take the machine down may not have done so. Pure.
pub(super) fn without_effect(message: String, has_host_pids: bool) -> Failure {
    if has_host_pids {
        let fix = "nothing acted on it: leave IMAGE out for command: [\"reboot\"], or make sure that something watches the file it writes \
                   (such as /worker/reboot), or set WAITDAEMON_FALLBACK: reboot";
        return Failure::new(message).field("command").fix(fix);
    }
    let fix =
        "add to the action:  pid: host; without it such a command ends its own container alone";
    Failure::new(message).field("pid").fix(fix)
}

/// Asks systemd for what the user's command asked of an init that is not running. Returns when the
/// machine goes down, which ends us.
///
/// # Errors
/// If the machine does not go down.
pub async fn finish_reboot(
    end: End,
    process: &Process,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let name = end.name();
    tokio::select! {
        biased;
        () = sleep(GRACE) => {}
        _ = signals.next_stop() => return Ok(()),
    }
    log::warn!(
        "`{name}` exited 0 but the machine is still up: systemd ignores BusyBox's signal; asking systemd for {name}"
    );
    let over = Instant::now() + EFFECT_LIMIT;
    while Instant::now() < over {
        (process.request_end)(EndTarget::Init(Init::Systemd), end)
            .context(format!("cannot ask systemd for {name}"))?;
        tokio::select! {
            biased;
            () = sleep(ASK_AGAIN_EVERY) => {}
            _ = signals.next_stop() => return Ok(()),
        }
    }
    let message = format!(
        "the machine still runs {} s after systemd was asked for {name}",
        EFFECT_LIMIT.as_secs()
    );
    let fix = format!(
        "use {name} -f, which asks the kernel, or leave IMAGE out: waitdaemon then asks the kernel itself"
    );
    Err(Failure::new(message).field("command").fix(fix))
}
