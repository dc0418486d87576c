//! Doing what a plan says: pull -> clear earlier attempts -> { create user container, create waiter }.

use super::plan::{Plan, problems_of_image};
use super::pull::pull;
use super::stop::{finish_then_stop, or_stopped};
use crate::choose::Reached;
use crate::engine::{Created, Kind};
use crate::error::Failure;
use crate::failures;
use crate::lifecycle::{EarlierAttempt, HANDOFF_PATIENCE, Lifecycle};
use crate::login::Login;
use crate::process::Process;
use crate::retry::{Attempts, Retry};
use crate::settings::Settings;
use crate::signals::Signals;

/// Does what the plan says, short of starting the waiter. Returns the waiter's container; `None` if an earlier attempt's
/// user container came to run meanwhile, which is left alone.
///
/// # Errors
/// What failed. What was made is left for the caller to roll back.
pub async fn apply(
    reached: &Reached,
    process: &Process,
    settings: &Settings,
    plan: Plan,
    login: Option<Login>,
    signals: &mut Signals,
) -> Result<Option<Created>, Failure> {
    let engine = reached.engine.as_ref();
    let lifecycle = Lifecycle::new(engine, HANDOFF_PATIENCE);
    let own = &plan.action.container;
    let mut others = !plan.earlier.is_empty();
    if plan.image.is_none() {
        let login = login.or_else(|| Login::of_machine(&process.command_line, &settings.image));
        or_stopped(signals, pull(engine, &settings.image, login.as_ref(), settings.pull_timeout)).await?;
        or_stopped(signals, check_pulled(&lifecycle, settings, &plan)).await?;
    }
    let mut attempts = Attempts::within(HANDOFF_PATIENCE);
    loop {
        if others {
            let cleared = or_stopped(signals, lifecycle.clear_earlier(&own.name, &own.id)).await?;
            if let EarlierAttempt::Running(user) = cleared {
                already_running(&user);
                return Ok(None);
            }
        }
        let not_created = match finish_then_stop(signals, create(&lifecycle, &plan)).await {
            Ok(waiter) => return Ok(Some(waiter)),
            Err(not_created) => not_created,
        };
        if not_created.retry == Retry::Never {
            return Err(not_created.failure);
        }
        // Another handoff of this action, at this very moment. One of the two gets both names, the other waits for it.
        others = true;
        or_stopped(signals, lifecycle.roll_back(&plan.duty.handoff)).await?;
        let wait =
            async { Ok::<_, Failure>(attempts.wait_as(not_created.retry, CREATING, &not_created.failure).await) };
        if !or_stopped(signals, wait).await? {
            return Err(not_created.failure);
        }
    }
}

const CREATING: &str = "creating both containers beside another attempt of this action";

/// Why not both containers were created.
struct NotCreated {
    failure: Failure,
    /// Whether another attempt of the same action is why.
    retry: Retry,
}

impl From<Failure> for NotCreated {
    fn from(failure: Failure) -> Self {
        Self { failure, retry: Retry::Never }
    }
}

/// Says that there is nothing to do.
pub fn already_running(user: &str) {
    tracing::warn!(container = user, "this action's user container is already running; leaving it alone");
}

/// Looks at an image that was just pulled as the plan would have.
async fn check_pulled(lifecycle: &Lifecycle<'_>, settings: &Settings, plan: &Plan) -> Result<(), Failure> {
    let about = lifecycle.engine.about();
    let image = lifecycle.image(settings.image.as_written()).await;
    let image = image.map_err(|refusal| failures::image_unknown(&settings.image, &about, refusal))?;
    let problems = image.map(|image| problems_of_image(&plan.action.image, &image, &plan.prepared));
    problems.into_iter().flatten().next().map_or(Ok(()), Err)
}

/// Creates both containers side by side. Both run to their end even if one fails or a signal comes: a request that is
/// cut off could still make a container, after the clean-up.
async fn create(lifecycle: &Lifecycle<'_>, plan: &Plan) -> Result<Created, NotCreated> {
    let (Some(user), Some(waiter)) = (&plan.prepared.user, &plan.prepared.waiter) else {
        return Err(Failure::new("there is no plan for both containers").into());
    };
    let (made_user, made_waiter) = tokio::join!(lifecycle.create_once(user), lifecycle.create_once(waiter));
    if made_user.is_ok() {
        tracing::info!(container = user.name, "user container created");
    }
    let made = [("the user container", user, made_user), ("the waiter", waiter, made_waiter)];
    let mut last = None;
    for (what, request, made) in made {
        let refusal = match made {
            Ok(created) => {
                last = Some(created);
                continue;
            }
            Err(refusal) => refusal,
        };
        let retry = match refusal.kind {
            Kind::NameTaken { .. } => lifecycle.may_be_freed(request, &plan.action.container.name).await,
            _ => Ok(Retry::Never),
        };
        let failure = failures::creation_failed(what, &request.name, &lifecycle.engine.about(), refusal);
        return Err(NotCreated { failure, retry: retry.unwrap_or(Retry::Never) });
    }
    last.ok_or_else(|| Failure::new("there is no plan for both containers").into())
}
