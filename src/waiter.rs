//! The waiter's journey: wait for the action's end and verdict, count down, start the user
//! container, watch it, clean up.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::engine::{Armed, Discarded, Engine, Outcome, Verdict};
use crate::error::{Because, Failure};
use crate::logging::{self, ARMED};
use crate::reboot::Request;
use crate::safe_moment::{self, Signal, Waited};
use crate::settings::Expired;
use crate::signals::Stop;
use crate::ticket::Ticket;

/// How long attaching to the user container's output may hold its start up.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
/// How long a waiter that was told to end may take to remove itself.
const LAST_CALL_LIMIT: Duration = Duration::from_secs(1);
/// How long a machine that is asked to reboot by its init may go on before it is asked otherwise.
const GRACE: Duration = Duration::from_secs(3);
/// How long systemd may take to end us once it was asked.
const EFFECT_LIMIT: Duration = Duration::from_secs(60);
/// It is asked again after this time: the SIGTERM of BusyBox's command makes it re-execute itself, and what comes
/// meanwhile may be lost. Asking for what it does already changes nothing.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(5);

/// Waits for the action's success and runs the user container.
///
/// # Errors
/// What failed. The user container is kept where it explains the failure.
pub async fn run<E: Engine>(engine: &E, ticket: &Ticket, stop: &mut Stop) -> Result<(), Failure> {
    let armed = match engine.arm(ticket).await {
        Ok(armed) => armed,
        Err(failure) => {
            // Nobody counts on us: the handoff fails or is gone. Nothing of it may stay.
            logging::failure(&failure);
            engine.remove_made_by(&ticket.handoff).await?;
            return Err(Failure::new("the waiter was not armed and removed what its handoff made"));
        }
    };
    logging::announce(ARMED, &ticket.handoff);
    let waiter = armed.waiter.clone();
    let result = see_through(engine, ticket, stop, armed).await;
    if result.is_err() {
        // Our container is kept for what it says; the engine would start it again.
        if let Err(not_retired) = engine.retire(&waiter).await {
            logging::failure(&not_retired);
        }
    }
    result
}

/// From "armed" to the end.
async fn see_through<E: Engine>(
    engine: &E,
    ticket: &Ticket,
    stop: &mut Stop,
    armed: Armed<E::Pending>,
) -> Result<(), Failure> {
    let Armed { waiter, user, pending, started } = armed;
    if started {
        tracing::warn!(
            container = user,
            "this waiter was killed and started again; the user container was started before"
        );
        return watch(engine, ticket, stop, (&waiter, &user), None).await;
    }
    let (verdict, ended) = tokio::select! {
        verdict = engine.verdict(pending) => verdict,
        signal = stop.next() => return cancel(engine, &waiter, &user, &got(signal)).await,
    };
    match verdict {
        Verdict::Succeeded => {}
        Verdict::Failed(how) => {
            return cancel(engine, &waiter, &user, &format!("the action did not succeed: {how}")).await;
        }
        Verdict::Unknown(why) => {
            let failure = Failure::new("cannot know how the action ended, so nothing is started").cause(why);
            logging::failure(&failure.fix("look at the engine's log, and run the Workflow again"));
            return cancel(engine, &waiter, &user, "the action's end is unknown").await;
        }
    }

    tracing::info!(wait_seconds = ticket.wait_seconds, "the action ended with success, waiting");
    let waited = tokio::select! {
        waited = safe_moment::come(ended, Duration::from_secs(ticket.wait_seconds), ticket.signal.as_ref()) => waited?,
        signal = stop.next() => return cancel(engine, &waiter, &user, &got(signal)).await,
    };
    if let (Waited::Expired, Some(signal)) = (waited, &ticket.signal) {
        give_up(engine, &user, signal).await?;
    }

    let output = tokio::select! {
        output = start(engine, &user, ticket) => output?,
        signal = stop.next() => return cancel(engine, &waiter, &user, &got(signal)).await,
    };
    tracing::info!(container = user, "user container started");
    watch(engine, ticket, stop, (&waiter, &user), output).await
}

/// Watches the user container, says what became of it and clears up.
async fn watch<E: Engine>(
    engine: &E,
    ticket: &Ticket,
    stop: &mut Stop,
    (waiter, user): (&str, &str),
    output: Option<E::Output>,
) -> Result<(), Failure> {
    if ticket.watch_seconds > 0 {
        let outcome = tokio::select! {
            outcome = engine.watch(user, output, Duration::from_secs(ticket.watch_seconds)) => outcome,
            // A machine that goes down ends us this way, and its engine too.
            signal = stop.next() => {
                tracing::info!("{} while it watched; the user container was started", got(signal));
                return go(engine, waiter).await;
            }
        };
        report(&outcome, ticket)?;
        if let (Outcome::Exited { code: 0, .. }, Some(request)) = (&outcome, ticket.finish_reboot) {
            finish(request, stop).await?;
            return go(engine, waiter).await;
        }
        if matches!(outcome, Outcome::Exited { .. }) {
            engine.remove_ended(user).await?;
        }
    }
    engine.remove_self(waiter).await
}

/// Starts the user container; returns its output where it is to be watched. That it cannot be
/// listened to is no reason not to start it.
async fn start<E: Engine>(engine: &E, user: &str, ticket: &Ticket) -> Result<Option<E::Output>, Failure> {
    let mut output = None;
    if ticket.watch_seconds > 0 {
        match timeout(LISTEN_LIMIT, engine.listen(user, ticket.tty)).await {
            Ok(Ok(listening)) => output = Some(listening),
            Ok(Err(failure)) => tracing::warn!(error = failure.causes(), "{failure}; its output will not be shown"),
            Err(_) => tracing::warn!("the engine is slow; the user container's output will not be shown"),
        }
    }
    engine.start(user).await?;
    Ok(output)
}

/// The signal did not come in time: says so, and removes the user container where that is asked for.
///
/// # Errors
/// Where the user container shall not run.
async fn give_up<E: Engine>(engine: &E, user: &str, signal: &Signal) -> Result<(), Failure> {
    let what = format!("waited {} s in vain for {}", signal.most_seconds, signal.name);
    let failure = Failure::new(what).field("environment.WAITDAEMON_WAIT_FOR").fix(signal.fix());
    match signal.expired {
        Expired::Run => logging::failure(&failure.cause("the user container is started all the same")),
        Expired::Abort => {
            let removed = engine.discard(user).await?;
            let came = if removed == Discarded::Removed { "was removed and will not run" } else { "was started" };
            return Err(failure.cause(format!("the user container {came}")));
        }
    }
    Ok(())
}

fn got(signal: &str) -> String {
    format!("the waiter got {signal}")
}

/// Removes the user container if it has not run, and then ourselves.
async fn cancel<E: Engine>(engine: &E, waiter: &str, user: &str, why: &str) -> Result<(), Failure> {
    match engine.discard(user).await? {
        Discarded::Removed => tracing::warn!("{why}; the user container was removed and will not run"),
        Discarded::Started => tracing::warn!("{why}; too late, the user container was started"),
    }
    engine.remove_self(waiter).await
}

/// Removes ourselves if the engine is still there to do it; a machine that goes down must not wait.
async fn go<E: Engine>(engine: &E, waiter: &str) -> Result<(), Failure> {
    if !matches!(timeout(LAST_CALL_LIMIT, engine.remove_self(waiter)).await, Ok(Ok(()))) {
        tracing::debug!("the engine does not remove the waiter's container any more");
    }
    Ok(())
}

/// Asks systemd for what the user's command asked of an init that is not there. Returns when the
/// machine goes down, which ends us.
async fn finish(request: Request, stop: &mut Stop) -> Result<(), Failure> {
    let name = request.name();
    tokio::select! {
        () = sleep(GRACE) => {}
        _ = stop.next() => return Ok(()),
    }
    tracing::warn!(
        "`{name}` ended with 0 and the machine still runs: systemd does not act on it; asking systemd for {name}"
    );
    let end = Instant::now() + EFFECT_LIMIT;
    while Instant::now() < end {
        request.ask_systemd().because(format!("cannot ask systemd for {name}"))?;
        tokio::select! {
            () = sleep(ASK_AGAIN_EVERY) => {}
            _ = stop.next() => return Ok(()),
        }
    }
    let what = format!("the machine still runs {} s after systemd was asked for {name}", EFFECT_LIMIT.as_secs());
    Err(Failure::new(what).field("command").fix(format!("use {name} -f, which asks the kernel")))
}

fn report(outcome: &Outcome, ticket: &Ticket) -> Result<(), Failure> {
    match outcome {
        Outcome::Running => tracing::info!(watched_seconds = ticket.watch_seconds, "the user container runs"),
        Outcome::Removed => {
            let failure = Failure::new("the user container was removed by somebody while it was watched");
            return Err(failure.fix("look for who removes containers on this machine, and run the Workflow again"));
        }
        Outcome::Lost(why) => tracing::warn!(error = why.as_str(), "lost the engine while watching the user container"),
        Outcome::Exited { code: 0, .. } => tracing::info!(exit_code = 0, "the user container ended with success"),
        Outcome::Exited { code, note, last_lines } => {
            for line in last_lines {
                tracing::error!(output = line.as_str(), "the user container's last lines");
            }
            let failure = Failure::new(format!("the user container failed with exit code {code}"));
            let failure = failure.field("command").fix("see its last lines above; the container is kept");
            return Err(if note.is_empty() { failure } else { failure.cause(note.as_str()) });
        }
    }
    Ok(())
}
