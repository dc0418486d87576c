//! The action container's journey: from the settings to an armed waiter.
//!
//! settings -> engine -> { who am I (proof), image } -> clear earlier attempts -> signal, if any -> pull ->
//! { create user container, create waiter } -> armed. Whatever fails on the way leaves nothing behind.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::engine::{Earlier, Engine};
use crate::error::{Because, Failure};
use crate::host;
use crate::logging;
use crate::login::Login;
use crate::names::HandoffId;
use crate::reboot::{self, Request};
use crate::safe_moment::{self, Signal};
use crate::settings::Settings;
use crate::signals::Stop;
use crate::syslog;
use crate::ticket::Ticket;

/// How long cleaning up may take after a signal. With [`LAST_STEP_LIMIT`] it fits into the 5 s that the
/// agent gives a timed-out action between SIGTERM and SIGKILL (Tink Agent v0.25.0, observed).
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(3);
/// How long it may take when nobody presses: a removal that gets no answer takes 30 s and is then asked for again.
const QUIET_CLEAN_UP_LIMIT: Duration = Duration::from_secs(90);
/// How long creating containers may go on after a signal.
const LAST_STEP_LIMIT: Duration = Duration::from_millis(1500);

/// WAIT_SECONDS where it is not set and nothing else tells the moment.
const USUAL_WAIT: Duration = Duration::from_secs(10);

/// How long a command that asks for a reboot is watched at least; BusyBox's takes no second.
const LEAST_WATCH: Duration = Duration::from_secs(10);

/// Hands the action over to a waiter.
///
/// # Errors
/// What failed; everything that was made has been removed again, or a line in the log says what
/// has not.
pub async fn run<E: Engine>(
    engine: &E,
    settings: &Settings,
    login: Option<Login>,
    stop: &mut Stop,
) -> Result<(), Failure> {
    if let Some(address) = syslog::server(&settings.syslog, engine.keeps_logs(), &host::command_line()) {
        syslog::start(&address);
    }
    let handoff = HandoffId::random().because("the kernel gives no random numbers")?;
    let result = hand_over(engine, settings, login, stop, &handoff).await;
    if result.is_err() {
        let removal = timeout(QUIET_CLEAN_UP_LIMIT, engine.remove_made_by(&handoff));
        tokio::pin!(removal);
        let removed = tokio::select! {
            removed = &mut removal => removed.ok(),
            () = stop.came() => timeout(CLEAN_UP_LIMIT, removal).await.ok().and_then(Result::ok),
        };
        match removed {
            Some(Ok(())) => {}
            Some(Err(failure)) => logging::failure(&failure),
            None => logging::failure(&Failure::new("cleaning up took too long; containers may be left")),
        }
    }
    result
}

async fn hand_over<E: Engine>(
    engine: &E,
    settings: &Settings,
    login: Option<Login>,
    stop: &mut Stop,
    handoff: &HandoffId,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let asked = async { tokio::try_join!(engine.identify(handoff), engine.image(&settings.image)) };
    let (action, image) = unless(stop, asked).await?;
    let (action_id, action_name) = engine.action_names(&action);
    logging::set_action(action_name);
    tracing::info!(
        container = action_id,
        proof = engine.proof(&action),
        image = settings.image.as_written(),
        "own container proved"
    );

    if let Earlier::Running(user) = unless(stop, engine.clear_earlier(&action)).await? {
        tracing::warn!(container = user, "the user container of this very action runs already; it is left alone");
        return Ok(());
    }
    let signal = unless(stop, safe_moment::prepare(settings)).await?;
    if image.is_none() {
        tracing::info!(image = settings.image.as_written(), "the image is not on this machine, pulling it");
        let login = login.or_else(|| Login::of_machine(&host::command_line(), &settings.image));
        unless(stop, engine.pull(&settings.image, login.as_ref(), settings.pull_timeout)).await?;
        tracing::info!(image = settings.image.as_written(), "pulled");
    }

    let ticket = ticket(engine, &action, settings, handoff, signal);
    // Both run to their end even if one fails or a signal comes: a request that is cut off could
    // still make a container, after the clean-up.
    let created = async {
        let (user, waiter) =
            tokio::join!(engine.create_user(&action, &settings.image, handoff), engine.create_waiter(&action, &ticket));
        user.and(waiter)
    };
    let waiter = unless_soon(stop, created).await?;
    unless(stop, engine.start_waiter(&action, &waiter, handoff)).await?;
    // A signal that came with the last answer still counts; yielding lets it be seen.
    let last_look = async {
        tokio::task::yield_now().await;
        Ok(())
    };
    unless(stop, last_look).await?;
    tracing::info!(
        wait_seconds = ticket.wait_seconds,
        milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
        "handed over: the waiter is armed"
    );
    Ok(())
}

/// What the waiter is told.
pub fn ticket<E: Engine>(
    engine: &E,
    action: &E::Action,
    settings: &Settings,
    handoff: &HandoffId,
    signal: Option<Signal>,
) -> Ticket {
    let (action_id, action_name) = engine.action_names(action);
    let finish_reboot = if settings.finish_reboot && reboot::systemd_is_init() {
        Request::of(host::own_command().get(1..).unwrap_or_default())
    } else {
        None
    };
    // To finish what the command could not do, the waiter must see the command's end.
    let least_watch = if finish_reboot.is_some() { LEAST_WATCH } else { Duration::ZERO };
    Ticket {
        engine: engine.ticket(action),
        handoff: handoff.clone(),
        action_id: action_id.to_owned(),
        action_name: action_name.to_owned(),
        tty: engine.has_terminal(action),
        wait_seconds: least_wait(settings, signal.is_some()).as_secs(),
        signal,
        watch_seconds: settings.watch.max(least_watch).as_secs(),
        finish_reboot,
        log: settings.log,
        syslog: syslog::server(&settings.syslog, engine.keeps_logs(), &host::command_line()),
    }
}

/// WAIT_SECONDS, or its default. A signal tells the safe moment; without one only time can. So where one was asked
/// for that cannot come, 0, which is right beside a signal, does not stand. Pure.
fn least_wait(settings: &Settings, signal: bool) -> Duration {
    if signal {
        return settings.wait.unwrap_or_default();
    }
    settings.wait.filter(|wait| settings.wait_for.is_none() || !wait.is_zero()).unwrap_or(USUAL_WAIT)
}

/// The step's result, or a failure as soon as somebody stops us.
async fn unless<T>(stop: &mut Stop, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        signal = stop.next() => Err(stopped(signal)),
        result = step => result,
    }
}

/// As [`unless`], but a step that is under way gets [`LAST_STEP_LIMIT`] to come to its end.
async fn unless_soon<T>(stop: &mut Stop, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::pin!(step);
    tokio::select! {
        result = &mut step => result,
        signal = stop.next() => {
            let _ = timeout(LAST_STEP_LIMIT, step).await;
            Err(stopped(signal))
        }
    }
}

fn stopped(signal: &str) -> Failure {
    Failure::new(format!("stopped by {signal} before the handoff was done"))
        .field("timeout")
        .fix("if the action's timeout was over, raise it: pulling IMAGE is part of the action")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_makes_no_wait_safe() {
        let least = |pairs: &[(&str, &str)], signal| {
            let all = [("IMAGE", "a")].iter().chain(pairs).map(|(name, value)| (name.into(), value.into()));
            least_wait(&Settings::read(all).unwrap(), signal).as_secs()
        };
        let (netboot_off, wait) = (("WAITDAEMON_WAIT_FOR", "netboot-off"), |text| ("WAIT_SECONDS", text));
        assert_eq!((least(&[], false), least(&[wait("0")], false), least(&[wait("7")], false)), (10, 0, 7));
        for (given, with, without) in [(None, 0, 10), (Some("0"), 0, 10), (Some("7"), 7, 7)] {
            let pairs: Vec<_> = given.map(wait).into_iter().chain([netboot_off]).collect();
            assert_eq!((least(&pairs, true), least(&pairs, false)), (with, without), "{given:?}");
        }
    }
}
