//! Doing what a plan says: clear earlier attempts -> pull -> { create user container, create waiter } -> armed.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::plan::{Plan, problems_of_image};
use super::pull::pull;
use super::stop::{finish_then_stop, or_stopped};
use crate::choose::Reached;
use crate::engine::tail::Tail;
use crate::engine::{About, Created, Life, Listen};
use crate::error::{Context, Failure};
use crate::failures;
use crate::lifecycle::{EarlierAttempt, HANDOFF_PATIENCE, Lifecycle};
use crate::logging::{self, ARMED};
use crate::login::Login;
use crate::names::HandoffId;
use crate::process::Process;
use crate::retry::retry_within;
use crate::settings::Settings;
use crate::signals::StopSignals;

/// How long starting the waiter may take until it says that it is armed. Generous: 0.3 s is usual.
const ARMING_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether a waiter that says nothing still runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Before a waiter's output that ended is opened again.
const PAUSE: Duration = Duration::from_millis(200);

/// Does what the plan says. Returns false if an earlier attempt's user container came to run meanwhile, which is left
/// alone.
///
/// # Errors
/// What failed. What was made is left for the caller to roll back.
pub async fn apply(
    reached: &Reached,
    process: &Process,
    settings: &Settings,
    plan: Plan,
    login: Option<Login>,
    stop: &mut StopSignals,
) -> Result<bool, Failure> {
    let engine = reached.engine.as_ref();
    let lifecycle = Lifecycle::new(engine, HANDOFF_PATIENCE);
    if !plan.earlier.is_empty() {
        let cleared = or_stopped(stop, lifecycle.clear_earlier(&plan.action.container.name)).await?;
        if let EarlierAttempt::Running(user) = cleared {
            already_running(&user);
            return Ok(false);
        }
    }
    if plan.image.is_none() {
        let login = login.or_else(|| Login::of_machine(&process.command_line, &settings.image));
        or_stopped(stop, pull(engine, &settings.image, login.as_ref(), settings.pull_timeout)).await?;
        or_stopped(stop, check_pulled(&lifecycle, settings, &plan)).await?;
    }
    let about = engine.about();
    let waiter = finish_then_stop(stop, create(&lifecycle, &about, &plan)).await?;
    let handoff = &plan.duty.handoff;
    let armed = timeout(ARMING_LIMIT, start_until_armed(&lifecycle, &about, &waiter, handoff));
    let armed = async { armed.await.unwrap_or_else(|_| Err(not_armed().fix(about.check))) };
    or_stopped(stop, armed).await?;
    // A signal that came with the last answer still counts; yielding lets it be seen.
    let last_look = async {
        tokio::task::yield_now().await;
        Ok::<(), Failure>(())
    };
    or_stopped(stop, last_look).await?;
    Ok(true)
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
async fn create(lifecycle: &Lifecycle<'_>, about: &About, plan: &Plan) -> Result<Created, Failure> {
    let (Some(user), Some(waiter)) = (&plan.prepared.user, &plan.prepared.waiter) else {
        return Err(Failure::new("there is no plan for both containers"));
    };
    let (made_user, made_waiter) = tokio::join!(lifecycle.create_once(user), lifecycle.create_once(waiter));
    made_user.map_err(|refusal| failures::creation_failed("the user container", &user.name, about, refusal))?;
    tracing::info!(container = user.name, "user container created");
    made_waiter.map_err(|refusal| failures::creation_failed("the waiter", &waiter.name, about, refusal))
}

/// Starts the waiter if it was not, and returns when it says that it is armed.
async fn start_until_armed(
    lifecycle: &Lifecycle<'_>,
    about: &About,
    waiter: &Created,
    handoff: &HandoffId,
) -> Result<(), Failure> {
    let id = waiter.id.as_str();
    let check = |failure: Failure| failure.fix(about.check);
    let open = |replay| {
        let listen = Listen { container: id, tty: false, replay, ours: true };
        retry_within(lifecycle.patience, "listening to the waiter", move || lifecycle.engine.output(listen))
    };
    // Attached before it is started, which works with every log driver; one that may have been started is read from its
    // first line on.
    let mut output = open(about.starts_waiter_early).await.context("cannot listen to the waiter").map_err(check)?;
    if !waiter.started {
        lifecycle.start_surely(id).await.context("cannot start the waiter").map_err(check)?;
    }
    let (mut heard, mut tail) = (String::new(), Tail::default());
    let mut look_at = Instant::now() + LOOK_EVERY;
    loop {
        let ended = tokio::select! {
            biased;
            piece = output.next() => match piece {
                Ok(Some(piece)) => {
                    tail.feed(&piece);
                    heard.push_str(&String::from_utf8_lossy(&piece));
                    if logging::announces(&heard, ARMED, handoff) {
                        return Ok(());
                    }
                    continue;
                }
                _ => true,
            },
            () = sleep_until(look_at) => false,
        };
        look_at = Instant::now() + LOOK_EVERY;
        let seen = lifecycle.look_at(id).await.context("lost the waiter before it was armed").map_err(check)?;
        if !seen.is_some_and(|seen| matches!(seen.life, Life::Running { .. } | Life::Starting { .. })) {
            let said = tail.into_lines().join(" | ");
            return Err(Failure::new("the waiter ended before it was armed").fix("see what it said").cause(said));
        }
        if ended {
            tracing::warn!("lost the waiter's output before it was armed, listening again");
            sleep(PAUSE).await;
            (heard, tail) = (String::new(), Tail::default());
            output = open(true).await.context("cannot listen to the waiter").map_err(check)?;
        }
    }
}

fn not_armed() -> Failure {
    Failure::new(format!("the waiter was not armed within {} s", ARMING_LIMIT.as_secs()))
}
