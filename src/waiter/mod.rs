//! The waiter's journey, as a state machine: await the action's end -> wait -> start the user container -> watch it.

mod arm;
mod end;
mod journal;
mod verdict;
mod watch;

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use self::arm::{Armed, NotArmed};
use self::journal::{Fact, Journal, Memory};
use self::verdict::Verdict;
use crate::engine::{End, Engine, Life, Listen, Output, Removal};
use crate::error::{Context, Failure};
use crate::failures;
use crate::lifecycle::{Discarded, Lifecycle, Persistence, WAITER_PATIENCE};
use crate::logging::ARMED;
use crate::machine::clock::Moment;
use crate::process::Process;
use crate::retry::retry_within;
use crate::safe_moment::{self, Waited};
use crate::settings::Expired;
use crate::signals::{Signal, Signals};
use crate::ticket::Duty;

/// How long attaching to the user container's output may hold its start up.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
/// How long a waiter that was told to end may take to remove itself.
const LAST_CALL_LIMIT: Duration = Duration::from_secs(1);
/// How long an engine is asked whether it is there.
const PROBE_LIMIT: Duration = Duration::from_millis(1500);
/// How long a waiter that was told to stop may take to remove the user container: an engine gives it 10 s before it
/// kills it.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// How a waiter's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done,
    /// It failed, and said so.
    Failed,
    /// The machine or the engine goes down. Started again, the waiter goes on from its journal.
    Interrupted,
}

/// Where a waiter is in its journey. Each state says what it needs to go on from there.
enum State {
    /// The action container has not ended, as far as the waiter knows.
    AwaitEnd {
        /// The wait for it, if it is open.
        pending: Option<End>,
    },
    /// The action succeeded; the user container is to start at the safe moment.
    Waiting {
        /// When success was known.
        since: Moment,
    },
    /// The user container is to be started now.
    Starting,
    /// The user container was started.
    Watching {
        /// Its output, if it was attached to before the start.
        output: Option<Box<dyn Output>>,
    },
    /// The user container is not to run.
    Cancelled {
        /// Why.
        why: String,
    },
    /// It failed and said so; the user container is not to run, and the waiter stays to explain it.
    Failed,
    /// Somebody told the waiter to stop.
    Stopped {
        /// The signal's name.
        signal: &'static str,
        /// The user container was started.
        started: bool,
    },
    /// The user container ended with success, and is removed.
    Ended,
    /// All is done, and the waiter removes itself.
    Done,
    /// The same for a waiter that was told to stop, which must not take long.
    LastCall,
    /// The machine or the engine goes down.
    Interrupted,
}

/// A waiter that is armed.
struct Waiter<'a> {
    lifecycle: Lifecycle<'a>,
    process: &'a Process,
    duty: &'a Duty,
    journal: Journal,
    /// Its own container's ID.
    own: String,
    /// The user container's ID.
    user: String,
    /// The handoff gave its word, as far as the waiter has heard.
    word: Cell<bool>,
}

/// Waits for the action's success and runs the user container. What failed has been said, and the user container is
/// kept if it explains the failure.
pub async fn run(engine: &dyn Engine, process: &Process, duty: &Duty, signals: &mut Signals) -> Exit {
    let lifecycle = Lifecycle::new(engine, WAITER_PATIENCE);
    let word = Cell::new(false);
    let armed = {
        let mut arming = pin!(arm::arm(&lifecycle, process, duty));
        loop {
            tokio::select! {
                biased;
                armed = &mut arming => break armed,
                signal = signals.next() => match signal {
                    Signal::Stop(_) => return Exit::Interrupted,
                    Signal::Word => word.set(true),
                },
            }
        }
    };
    let Armed { waiter: own, user, pending, memory, journal } = match armed {
        Ok(armed) => armed,
        Err(NotArmed::Lost(failure)) => {
            (process.fail)(&failure.fix(engine.about().check));
            return Exit::Failed;
        }
        Err(NotArmed::Useless(failure)) => {
            (process.fail)(&failure);
            let message = "could not arm the waiter; it removed everything this handoff had created";
            let roll_back = or_interrupted(signals, lifecycle.roll_back(&duty.handoff)).await;
            let Some(rolled_back) = roll_back else { return Exit::Interrupted };
            (process.fail)(&rolled_back.err().unwrap_or_else(|| Failure::new(message)));
            return Exit::Failed;
        }
    };
    (process.announce)(ARMED, &duty.handoff);
    if word.get() {
        journal.note(&Fact::Word);
    }
    word.set(word.get() || memory.word);
    let state = resume(&memory, pending, process.clock.now());
    let waiter = Waiter { lifecycle, process, duty, journal, own, user, word };
    match waiter.run_armed(state, signals).await {
        Ok(exit) => exit,
        Err(failure) => {
            // Said before anything else: whoever ends us from now on ends us too late.
            (process.fail)(&failure);
            waiter.retire(signals).await
        }
    }
}

/// Where to go on, by what an earlier life noted. Pure but for what it says.
fn resume(memory: &Memory, pending: Option<End>, now: Moment) -> State {
    let (state, at) = match *memory {
        Memory { done: true, .. } => (State::Ended, "the user container had ended with success"),
        Memory { started: true, .. } => (State::Watching { output: None }, "the user container was started before"),
        Memory { cancelled: true, .. } => {
            let why = "the user container was about to be removed".to_owned();
            (State::Cancelled { why }, "the user container is not to run")
        }
        Memory { starting: true, .. } => (State::Starting, "the wait was over"),
        // A machine that booted anew counts anew.
        Memory { succeeded: Some(since), .. } => (State::Waiting { since: since.min(now) }, "the wait goes on"),
        Memory { armed: Some(_), .. } => (State::AwaitEnd { pending }, "the action's end is awaited"),
        Memory { .. } => return State::AwaitEnd { pending },
    };
    tracing::warn!("this waiter was ended and started again: {at}");
    state
}

impl Waiter<'_> {
    /// Goes from state to state, from "armed" to the end.
    async fn run_armed(&self, mut state: State, signals: &mut Signals) -> Result<Exit, Failure> {
        loop {
            state = match state {
                State::AwaitEnd { pending } => self.await_end(pending, signals).await?,
                State::Waiting { since } => self.wait(since, signals).await?,
                State::Starting => self.start(signals).await?,
                State::Watching { output } => self.watch(output, signals).await?,
                State::Stopped { signal, started } => self.stop(signal, started).await?,
                State::Cancelled { why } => {
                    or_interrupted(signals, self.cancel(&why)).await.unwrap_or(Ok(State::Interrupted))?
                }
                State::Failed => match or_interrupted(signals, self.discard()).await {
                    Some(became) => {
                        tracing::warn!("the user container {}", became?);
                        return Ok(self.retire(signals).await);
                    }
                    None => State::Interrupted,
                },
                State::Ended => {
                    let removal = self.lifecycle.remove_surely(&self.user, Removal::Idle);
                    match or_interrupted(signals, removal).await {
                        Some(removed) => removed.context("cannot remove the ended container").map(|()| State::Done)?,
                        None => State::Interrupted,
                    }
                }
                State::Done => {
                    let removed = or_interrupted(signals, self.remove_self()).await;
                    return removed.map_or(Ok(Exit::Interrupted), |removed| removed.map(|()| Exit::Done));
                }
                State::LastCall => {
                    let removed = timeout(LAST_CALL_LIMIT, self.remove_self()).await;
                    return Ok(if matches!(removed, Ok(Ok(()))) { Exit::Done } else { Exit::Interrupted });
                }
                State::Interrupted => return Ok(Exit::Interrupted),
            }
        }
    }

    /// Awaits the action's end: on success the wait begins, else the user container never runs.
    async fn await_end(&self, pending: Option<End>, signals: &mut Signals) -> Result<State, Failure> {
        let Self { lifecycle, duty, journal, word, .. } = self;
        // On containerd the handoff writes it into the journal itself.
        let heard = || word.get() || journal.memory().word;
        let mut verdict = pin!(verdict::verdict(lifecycle, duty, pending, &heard));
        let verdict = loop {
            tokio::select! {
                biased;
                verdict = &mut verdict => break verdict,
                signal = signals.next() => match signal {
                    Signal::Stop(signal) => return Ok(State::Stopped { signal, started: false }),
                    Signal::Word => {
                        word.set(true);
                        journal.note(&Fact::Word);
                    }
                },
            }
        };
        match verdict {
            Verdict::Succeeded => {
                // The agent has its report on the way by now, whatever it had to do before.
                let since = self.process.clock.now();
                self.journal.note(&Fact::Succeeded(since));
                tracing::info!(wait_seconds = self.duty.wait_seconds, "the action succeeded; starting the wait");
                Ok(State::Waiting { since })
            }
            Verdict::Failed(how) => Ok(State::Cancelled { why: format!("the action did not succeed: {how}") }),
            Verdict::Unknown(why) => {
                let failure = Failure::new("cannot know how the action ended, so nothing is started").cause(why);
                (self.process.fail)(&failure.fix("look at the engine's log, and run the Workflow again"));
                Ok(State::Failed)
            }
        }
    }

    /// Waits for the safe moment.
    async fn wait(&self, since: Moment, signals: &mut Signals) -> Result<State, Failure> {
        let min_wait = Duration::from_secs(self.duty.wait_seconds);
        let signal = self.duty.signal.as_ref();
        let waited = tokio::select! {
            biased;
            waited = safe_moment::wait_until_safe(self.process.clock, since, min_wait, signal) => waited?,
            signal = signals.stop() => return Ok(State::Stopped { signal, started: false }),
        };
        if let (Waited::Expired, Some(signal)) = (waited, signal)
            && self.on_expired(signal) == Expired::Abort
        {
            return Ok(State::Failed);
        }
        self.journal.note(&Fact::Starting);
        Ok(State::Starting)
    }

    /// Starts the user container, attached if it is to be watched. That it cannot be listened to is no reason not to
    /// start it.
    async fn start(&self, signals: &mut Signals) -> Result<State, Failure> {
        let Self { lifecycle, duty, user, .. } = self;
        let start = async {
            let output = if duty.watch_seconds > 0 { self.listen(false).await } else { None };
            let started = lifecycle.start_surely(user, Persistence::WhateverMayPass).await;
            started.map_err(|refusal| failures::start_failed(&lifecycle.engine.about(), refusal))?;
            Ok::<_, Failure>(output)
        };
        let output = tokio::select! {
            biased;
            output = start => output?,
            signal = signals.stop() => return Ok(State::Stopped { signal, started: false }),
        };
        self.journal.note(&Fact::Started);
        tracing::info!(container = self.user, "user container started");
        Ok(State::Watching { output })
    }

    /// Opens the user container's output; with what it said before if that is asked for and the engine still has it.
    async fn listen(&self, replay: bool) -> Option<Box<dyn Output>> {
        let listen = Listen { container: &self.user, tty: self.duty.tty, replay, ours: true };
        let open = || self.lifecycle.engine.output(listen);
        match timeout(LISTEN_LIMIT, retry_within(LISTEN_LIMIT, "listening", open)).await {
            Ok(Ok(output)) => return Some(output),
            Ok(Err(refusal)) => {
                tracing::warn!(error = %refusal, "cannot listen to the user container; its output will not be shown");
            }
            Err(_) => tracing::warn!("the engine is slow; the user container's output will not be shown"),
        }
        None
    }

    /// Somebody told the waiter to stop. If the engine is there, that cancels what was not started; if it is not, it or
    /// the machine goes down, and nobody meant the waiter.
    async fn stop(&self, signal: &'static str, started: bool) -> Result<State, Failure> {
        let probe = Lifecycle::new(self.lifecycle.engine, PROBE_LIMIT);
        if !matches!(timeout(PROBE_LIMIT, probe.look_at(&self.user)).await, Ok(Ok(_))) {
            tracing::warn!("the waiter got {signal}, and the engine does not answer: it or the machine goes down");
            return Ok(State::Interrupted);
        }
        if started {
            tracing::info!("the waiter got {signal} while it watched; the user container was started");
            return Ok(State::LastCall);
        }
        let why = format!("the waiter got {signal}");
        if let Ok(Ok(_)) = timeout(CANCEL_LIMIT, self.cancel(&why)).await {
            return Ok(State::LastCall);
        }
        tracing::warn!("{why}, and the engine does not remove the user container any more");
        Ok(State::Interrupted)
    }

    /// The signal did not come in time: says so, and what happens now.
    fn on_expired(&self, signal: &safe_moment::Signal) -> Expired {
        let message = format!("timed out after {} s waiting for {}", signal.max_seconds, signal.name);
        let failure = Failure::new(message).field("environment.WAITDAEMON_WAIT_FOR").fix(signal.fix());
        (self.process.fail)(&failure.cause(match signal.expired {
            Expired::Run => "the user container is started all the same",
            Expired::Abort => "the user container is removed and will not run",
        }));
        signal.expired
    }

    /// Removes the user container if it has not run.
    async fn cancel(&self, why: &str) -> Result<State, Failure> {
        self.journal.note(&Fact::Cancelled);
        tracing::warn!("{why}; removing the user container");
        tracing::info!("the user container {}", self.discard().await?);
        Ok(State::Done)
    }

    /// Removes the user container if it has not run; returns what became of it.
    async fn discard(&self) -> Result<&'static str, Failure> {
        Ok(match self.lifecycle.discard(&self.user).await? {
            Discarded::Removed => "was removed and will not run",
            Discarded::Started => "was started before that",
        })
    }

    /// Keeps the engine from starting us again: our container is kept for what it says.
    async fn retire(&self, signals: &mut Signals) -> Exit {
        let retire = || self.lifecycle.engine.retire(&self.own);
        let retired = retry_within(self.lifecycle.patience, "retiring the waiter", retire);
        let Some(retired) = or_interrupted(signals, retired).await else { return Exit::Interrupted };
        if let Err(failure) = retired.context("cannot keep the engine from starting the waiter again") {
            (self.process.fail)(&failure);
        }
        Exit::Failed
    }

    /// Removes our own container; this process ends with it.
    async fn remove_self(&self) -> Result<(), Failure> {
        let removed = self.lifecycle.remove_surely(&self.own, Removal::Own).await;
        removed.context("cannot remove the waiter's own container")
    }
}

/// Returns the step's result. If somebody tells us to stop meanwhile, the engine may be gone for good: then `None`, soon.
async fn or_interrupted<T>(signals: &mut Signals, step: impl Future<Output = T>) -> Option<T> {
    let mut step = pin!(step);
    tokio::select! {
        biased;
        result = &mut step => Some(result),
        _ = signals.stop() => timeout(PROBE_LIMIT, step).await.ok(),
    }
}

/// True if the container's end is known with this.
fn is_end(life: &Life) -> bool {
    matches!(life, Life::Ended { .. })
}
