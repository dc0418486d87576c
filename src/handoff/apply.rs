//! Applies a plan: clear earlier attempts -> load the kernel -> { create user container, create
//! waiter }.

use std::cell::Cell;

use super::job::Job;
use super::kernel::Kernel;
use super::plan::Plan;
use super::stop::{finish_then_stop, or_stopped};
use crate::engine::{Created, Kind, Removal};
use crate::error::Failure;
use crate::failures;
use crate::lifecycle::{EarlierAttempt, HANDOFF_PATIENCE, Lifecycle};
use crate::machine::command_line;
use crate::retry::{Attempts, Retry};
use crate::signals::Signals;

/// What a handoff may have made, and must undo if it fails.
#[derive(Debug, Default)]
pub struct Made {
    /// A kernel may be loaded, of which nobody else takes care.
    pub kernel: Cell<bool>,
    /// Containers may have been created.
    pub containers: Cell<bool>,
}

/// Applies the plan, short of starting the waiter. Returns the waiter's container; `None` if an
/// earlier attempt's user container has started meanwhile, which is left alone. Notes in `made`
/// what it may have made.
///
/// # Errors
/// If a step fails. The caller must undo what was made.
pub async fn apply(
    job: &Job<'_>,
    plan: &mut Plan,
    made: &Made,
    signals: &mut Signals,
) -> Result<Option<Created>, Failure> {
    let engine = job.reached.engine.as_ref();
    let lifecycle = Lifecycle::new(engine, HANDOFF_PATIENCE);
    let own = &plan.action.container;
    let mut others = !plan.earlier.is_empty();
    let mut attempts = Attempts::within(HANDOFF_PATIENCE);
    loop {
        if others {
            // An earlier attempt's kernel may lose its waiter here.
            let request = &job.process.request;
            let clear = lifecycle.clear_earlier(own, request, &made.kernel);
            let cleared = or_stopped(signals, clear).await?;
            match cleared {
                EarlierAttempt::Cleared => {}
                EarlierAttempt::Running(user) => {
                    already_running(&user);
                    return Ok(None);
                }
                EarlierAttempt::OfAnother(user) => return Err(failures::name_is_in_use(&user)),
            }
        }
        // Not sooner: an earlier attempt that fails unloads whatever kernel is loaded.
        if let Some(kernel) = plan.kernel.take() {
            plan.kernel = Some(load(kernel, &made.kernel, signals).await?);
        }
        made.containers.set(true);
        let not_created = match finish_then_stop(signals, create(&lifecycle, plan)).await {
            Ok(waiter) => return Ok(Some(waiter)),
            Err(not_created) => not_created,
        };
        if not_created.retry == Retry::Never {
            return Err(not_created.failure);
        }
        // Another handoff of this action is running at the same time. One of the two gets both
        // names, and the other waits for it.
        others = true;
        if not_created.retry == Retry::UntilDeadline {
            // The kernel that is loaded is the other's, for as long as its waiter is there.
            made.kernel.set(false);
        }
        or_stopped(signals, lifecycle.roll_back(&job.id, Removal::Any)).await?;
        let wait = async {
            Ok::<_, Failure>(
                attempts.wait_as(not_created.retry, CREATING, &not_created.failure).await,
            )
        };
        if !or_stopped(signals, wait).await? {
            return Err(not_created.failure);
        }
    }
}

/// Loads the kernel, and sets `loaded` if it may be loaded.
async fn load(
    kernel: Kernel,
    loaded: &Cell<bool>,
    signals: &mut Signals,
) -> Result<Kernel, Failure> {
    let before = loaded.replace(true);
    // A signal that stops us does not stop the kernel from loading.
    let load = async {
        let result = kernel.load().await;
        loaded.set(before || result.is_ok());
        result
    };
    let kernel = finish_then_stop(signals, load).await?;
    let entry = &kernel.entry;
    log::info!(kernel = entry.kernel.as_str(), initrds = entry.initrds.join(" ").as_str(), command_line = command_line::redact(&entry.command_line).as_str(), source = entry.source.as_str(); "loaded the kernel of the installed system");
    Ok(kernel)
}

const CREATING: &str = "creating both containers beside another attempt of this action";

/// Why the containers were not both created.
struct NotCreated {
    failure: Failure,
    /// Whether to try again, because another attempt of the same action is the reason.
    retry: Retry,
}

impl From<Failure> for NotCreated {
    fn from(failure: Failure) -> Self {
        Self { failure, retry: Retry::Never }
    }
}

/// Logs that there is nothing to do.
pub fn already_running(user: &str) {
    log::warn!(container = user; "this action's user container is already running; leaving it alone");
}

/// Creates the containers in parallel. Both requests run to completion even if one fails or a
/// signal arrives: a request that is cut off could still create a container after the clean-up.
async fn create(lifecycle: &Lifecycle<'_>, plan: &Plan) -> Result<Created, NotCreated> {
    let no_plan = || NotCreated::from(Failure::new("there is no plan for the waiter"));
    let waiter = plan.prepared.waiter.as_ref().ok_or_else(no_plan)?;
    let make_user = async {
        match &plan.prepared.user {
            Some(user) => {
                lifecycle.create_once(user).await.map(|_| ()).map_err(|refusal| (user, refusal))
            }
            None => Ok(()),
        }
    };
    let (made_user, made_waiter) = tokio::join!(make_user, lifecycle.create_once(waiter));
    if let (Ok(()), Some(user)) = (&made_user, &plan.prepared.user) {
        log::info!(container = user.name.as_str(); "user container created");
    }
    let failed = made_user.map_err(|(user, refusal)| ("the user container", user, refusal));
    let (what, request, refusal) = match failed
        .and_then(|()| made_waiter.map_err(|refusal| ("the waiter", waiter, refusal)))
    {
        Ok(created) => return Ok(created),
        Err(failed) => failed,
    };
    let retry = match refusal.kind {
        Kind::NameTaken { .. } => {
            lifecycle.may_be_freed(request, &plan.action.container.name).await
        }
        _ => Ok(Retry::Never),
    };
    let failure =
        failures::creation_failed(what, &request.name, &lifecycle.engine.about(), refusal);
    Err(NotCreated { failure, retry: retry.unwrap_or(Retry::Never) })
}
