//! The action container's journey: from the settings to an armed waiter.
//!
//! settings -> engine -> who am I (proof) -> image -> { create user container, create waiter } ->
//! armed. Whatever fails on the way leaves nothing behind.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::engine::{Earlier, Engine};
use crate::error::{Because, Failure};
use crate::logging;
use crate::names::HandoffId;
use crate::settings::Settings;
use crate::signals::Stop;
use crate::ticket::Ticket;

/// How long cleaning up may take: the agent kills a timed-out action 5 s after SIGTERM (Tink Agent
/// v0.25.0, observed).
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(4);

/// Hands the action over to a waiter.
///
/// # Errors
/// What failed; everything that was made has been removed again, or a line in the log says what
/// has not.
pub async fn run<E: Engine>(engine: &E, settings: &Settings, stop: &mut Stop) -> Result<(), Failure> {
    let handoff = HandoffId::random().because("the kernel gives no random numbers")?;
    let result = hand_over(engine, settings, stop, &handoff).await;
    if result.is_err() {
        match timeout(CLEAN_UP_LIMIT, engine.remove_made_by(&handoff)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => logging::failure(&failure),
            Err(_) => logging::failure(&Failure::new("cleaning up took too long; containers may be left")),
        }
    }
    result
}

async fn hand_over<E: Engine>(
    engine: &E,
    settings: &Settings,
    stop: &mut Stop,
    handoff: &HandoffId,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let action = unless(stop, engine.identify(handoff)).await?;
    let (action_id, action_name) = engine.action_names(&action);
    logging::set_action(action_name);
    tracing::info!(container = action_id, image = settings.image.as_written(), "own container proved");

    let preparations = async {
        tokio::try_join!(engine.ensure_image(&settings.image, settings.pull_timeout), engine.clear_earlier(&action))
    };
    let ((), earlier) = unless(stop, preparations).await?;
    if let Earlier::Running(user) = earlier {
        tracing::warn!(container = user, "the user container of this very action runs already; it is left alone");
        return Ok(());
    }

    let ticket = Ticket {
        engine: engine.ticket(),
        handoff: handoff.clone(),
        action_id: action_id.to_owned(),
        action_name: action_name.to_owned(),
        wait_seconds: settings.wait.as_secs(),
        watch_seconds: settings.watch.as_secs(),
        log: settings.log,
    };
    // Both run to their end even if one fails or a signal comes: a request that is cut off could
    // still make a container, after the clean-up.
    let (user, waiter) =
        tokio::join!(engine.create_user(&action, &settings.image, handoff), engine.create_waiter(&action, &ticket));
    user?;
    unless(stop, engine.start_waiter(&waiter?, handoff)).await?;
    tracing::info!(
        wait_seconds = ticket.wait_seconds,
        milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
        "handed over: the waiter is armed"
    );
    Ok(())
}

/// The step's result, or a failure as soon as somebody stops us.
async fn unless<T>(stop: &mut Stop, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = step => result,
        signal = stop.next() => Err(Failure::new(format!("stopped by {signal} before the handoff was done"))
            .field("timeout")
            .fix("if the action's timeout was over, raise it: pulling IMAGE is part of the action")),
    }
}
