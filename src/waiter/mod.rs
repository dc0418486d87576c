//! The waiter's journey, as a state machine: await the action's end -> wait -> start the user
//! container -> watch it. If there is no user container, or it fails and there is a fallback: ->
//! end the machine.

mod arm;
mod end;
mod journal;
mod state;
mod verdict;
mod watch;

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::timeout;

use self::arm::{Armed, NotArmed};
use self::journal::{Fact, Journal};
use self::state::{State, resume};
use self::verdict::Verdict;
use crate::end::End;
use crate::engine::{Engine, Listen, Output, PendingEnd, Refusal, Removal};
use crate::error::{Context, Failure};
use crate::failures;
use crate::lifecycle::{Discarded, Lifecycle, WAITER_PATIENCE};
use crate::logging::ARMED;
use crate::machine::clock::Moment;
use crate::machine::kexec;
use crate::process::Process;
use crate::report::{Ended, Event, Reporter};
use crate::retry::retry_within;
use crate::safe_moment::{self, AwaitedSignal, Waited};
use crate::settings::Expired;
use crate::signals::{Signal, Signals};
use crate::ticket::Duty;

/// How long attaching to the user container's output may delay its start.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
/// How long a waiter that was told to stop may take to remove itself.
const LAST_CALL_LIMIT: Duration = Duration::from_secs(1);
/// How long to wait for an engine's answer when checking that it is there.
const PROBE_LIMIT: Duration = Duration::from_millis(1500);
/// How long to wait for a kernel that is being loaded, before it can be unloaded: less than a step
/// gets after a signal.
const UNLOAD_LIMIT: Duration = Duration::from_secs(1);
/// How long reports may delay the exit of a waiter that has nothing else to do.
const REPORT_LIMIT: Duration = Duration::from_secs(3);
/// How long a waiter that was told to stop may take to remove the user container: an engine kills
/// the waiter after 10 s.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// How a waiter's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// The waiter failed, and said so.
    Failed,
    /// The machine or the engine goes down. If started again, the waiter goes on from its journal.
    Interrupted,
}

/// A waiter that is armed.
struct Waiter<'a> {
    lifecycle: Lifecycle<'a>,
    process: &'a Process,
    duty: &'a Duty,
    journal: Journal,
    /// Reports what becomes of the action.
    reporter: Reporter,
    /// The waiter's own container ID.
    own: String,
    /// The user container's ID, if there is one.
    user: Option<String>,
    /// Whether the waiter has received the handoff's word.
    word: Cell<bool>,
    /// Whether the waiter has gone on to the fallback.
    fell_back: Cell<bool>,
}

/// Waits for the action's success and runs the user container. Every failure has been logged, and
/// the user container is kept if it explains the failure.
pub async fn run(
    engine: &dyn Engine,
    process: &Process,
    duty: &Duty,
    signals: &mut Signals,
) -> Exit {
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
            (process.log_failure)(&failure.fix(engine.about().check));
            return Exit::Failed;
        }
        Err(NotArmed::Abandoned(failure)) => {
            (process.log_failure)(&failure);
            unload_kernel(process, duty).await;
            let message =
                "could not arm the waiter; it removed everything this handoff had created";
            let roll_back =
                or_interrupted(signals, lifecycle.roll_back(&duty.handoff, Removal::Own)).await;
            let Some(rolled_back) = roll_back else { return Exit::Interrupted };
            (process.log_failure)(&rolled_back.err().unwrap_or_else(|| Failure::new(message)));
            return Exit::Failed;
        }
    };
    (process.announce)(ARMED, &duty.handoff);
    if word.get() {
        journal.note(&Fact::Word);
    }
    word.set(word.get() || memory.word);
    let fell_back = Cell::new(memory.failed.is_some());
    let (now, boot) = (process.clock.now(), &process.machine.boot);
    let state = resume(&memory, pending, now, boot, duty.may_end_machine());
    let reporter = reporter(duty);
    let lifecycle = lifecycle.persistent();
    let waiter = Waiter { lifecycle, process, duty, journal, reporter, own, user, word, fell_back };
    match waiter.run_armed(state, signals).await {
        Ok(exit) => exit,
        Err(failure) => {
            // Log the failure before anything else: whatever ends us from now on comes too late to
            // hide it.
            (process.log_failure)(&failure);
            waiter.retire(signals).await
        }
    }
}

/// Unloads the kernel that the handoff loaded, if it loaded one. Boxed, so that its code exists
/// once.
fn unload_kernel<'a>(
    process: &'a Process,
    duty: &'a Duty,
) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(async {
        if duty.unloads_kernel()
            && let Err(error) = kexec::unload(UNLOAD_LIMIT).await
        {
            (process.log_failure)(&failures::kernel_stays_loaded(error));
        }
    })
}

fn reporter(duty: &Duty) -> Reporter {
    let report = duty.report.as_ref();
    let worker = report.map_or("", |report| report.worker.as_str());
    let about = [
        ("action", duty.action_name.as_str()),
        ("handoff", duty.handoff.as_str()),
        ("worker", worker),
    ];
    let about = about.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    Reporter::new(report.map(|report| report.url.as_str()), about)
}

impl Waiter<'_> {
    /// Runs the state machine, from "armed" to the end.
    async fn run_armed(&self, mut state: State, signals: &mut Signals) -> Result<Exit, Failure> {
        loop {
            state = match state {
                State::AwaitEnd { pending } => self.await_end(pending, signals).await?,
                State::Waiting { since } => self.wait(since, signals).await?,
                State::Starting => {
                    self.journal.note(&Fact::Starting(self.process.machine.boot.clone()));
                    match self.duty.own_end {
                        Some(end) => State::Ending { end, since: self.process.clock.now() },
                        None => {
                            self.start(signals).await.or_else(|failure| self.fall_back(failure))?
                        }
                    }
                }
                State::Watching { output } => {
                    self.watch(output, signals).await.or_else(|failure| self.fall_back(failure))?
                }
                State::StillRunning { since } => self.complain(since, signals).await?,
                State::FallingBack { since } => self.await_fallback(since, signals).await?,
                State::Ending { end, since } => {
                    let ended = self.end_machine(end, since, signals).await;
                    ended.or_else(|failure| self.fall_back(failure))?
                }
                State::Stopped { signal, started } => self.stop(signal, started).await?,
                State::Cancelled { why } => or_interrupted(signals, self.cancel(&why))
                    .await
                    .unwrap_or(Ok(State::Interrupted))?,
                State::Failed => match or_interrupted(signals, self.discard()).await {
                    Some(became) => {
                        log::warn!("{}", became?);
                        return Ok(self.retire(signals).await);
                    }
                    None => State::Interrupted,
                },
                State::Retired => return Ok(self.retire(signals).await),
                State::Ended => match or_interrupted(signals, self.remove_ended()).await {
                    Some(removed) => removed
                        .context("cannot remove the ended container")
                        .map(|()| State::Done)?,
                    None => State::Interrupted,
                },
                State::Done => {
                    self.reporter.flush(REPORT_LIMIT).await;
                    let removed = or_interrupted(signals, self.remove_self()).await;
                    return removed
                        .map_or(Ok(Exit::Interrupted), |removed| removed.map(|()| Exit::Done));
                }
                State::LastCall => {
                    let removed = timeout(LAST_CALL_LIMIT, self.remove_self()).await;
                    return Ok(if matches!(removed, Ok(Ok(()))) {
                        Exit::Done
                    } else {
                        Exit::Interrupted
                    });
                }
                State::Interrupted => return Ok(Exit::Interrupted),
            }
        }
    }

    /// Waits for the action's end. On success the wait begins; otherwise the user container never
    /// runs.
    async fn await_end(
        &self,
        pending: Option<PendingEnd>,
        signals: &mut Signals,
    ) -> Result<State, Failure> {
        let Self { lifecycle, duty, journal, word, .. } = self;
        // On containerd the handoff writes the word into the journal itself.
        let heard = || word.get() || journal.memory().word;
        let mut verdict = pin!(verdict::await_verdict(lifecycle, duty, pending, &heard));
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
                // By now the agent's report is on the way, whatever the agent had to do before.
                let since = self.process.clock.now();
                self.journal.note(&Fact::Succeeded(since));
                log::info!(wait_seconds = self.duty.wait_seconds; "the action succeeded; starting the wait");
                Ok(State::Waiting { since })
            }
            Verdict::Failed(how) => {
                Ok(State::Cancelled { why: format!("the action did not succeed: {how}") })
            }
            Verdict::Unknown(why) => {
                let failure =
                    Failure::new("cannot tell how the action ended; starting nothing").cause(why);
                (self.process.log_failure)(
                    &failure.fix("look at the engine's log, and run the Workflow again"),
                );
                self.tell(Event::Failed, "cannot tell how the action ended; starting nothing");
                Ok(State::Failed)
            }
        }
    }

    /// Waits for the safe moment.
    async fn wait(&self, since: Moment, signals: &mut Signals) -> Result<State, Failure> {
        let min_wait = Duration::from_secs(self.duty.wait_seconds);
        let awaited = self.duty.signal.as_ref();
        let waited = tokio::select! {
            biased;
            waited = safe_moment::wait_until_safe(self.process.clock, since, min_wait, awaited) => waited?,
            signal = signals.next_stop() => return Ok(State::Stopped { signal, started: false }),
        };
        if let (Waited::Expired, Some(awaited)) = (waited, awaited)
            && self.on_expired(awaited) == Expired::Abort
        {
            return Ok(State::Failed);
        }
        Ok(State::Starting)
    }

    /// Starts the user container, attached if it is to be watched. If attaching fails, the
    /// container is started anyway.
    async fn start(&self, signals: &mut Signals) -> Result<State, Failure> {
        let Self { lifecycle, .. } = self;
        let user = self.user()?;
        let start = async {
            let output = if self.watches() { self.listen(user, false).await } else { None };
            let started = lifecycle.start_once(user).await;
            started
                .map_err(|refusal| failures::start_failed(&lifecycle.engine.about(), refusal))?;
            Ok::<_, Failure>(output)
        };
        let output = tokio::select! {
            biased;
            output = start => output.inspect_err(|failure| self.tell(Event::Failed, &failure.message))?,
            signal = signals.next_stop() => return Ok(State::Stopped { signal, started: false }),
        };
        self.journal.note(&Fact::Started);
        log::info!(container = user; "user container started");
        self.tell(Event::Started, "user container started");
        Ok(State::Watching { output })
    }

    /// Opens the user container's output. With `replay`, it includes the earlier output that the
    /// engine still has.
    async fn listen(&self, user: &str, replay: bool) -> Option<Box<dyn Output>> {
        let listen = Listen { container: user, tty: self.duty.tty, replay, ours: true };
        let open = || self.lifecycle.engine.output(listen);
        let opened = timeout(LISTEN_LIMIT, retry_within(LISTEN_LIMIT, "listening", open)).await;
        let opened = opened.unwrap_or_else(|_| Err(Refusal::passing("no answer in time")));
        opened
            .inspect_err(|refusal| {
                log::warn!(error = refusal.to_string().as_str(); "cannot listen to the user container; its output will not be shown");
            })
            .ok()
    }

    /// Handles a signal to stop. If the engine is there, the signal cancels what was not started.
    /// If not, the engine or the machine goes down, and the signal was not meant for the waiter.
    async fn stop(&self, signal: &'static str, started: bool) -> Result<State, Failure> {
        if !self.engine_is_there().await {
            log::warn!(
                "the waiter received {signal}, but the engine does not answer: the engine or the machine is going down"
            );
            return Ok(State::Interrupted);
        }
        if started {
            log::info!(
                "the waiter received {signal} after it had started the user container; exiting"
            );
            return Ok(State::LastCall);
        }
        let why = format!("the waiter received {signal}");
        if let Ok(Ok(_)) = timeout(CANCEL_LIMIT, self.cancel(&why)).await {
            return Ok(State::LastCall);
        }
        log::warn!("{why}, but the engine did not remove {} in time", self.what());
        Ok(State::Interrupted)
    }

    /// True if the engine answers at once.
    async fn engine_is_there(&self) -> bool {
        let probe = Lifecycle::new(self.lifecycle.engine, PROBE_LIMIT);
        let known = self.user.as_deref().unwrap_or(&self.own);
        matches!(timeout(PROBE_LIMIT, probe.inspect(known)).await, Ok(Ok(_)))
    }

    /// Reports that the signal did not come in time, and returns what happens now.
    fn on_expired(&self, awaited: &AwaitedSignal) -> Expired {
        let message =
            format!("timed out after {} s waiting for {}", awaited.max_seconds, awaited.name);
        let failure =
            Failure::new(message).field("environment.WAITDAEMON_WAIT_FOR").fix(awaited.fix());
        let then = match (awaited.expired, self.duty.own_end) {
            (Expired::Run, None) => "the user container is started anyway",
            (Expired::Run, Some(_)) => "taking the machine down anyway",
            (Expired::Abort, None) => "the user container is removed and will not run",
            (Expired::Abort, Some(_)) => "the machine stays up",
        };
        self.tell(Event::Expired, &format!("{}: {then}", failure.message));
        (self.process.log_failure)(&failure.cause(then));
        awaited.expired
    }

    /// Cancels what was not started.
    async fn cancel(&self, why: &str) -> Result<State, Failure> {
        self.journal.note(&Fact::Cancelled);
        self.tell(Event::Cancelled, why);
        log::warn!("{why}; cancelling {}", self.what());
        log::info!("{}", self.discard().await?);
        Ok(State::Done)
    }

    /// Removes the user container if it has not run; returns what became of it. Unloads a kernel
    /// that was loaded.
    async fn discard(&self) -> Result<&'static str, Failure> {
        unload_kernel(self.process, self.duty).await;
        let Some(user) = &self.user else { return Ok("nothing was started") };
        Ok(match self.lifecycle.discard(user).await? {
            Discarded::Removed => "the user container was removed and will not run",
            Discarded::Started => "the user container was started before that",
        })
    }

    async fn remove_ended(&self) -> Result<(), Refusal> {
        match &self.user {
            Some(user) => self.lifecycle.ensure_removed(user, Removal::Idle).await,
            None => Ok(()),
        }
    }

    /// Returns the user container's ID.
    fn user(&self) -> Result<&str, Failure> {
        self.user.as_deref().ok_or_else(|| Failure::new("there is no user container"))
    }

    /// Returns what is to be done, in words.
    fn what(&self) -> String {
        format!("the {}", self.duty.own_end.map_or("user container", End::name))
    }

    /// True if the user container is watched.
    fn watches(&self) -> bool {
        self.duty.watch_seconds > 0 || self.duty.fallback.is_some()
    }

    /// Reports an event that has no exit code.
    fn tell(&self, event: Event, message: &str) {
        self.reporter.tell(event, message, &Ended::default());
    }

    /// Keeps the engine from starting us again. Our container is kept for what its log says.
    async fn retire(&self, signals: &mut Signals) -> Exit {
        let retire = || self.lifecycle.engine.retire(&self.own);
        let retired = self.lifecycle.ask("retiring the waiter", retire);
        let Some(retired) = or_interrupted(signals, retired).await else {
            return Exit::Interrupted;
        };
        if let Err(failure) =
            retired.context("cannot keep the engine from starting the waiter again")
        {
            (self.process.log_failure)(&failure);
        }
        self.reporter.flush(REPORT_LIMIT).await;
        Exit::Failed
    }

    /// Removes our own container; this process ends with it.
    async fn remove_self(&self) -> Result<(), Failure> {
        let removed = self.lifecycle.ensure_removed(&self.own, Removal::Own).await;
        removed.context("cannot remove the waiter's own container")
    }
}

/// Returns the step's result. If a signal tells us to stop meanwhile, the engine may be gone for
/// good: then the step has [`PROBE_LIMIT`] to finish, or the result is `None`.
async fn or_interrupted<T>(signals: &mut Signals, step: impl Future<Output = T>) -> Option<T> {
    let mut step = pin!(step);
    tokio::select! {
        biased;
        result = &mut step => Some(result),
        _ = signals.next_stop() => timeout(PROBE_LIMIT, step).await.ok(),
    }
}
