//! Watches the user container, reports what becomes of it, and removes what is no longer needed.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Waiter;
use super::end::{finish_reboot, without_effect};
use super::journal::Fact;
use super::state::State;
use crate::engine::tail::Tail;
use crate::engine::{Life, NOTICE_LIMIT, Output};
use crate::error::Failure;
use crate::lifecycle::Lifecycle;
use crate::report::{Ended, Event};
use crate::signals::Signals;

/// How long the last output may take to arrive after the container ended.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2);
/// The pause before a container is watched again after its engine was lost.
const LOST_PAUSE: Duration = Duration::from_secs(5);
/// The pause between two looks whether it says so.
const PAUSE: Duration = Duration::from_millis(100);

/// The exit codes of a container whose PID 1 called reboot(2): the kernel ends its PID namespace
/// with SIGHUP or SIGINT (reboot(2), "Behavior inside PID namespaces").
const ENDED_ITSELF: [i64; 2] = [129, 130];
/// The exit code of a container that was killed, as whoever removes one that runs does first.
const KILLED: i64 = 137;

const NO_END: &str = "the engine does not say how it ended";

/// What the waiter saw of the user container.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It was still running when the time was over.
    Running,
    /// It ended.
    Exited {
        /// Its exit code.
        code: i64,
        /// What the engine says about the end, such as "out of memory"; may be empty.
        note: String,
        /// The last lines of its output, oldest first.
        last_lines: Vec<String>,
    },
    /// It ended while the engine was unavailable, and nothing tells how.
    Unseen,
    /// Somebody removed it.
    Removed,
    /// The engine was lost; the text says how. A machine that goes down looks like this.
    Lost(String),
}

impl Waiter<'_> {
    /// Watches the user container, reports what became of it and cleans up.
    pub(super) async fn watch(
        &self,
        output: Option<Box<dyn Output>>,
        signals: &mut Signals,
    ) -> Result<State, Failure> {
        if !self.watches() {
            return Ok(State::Done);
        }
        let user = self.user()?;
        let output = match output {
            Some(output) => Some(output),
            // The waiter was restarted, or the engine was slow: earlier output counts, too.
            None => self.listen(user, true).await,
        };
        let limit = Duration::from_secs(self.duty.watch_seconds);
        // A command that should take the machine down is watched until it ends: only then is it
        // clear whether it did.
        let duty = self.duty;
        let goes_on = duty.fallback.is_some() || duty.user_ends_machine();
        let outcome = tokio::select! {
            biased;
            outcome = watch(&self.lifecycle, user, output, limit, goes_on) => outcome,
            // A machine or an engine that goes down ends us this way.
            signal = signals.next_stop() => return Ok(State::Stopped { signal, started: true }),
        };
        self.report(&outcome)?;
        let now = self.process.clock.now();
        match (outcome, self.duty.finish_reboot) {
            (Outcome::Exited { code: 0, .. }, Some(end)) => {
                self.tell(Event::GoingDown, end.name());
                let finished = finish_reboot(end, self.process, signals).await;
                finished.inspect_err(|failure| self.tell(Event::StillRunning, &failure.message))?;
                Ok(State::LastCall)
            }
            (Outcome::Exited { .. }, None) if goes_on => Ok(State::StillRunning { since: now }),
            (Outcome::Exited { .. }, None) => {
                self.journal.note(&Fact::Done);
                Ok(State::Ended)
            }
            // It is unknown whether the container ended, so this is no reason to fall back.
            (Outcome::Lost(_), _) if goes_on => tokio::select! {
                biased;
                () = sleep(LOST_PAUSE) => Ok(State::Watching { output: None }),
                signal = signals.next_stop() => Ok(State::Stopped { signal, started: true }),
            },
            _ => Ok(State::Done),
        }
    }

    /// Reports what became of the user container.
    ///
    /// # Errors
    /// If it failed.
    fn report(&self, outcome: &Outcome) -> Result<(), Failure> {
        let failure = match outcome {
            Outcome::Running => {
                log::info!(watched_seconds = self.duty.watch_seconds; "the user container runs");
                return Ok(());
            }
            Outcome::Lost(why) => {
                log::warn!(error = why.as_str(); "lost the engine while watching the user container");
                return Ok(());
            }
            Outcome::Exited { code: 0, .. } => {
                log::info!(exit_code = 0; "the user container ended with success");
                return Ok(());
            }
            Outcome::Removed => Failure::new(
                "the user container was removed by something else while it was watched",
            )
            .fix("find out what removes containers on this machine, and run the Workflow again"),
            Outcome::Unseen => Failure::new(
                "the user container ended while the engine was unavailable; its exit code is unknown",
            )
            .fix("see the log of the OSIE's engine, and whether the machine did what it should"),
            Outcome::Exited { code, note, last_lines } => {
                for line in last_lines {
                    log::error!(output = line.as_str(); "the user container's last lines");
                }
                let message = format!("the user container failed with exit code {code}");
                let ended = Ended { exit_code: Some(*code), last_lines: last_lines.clone() };
                self.reporter.tell(Event::Failed, &message, &ended);
                let failure = if ENDED_ITSELF.contains(code)
                    && self.duty.word_of_end.is_some()
                    && !self.duty.has_host_pids
                {
                    without_effect(message, false)
                } else {
                    Failure::new(message)
                        .field("command")
                        .fix("see its last lines; the container is kept")
                };
                return Err(if note.is_empty() { failure } else { failure.cause(note.as_str()) });
            }
        };
        self.tell(Event::Failed, &failure.message);
        Err(failure)
    }
}

/// Watches the started user container for at most `limit`, or to its end if `goes_on`.
async fn watch(
    lifecycle: &Lifecycle<'_>,
    user: &str,
    mut output: Option<Box<dyn Output>>,
    limit: Duration,
    goes_on: bool,
) -> Outcome {
    let over = Instant::now() + limit;
    let mut tail = Tail::default();
    let ended = {
        let mut end = lifecycle.await_end(user, None, None);
        loop {
            tokio::select! {
                biased;
                ended = &mut end => break ended,
                () = sleep_until(over), if !goes_on => return Outcome::Running,
                () = hear(&mut output, &mut tail) => {}
            }
        }
    };
    let life = match ended {
        Ok(life) => life,
        Err(refusal) if refusal.is_gone() => return Outcome::Removed,
        Err(refusal) => return Outcome::Lost(refusal.said),
    };
    let (code, note) = match how_it_ended(lifecycle, user, life).await {
        Ok(end) => end,
        Err(outcome) => return outcome,
    };
    // The end may be known before the last output has arrived.
    let rest = async {
        while output.is_some() {
            hear(&mut output, &mut tail).await;
        }
    };
    let _ = timeout(OUTPUT_LIMIT, rest).await;
    Outcome::Exited { code, note, last_lines: tail.into_lines() }
}

/// Asks for the exit code and what the engine says about it, once the process has ended.
async fn how_it_ended(
    lifecycle: &Lifecycle<'_>,
    user: &str,
    life: Life,
) -> Result<(i64, String), Outcome> {
    let until = Instant::now() + NOTICE_LIMIT;
    let mut last = life;
    loop {
        let may_be_killed = !last.is_ended() || matches!(last, Life::Ended { code: KILLED, .. });
        // One that is gone is one whose removal is over.
        let seen = lifecycle.inspect(user).await;
        match seen.map(|seen| seen.map_or(Life::Removing, |seen| seen.life)) {
            Ok(life) if life.is_ended() => last = life,
            Ok(Life::Removing) if may_be_killed => return Err(Outcome::Removed),
            Ok(_) if last.is_ended() => log::debug!("the engine is late"),
            Ok(life) if Instant::now() < until => {
                last = life;
                sleep(PAUSE).await;
                continue;
            }
            // containerd forgets a process that ended while it was down.
            Ok(Life::Created) => return Err(Outcome::Unseen),
            Ok(_) => return Err(Outcome::Lost(NO_END.into())),
            Err(_) if last.is_ended() => {}
            Err(refusal) => return Err(Outcome::Lost(refusal.said)),
        }
        return match last {
            Life::Ended { code, note } => Ok((code, note)),
            _ => Err(Outcome::Lost(NO_END.into())),
        };
    }
}

/// Takes the next piece of the output; never returns if none will come.
async fn hear(output: &mut Option<Box<dyn Output>>, tail: &mut Tail) {
    let Some(open) = output else { return std::future::pending().await };
    match open.next().await {
        Ok(Some(piece)) => tail.feed(&piece),
        _ => *output = None,
    }
}
