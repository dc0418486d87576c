//! Watching the user container: what becomes of it is said, and what is of no use any more is removed.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::end::finish_reboot;
use super::journal::Fact;
use super::{State, Waiter, is_end};
use crate::engine::tail::Tail;
use crate::engine::{Life, Output};
use crate::error::Failure;
use crate::lifecycle::Lifecycle;
use crate::signals::Signals;

/// How long the last output may take to arrive after the container ended.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2);
/// How long the engine may take to say how a process ended.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks whether it says so.
const PAUSE: Duration = Duration::from_millis(100);

const NO_END: &str = "the engine does not say how it ended";

/// What the waiter saw of the user container.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Still running when the time was over.
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
    /// It ended while the engine was away, and nothing tells how.
    Unseen,
    /// Somebody removed it.
    Removed,
    /// The engine went away; says how. A machine that goes down looks like this.
    Lost(String),
}

impl Waiter<'_> {
    /// Watches the user container, says what became of it and clears up.
    pub(super) async fn watch(&self, output: Option<Box<dyn Output>>, signals: &mut Signals) -> Result<State, Failure> {
        let limit = Duration::from_secs(self.duty.watch_seconds);
        if limit.is_zero() {
            return Ok(State::Done);
        }
        let output = match output {
            Some(output) => Some(output),
            // An earlier life, or an engine that was slow: what was said before counts, too.
            None => self.listen(true).await,
        };
        let outcome = tokio::select! {
            biased;
            outcome = watch(&self.lifecycle, &self.user, output, limit) => outcome,
            // A machine that goes down ends us this way, and its engine too.
            signal = signals.stop() => return Ok(State::Stopped { signal, started: true }),
        };
        self.report(&outcome)?;
        if let (Outcome::Exited { code: 0, .. }, Some(request)) = (&outcome, self.duty.finish_reboot) {
            finish_reboot(request, signals).await?;
            return Ok(State::LastCall);
        }
        if matches!(outcome, Outcome::Exited { .. }) {
            self.journal.note(&Fact::Done);
            return Ok(State::Ended);
        }
        Ok(State::Done)
    }

    /// Says what became of it.
    ///
    /// # Errors
    /// If it failed.
    fn report(&self, outcome: &Outcome) -> Result<(), Failure> {
        match outcome {
            Outcome::Running => tracing::info!(watched_seconds = self.duty.watch_seconds, "the user container runs"),
            Outcome::Removed => {
                let failure = Failure::new("the user container was removed by somebody while it was watched");
                return Err(failure.fix("look for who removes containers on this machine, and run the Workflow again"));
            }
            Outcome::Unseen => {
                let failure = Failure::new("the user container ended while the engine was away, and nobody saw how");
                return Err(failure.fix("see the log of the OSIE's engine, and whether the machine did what it should"));
            }
            Outcome::Lost(why) => tracing::warn!(error = why, "lost the engine while watching the user container"),
            Outcome::Exited { code: 0, .. } => tracing::info!(exit_code = 0, "the user container ended with success"),
            Outcome::Exited { code, note, last_lines } => {
                for line in last_lines {
                    tracing::error!(output = line.as_str(), "the user container's last lines");
                }
                let failure = Failure::new(format!("the user container failed with exit code {code}"));
                let failure = failure.field("command").fix("see its last lines; the container is kept");
                return Err(if note.is_empty() { failure } else { failure.cause(note.as_str()) });
            }
        }
        Ok(())
    }
}

/// Watches the started user container for at most `limit`.
async fn watch(lifecycle: &Lifecycle<'_>, user: &str, mut output: Option<Box<dyn Output>>, limit: Duration) -> Outcome {
    let over = Instant::now() + limit;
    let mut tail = Tail::default();
    let ended = {
        let mut end = lifecycle.await_end(user, None, None);
        loop {
            tokio::select! {
                biased;
                ended = &mut end => break ended,
                () = hear(&mut output, &mut tail) => {}
                () = sleep_until(over) => return Outcome::Running,
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
    // The end may be known before the last output has come.
    let rest = async {
        while output.is_some() {
            hear(&mut output, &mut tail).await;
        }
    };
    let _ = timeout(OUTPUT_LIMIT, rest).await;
    Outcome::Exited { code, note, last_lines: tail.into_lines() }
}

/// Asks for the exit code and what the engine says about it, once the process has ended.
async fn how_it_ended(lifecycle: &Lifecycle<'_>, user: &str, life: Life) -> Result<(i64, String), Outcome> {
    let until = Instant::now() + END_LIMIT;
    let mut last = life;
    loop {
        match lifecycle.look_at(user).await {
            Ok(Some(seen)) if is_end(&seen.life) => last = seen.life,
            Ok(Some(_)) if is_end(&last) => tracing::debug!("the engine is late"),
            Ok(Some(seen)) if Instant::now() < until => {
                last = seen.life;
                sleep(PAUSE).await;
                continue;
            }
            // containerd forgets a process that ended while it was away.
            Ok(Some(seen)) if seen.life == Life::Created => return Err(Outcome::Unseen),
            Ok(Some(_)) => return Err(Outcome::Lost(NO_END.into())),
            Ok(None) if is_end(&last) => {}
            Ok(None) => return Err(Outcome::Removed),
            Err(_) if is_end(&last) => {}
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
