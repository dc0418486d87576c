//! The waiter's journey: wait for the action's end and verdict, count down, start the user
//! container, watch it, clean up.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::engine::{Armed, Engine, Outcome, Verdict};
use crate::error::Failure;
use crate::logging::{self, ARMED};
use crate::signals::Stop;
use crate::ticket::Ticket;

/// How often a long wait says that it goes on.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(30);

/// Waits for the action's success and runs the user container.
///
/// # Errors
/// What failed. The user container is kept where it explains the failure.
pub async fn run<E: Engine>(engine: &E, ticket: &Ticket, stop: &mut Stop) -> Result<(), Failure> {
    let Armed { waiter, user, pending } = engine.arm(ticket).await?;
    logging::announce(ARMED, &ticket.handoff);

    let verdict = tokio::select! {
        verdict = engine.verdict(pending) => verdict,
        signal = stop.next() => return cancel(engine, &waiter, &user, &format!("the waiter got {signal}")).await,
    };
    match verdict {
        Verdict::Succeeded => {}
        Verdict::Failed(how) => {
            return cancel(engine, &waiter, &user, &format!("the action did not succeed: {how}")).await;
        }
        Verdict::Unknown(why) => {
            logging::failure(&Failure::new("cannot know how the action ended, so nothing is started").cause(why));
            return cancel(engine, &waiter, &user, "the action's end is unknown").await;
        }
    }

    tracing::info!(wait_seconds = ticket.wait_seconds, "the action ended with success, waiting");
    tokio::select! {
        () = count_down(Instant::now() + Duration::from_secs(ticket.wait_seconds)) => {}
        signal = stop.next() => return cancel(engine, &waiter, &user, &format!("the waiter got {signal}")).await,
    }

    let outcome = tokio::select! {
        outcome = engine.start_and_watch(&user, Duration::from_secs(ticket.watch_seconds)) => outcome?,
        // Too late to cancel: the user container may run. A machine that goes down ends us this way.
        signal = stop.next() => {
            tracing::info!("stopped by {signal} while the user container runs");
            return Ok(());
        }
    };
    report(&outcome, ticket)?;
    if matches!(outcome, Outcome::Exited { .. }) {
        engine.remove_idle(&user).await?;
    }
    engine.remove_self(&waiter).await
}

/// Removes the user container, which has not run, and then ourselves.
async fn cancel<E: Engine>(engine: &E, waiter: &str, user: &str, why: &str) -> Result<(), Failure> {
    engine.remove_idle(user).await?;
    tracing::warn!("{why}; the user container was removed and will not run");
    engine.remove_self(waiter).await
}

async fn count_down(end: Instant) {
    loop {
        let next = (Instant::now() + STILL_WAITING_EVERY).min(end);
        sleep_until(next).await;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        tracing::info!(seconds_left = left.as_secs(), "still waiting");
    }
}

fn report(outcome: &Outcome, ticket: &Ticket) -> Result<(), Failure> {
    match outcome {
        Outcome::Running => tracing::info!(watched_seconds = ticket.watch_seconds, "the user container runs"),
        Outcome::Removed => tracing::warn!("the user container was removed by somebody while it was watched"),
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
