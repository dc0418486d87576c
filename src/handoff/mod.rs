//! The action container's journey: from the settings to an armed waiter.
//!
//! plan, which changes nothing -> pull, and plan again -> apply -> roll back if anything failed. A
//! dry run is plan and show.

pub mod apply;
pub mod dry_run;
mod end_checks;
pub mod job;
mod kernel;
pub mod plan;
mod pull;
mod start_waiter;
mod stop;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use self::apply::{Made, already_running, apply};
use self::job::Job;
use self::plan::{Plan, plan};
use self::pull::pull;
use self::start_waiter::ArmedWaiter;
use self::stop::or_stopped;
use crate::end::End;
use crate::engine::Removal;
use crate::error::Failure;
use crate::failures;
use crate::lifecycle::{HANDOFF_PATIENCE, Lifecycle};
use crate::logging;
use crate::machine::kexec;
use crate::retry::milliseconds;
use crate::signals::Signals;
use crate::syslog::{self, FLUSH_LIMIT};

/// How long cleaning up may take after a signal. Together with the limit of a last step (stop.rs),
/// it fits into the 5 s that the agent gives a timed-out action between SIGTERM and SIGKILL (Tink
/// Agent v0.25.0, observed).
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(3);
/// How long cleaning up may take without a signal: a removal that gets no answer takes 30 s and is
/// then tried again.
const QUIET_CLEAN_UP_LIMIT: Duration = Duration::from_secs(90);

/// Hands the action over to a waiter.
///
/// # Errors
/// If a step fails. Everything that was created has been removed again, or a line in the log says
/// what has not.
pub async fn run(job: &Job<'_>, signals: &mut Signals) -> Result<(), Vec<Failure>> {
    let made = Made::default();
    let result = hand_over(job, &made, signals).await;
    if result.is_err() {
        let unload = async {
            if made.kernel.get()
                && job.settings.own_end() == Some(End::Kexec)
                && let Err(error) = kexec::unload(CLEAN_UP_LIMIT).await
            {
                logging::failure(&failures::kernel_stays_loaded(error));
            }
        };
        let remove = async {
            if made.containers.get() {
                roll_back(job, signals).await;
            }
        };
        tokio::join!(unload, remove);
    }
    result
}

async fn hand_over(job: &Job<'_>, made: &Made, signals: &mut Signals) -> Result<(), Vec<Failure>> {
    let begin = Instant::now();
    let Some(mut plan) = plan_and_pull(job, signals).await? else { return Ok(()) };
    let created = apply(job, &mut plan, made, signals).await.map_err(|failure| vec![failure])?;
    let Some(created) = created else { return Ok(()) };
    let engine = job.reached.engine.as_ref();
    let waiter = or_stopped(signals, ArmedWaiter::start(engine, &created, &job.id)).await?;
    if plan.kernel.is_some() {
        kernel::is_still_loaded()?;
    }
    syslog::flush(FLUSH_LIMIT).await;
    or_stopped(signals, waiter.give_word()).await?;
    // From here on, only exiting with 0 is left to do, at once; signals are no longer handled.
    syslog::forget();
    let milliseconds = milliseconds(begin.elapsed());
    log::info!(wait_seconds = plan.duty.wait_seconds, milliseconds; "handed over: the waiter is armed");
    Ok(())
}

/// Makes a plan that can be applied; `None` if there is nothing to do. If the image is not on this
/// machine, pulls it and plans again, because the plan depends on what the image runs.
async fn plan_and_pull(job: &Job<'_>, signals: &mut Signals) -> Result<Option<Plan>, Vec<Failure>> {
    let Job { reached, settings, .. } = *job;
    let mut pulled = false;
    loop {
        let mut plan = or_stopped(signals, plan(job)).await?;
        if let Some(user) = plan.running_user() {
            already_running(&user.id);
            return Ok(None);
        }
        if !plan.problems.is_empty() {
            return Err(std::mem::take(&mut plan.problems));
        }
        let Some(image) = settings.image().filter(|_| plan.image.is_none() && !pulled) else {
            return Ok(Some(plan));
        };
        let (engine, login) = (reached.engine.as_ref(), job.login.as_ref());
        or_stopped(signals, pull(engine, image, login, settings.pull_timeout)).await?;
        pulled = true;
    }
}

/// Removes what the handoff created.
async fn roll_back(job: &Job<'_>, signals: &mut Signals) {
    let lifecycle = Lifecycle::new(job.reached.engine.as_ref(), HANDOFF_PATIENCE);
    let removal = timeout(QUIET_CLEAN_UP_LIMIT, lifecycle.roll_back(&job.id, Removal::Any));
    tokio::pin!(removal);
    let removed = tokio::select! {
        biased;
        removed = &mut removal => removed.ok(),
        () = signals.stopped() => timeout(CLEAN_UP_LIMIT, removal).await.ok().and_then(Result::ok),
    };
    match removed {
        Some(Ok(())) => {}
        Some(Err(failure)) => logging::failure(&failure),
        None => {
            logging::failure(&Failure::new("cleaning up took too long; containers may be left"))
        }
    }
}
