//! The action container's journey: from the settings to an armed waiter.
//!
//! plan, which changes nothing -> apply -> if anything failed, roll back. A dry run is plan and show.

pub mod apply;
mod armed;
pub mod plan;
mod pull;
pub mod show;
mod stop;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use self::apply::{already_running, apply};
use self::armed::Waiter;
use self::plan::plan;
use self::stop::or_stopped;
use crate::choose::Reached;
use crate::error::{Context, Failure};
use crate::lifecycle::{HANDOFF_PATIENCE, Lifecycle};
use crate::logging;
use crate::login::Login;
use crate::names::HandoffId;
use crate::process::Process;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::syslog::{self, FLUSH_LIMIT};

/// How long cleaning up may take after a signal. With what a last step may take (stop.rs) it fits into the 5 s that the
/// agent gives a timed-out action between SIGTERM and SIGKILL (Tink Agent v0.25.0, observed).
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(3);
/// How long it may take when nobody presses: a removal that gets no answer takes 30 s and is then asked for again.
const QUIET_CLEAN_UP_LIMIT: Duration = Duration::from_secs(90);
/// Hands the action over to a waiter.
///
/// # Errors
/// What failed; everything that was made has been removed again, or a line in the log says what
/// has not.
pub async fn run(
    reached: &Reached,
    process: &Process,
    settings: &Settings,
    login: Option<Login>,
    signals: &mut Signals,
) -> Result<(), Vec<Failure>> {
    let handoff = HandoffId::random().context("the kernel gives no random numbers").map_err(|failure| vec![failure])?;
    let result = hand_over(reached, process, settings, login, &handoff, signals).await;
    if result.is_err() {
        roll_back(reached, &handoff, signals).await;
    }
    result
}

async fn hand_over(
    reached: &Reached,
    process: &Process,
    settings: &Settings,
    login: Option<Login>,
    handoff: &HandoffId,
    signals: &mut Signals,
) -> Result<(), Vec<Failure>> {
    let begin = Instant::now();
    let mut plan = or_stopped(signals, plan(reached, process, settings, handoff)).await?;
    if let Some(user) = plan.running_user() {
        already_running(&user.id);
        return Ok(());
    }
    if !plan.problems.is_empty() {
        return Err(std::mem::take(&mut plan.problems));
    }
    let wait_seconds = plan.duty.wait_seconds;
    let created = apply(reached, process, settings, plan, login, signals).await.map_err(|failure| vec![failure])?;
    let Some(created) = created else { return Ok(()) };
    let waiter = or_stopped(signals, Waiter::start(reached.engine.as_ref(), &created, handoff)).await?;
    syslog::flush(FLUSH_LIMIT).await;
    or_stopped(signals, waiter.give_word()).await?;
    // From here on nothing but exiting with 0 is left to do: nobody looks at signals any more.
    let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(wait_seconds, milliseconds, "handed over: the waiter is armed");
    Ok(())
}

/// Removes what the handoff made, if it made anything.
async fn roll_back(reached: &Reached, handoff: &HandoffId, signals: &mut Signals) {
    let lifecycle = Lifecycle::new(reached.engine.as_ref(), HANDOFF_PATIENCE);
    let removal = timeout(QUIET_CLEAN_UP_LIMIT, lifecycle.roll_back(handoff));
    tokio::pin!(removal);
    let removed = tokio::select! {
        biased;
        removed = &mut removal => removed.ok(),
        () = signals.stopped() => timeout(CLEAN_UP_LIMIT, removal).await.ok().and_then(Result::ok),
    };
    match removed {
        Some(Ok(())) => {}
        Some(Err(failure)) => logging::failure(&failure),
        None => logging::failure(&Failure::new("cleaning up took too long; containers may be left")),
    }
}
