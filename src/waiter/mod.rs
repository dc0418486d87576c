//! The waiter's journey, as a state machine: await the action's end -> wait -> start the user container -> watch it.

mod arm;
mod end;
mod verdict;
mod watch;

use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;

use self::arm::Armed;
use self::verdict::Verdict;
use crate::engine::{End, Engine, Life, Listen, Output, Removal};
use crate::error::{Context, Failure};
use crate::failures;
use crate::lifecycle::{Discarded, Lifecycle, WAITER_PATIENCE};
use crate::logging::ARMED;
use crate::machine::clock::Moment;
use crate::process::Process;
use crate::retry::retry_within;
use crate::safe_moment::{self, Signal, Waited};
use crate::settings::Expired;
use crate::signals::StopSignals;
use crate::ticket::Duty;

/// How long attaching to the user container's output may hold its start up.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
/// How long a waiter that was told to end may take to remove itself.
const LAST_CALL_LIMIT: Duration = Duration::from_secs(1);

/// Where a waiter is in its journey. Each state says what it needs to go on from there.
enum State {
    /// The action container has not ended, as far as the waiter knows.
    AwaitEnd {
        /// The wait for it that is open; `None` if the container is gone.
        pending: Option<End>,
    },
    /// The action succeeded; the user container is to start at the safe moment.
    Waiting {
        /// When success was known.
        ended: Moment,
    },
    /// The user container is to be started now.
    Starting,
    /// The user container was started.
    Watching {
        /// Its output, if it was attached to before the start.
        output: Option<Box<dyn Output>>,
    },
    /// All is done, and the waiter removes itself.
    Done(Farewell),
}

/// How a waiter takes its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// It removes its own container.
    Certain,
    /// The same, if the engine is still there to do it; a machine that goes down must not wait.
    Quick,
}

/// A waiter that is armed.
struct Waiter<'a> {
    lifecycle: Lifecycle<'a>,
    process: &'a Process,
    duty: &'a Duty,
    stop: &'a mut StopSignals,
    /// Its own container's ID.
    own: String,
    /// The user container's ID.
    user: String,
    /// The action was seen alive by this waiter, in this life or an earlier one.
    saw_action: bool,
}

/// Waits for the action's success and runs the user container. Returns true if all went well; what failed has been
/// said, and the user container is kept if it explains the failure.
pub async fn run(engine: &dyn Engine, process: &Process, duty: &Duty, stop: &mut StopSignals) -> bool {
    let lifecycle = Lifecycle::new(engine, WAITER_PATIENCE);
    let armed = match arm::arm(&lifecycle, duty).await {
        Ok(armed) => armed,
        Err(failure) => {
            // Nobody counts on us: the handoff fails or is gone. Nothing of it may stay.
            (process.fail)(&failure);
            let message = "could not arm the waiter; it removed everything this handoff had created";
            let rolled_back = lifecycle.roll_back(&duty.handoff).await;
            (process.fail)(&rolled_back.err().unwrap_or_else(|| Failure::new(message)));
            return false;
        }
    };
    (process.announce)(ARMED, &duty.handoff);
    let Armed { waiter: own, user, pending, started, saw_action } = armed;
    let mut state = State::AwaitEnd { pending };
    if started {
        let message = "this waiter was killed and started again; the user container was started before";
        tracing::warn!(container = user, "{message}");
        state = State::Watching { output: None };
    }
    let mut waiter = Waiter { lifecycle, process, duty, stop, own, user, saw_action };
    match waiter.run_armed(state).await {
        Ok(()) => true,
        Err(failure) => {
            // Said before anything else: whoever ends us from now on ends us too late.
            (process.fail)(&failure);
            waiter.retire().await;
            false
        }
    }
}

impl Waiter<'_> {
    /// Goes from state to state, from "armed" to the end.
    async fn run_armed(&mut self, mut state: State) -> Result<(), Failure> {
        loop {
            state = match state {
                State::AwaitEnd { pending } => self.await_end(pending).await?,
                State::Waiting { ended } => self.wait(ended).await?,
                State::Starting => self.start().await?,
                State::Watching { output } => self.watch(output).await?,
                State::Done(Farewell::Certain) => return self.remove_self().await,
                State::Done(Farewell::Quick) => return self.try_remove_self().await,
            }
        }
    }

    /// Awaits the action's end: on success the wait begins, else the user container never runs.
    async fn await_end(&mut self, pending: Option<End>) -> Result<State, Failure> {
        let evidence = verdict::Evidence { duty: self.duty, clock: self.process.clock, saw_action: self.saw_action };
        let (verdict, ended) = tokio::select! {
            biased;
            verdict = verdict::verdict(&self.lifecycle, &evidence, pending) => verdict,
            signal = self.stop.next() => return self.cancel(&received(signal)).await,
        };
        match verdict {
            Verdict::Succeeded => {
                tracing::info!(wait_seconds = self.duty.wait_seconds, "the action succeeded; starting the wait");
                Ok(State::Waiting { ended })
            }
            Verdict::Failed(how) => self.cancel(&format!("the action did not succeed: {how}")).await,
            Verdict::Unknown(why) => {
                let failure = Failure::new("cannot know how the action ended, so nothing is started").cause(why);
                (self.process.fail)(&failure.fix("look at the engine's log, and run the Workflow again"));
                self.cancel("the action's end is unknown").await
            }
        }
    }

    /// Waits for the safe moment.
    async fn wait(&mut self, ended: Moment) -> Result<State, Failure> {
        let min_wait = Duration::from_secs(self.duty.wait_seconds);
        let signal = self.duty.signal.as_ref();
        let waited = tokio::select! {
            biased;
            waited = safe_moment::wait_until_safe(self.process.clock, ended, min_wait, signal) => waited?,
            signal = self.stop.next() => return self.cancel(&received(signal)).await,
        };
        if let (Waited::Expired, Some(signal)) = (waited, signal) {
            self.on_expired(signal).await?;
        }
        Ok(State::Starting)
    }

    /// Starts the user container, attached if it is to be watched. That it cannot be listened to is no reason not to
    /// start it.
    async fn start(&mut self) -> Result<State, Failure> {
        let Self { lifecycle, duty, stop, user, .. } = self;
        let start = async {
            let mut output = None;
            if duty.watch_seconds > 0 {
                let listen = Listen { container: user, tty: duty.tty, replay: false, ours: true };
                let open = || lifecycle.engine.output(listen);
                match timeout(LISTEN_LIMIT, retry_within(LISTEN_LIMIT, "listening", open)).await {
                    Ok(Ok(opened)) => output = Some(opened),
                    Ok(Err(refusal)) => {
                        tracing::warn!(error = %refusal, "cannot listen to the user container; its output will not be shown");
                    }
                    Err(_) => tracing::warn!("the engine is slow; the user container's output will not be shown"),
                }
            }
            let started = lifecycle.start_surely(user).await;
            started.map_err(|refusal| failures::start_failed(&lifecycle.engine.about(), refusal))?;
            Ok::<_, Failure>(output)
        };
        let output = tokio::select! {
            biased;
            output = start => output?,
            signal = stop.next() => return self.cancel(&received(signal)).await,
        };
        tracing::info!(container = self.user, "user container started");
        Ok(State::Watching { output })
    }

    /// The signal did not come in time: says so, and removes the user container if that is asked for.
    ///
    /// # Errors
    /// If the user container is not to run.
    async fn on_expired(&self, signal: &Signal) -> Result<(), Failure> {
        let message = format!("timed out after {} s waiting for {}", signal.max_seconds, signal.name);
        let failure = Failure::new(message).field("environment.WAITDAEMON_WAIT_FOR").fix(signal.fix());
        match signal.expired {
            Expired::Run => (self.process.fail)(&failure.cause("the user container is started all the same")),
            Expired::Abort => {
                let became = match self.lifecycle.discard(&self.user).await? {
                    Discarded::Removed => "was removed and will not run",
                    Discarded::Started => "was started",
                };
                return Err(failure.cause(format!("the user container {became}")));
            }
        }
        Ok(())
    }

    /// Removes the user container if it has not run. Boxed: many call it.
    fn cancel<'b>(&'b self, why: &'b str) -> Pin<Box<dyn Future<Output = Result<State, Failure>> + 'b>> {
        Box::pin(async move {
            match self.lifecycle.discard(&self.user).await? {
                Discarded::Removed => tracing::warn!("{why}; the user container was removed and will not run"),
                Discarded::Started => tracing::warn!("{why}; too late, the user container was started"),
            }
            Ok(State::Done(Farewell::Certain))
        })
    }

    /// Keeps the engine from starting us again: our container is kept for what it says.
    async fn retire(&self) {
        let retire = || self.lifecycle.engine.retire(&self.own);
        let retired = retry_within(self.lifecycle.patience, "retiring the waiter", retire).await;
        if let Err(failure) = retired.context("cannot keep the engine from starting the waiter again") {
            (self.process.fail)(&failure);
        }
    }

    /// Removes our own container; this process ends with it.
    async fn remove_self(&self) -> Result<(), Failure> {
        let removed = self.lifecycle.remove_surely(&self.own, Removal::Own).await;
        removed.context("cannot remove the waiter's own container")
    }

    /// The same within [`LAST_CALL_LIMIT`].
    async fn try_remove_self(&self) -> Result<(), Failure> {
        if !matches!(timeout(LAST_CALL_LIMIT, self.remove_self()).await, Ok(Ok(()))) {
            tracing::debug!("the engine does not remove the waiter's container any more");
        }
        Ok(())
    }
}

fn received(signal: &str) -> String {
    format!("the waiter got {signal}")
}

/// True if the container's end is known with this.
fn is_end(life: &Life) -> bool {
    matches!(life, Life::Ended { .. })
}
