//! What a handoff is going to do: everything is decided here, and nothing is changed.

use std::time::Duration;

use serde_json::Value;

use crate::choose::Reached;
use crate::engine::json::{list, text};
use crate::engine::{Image, Order, Prepared, Seen};
use crate::error::Failure;
use crate::failures;
use crate::identity::{self, Action};
use crate::lifecycle::{HANDOFF_PATIENCE, Lifecycle, running_user};
use crate::logging;
use crate::machine::power::Request as End;
use crate::names::{HandoffId, Role};
use crate::process::Process;
use crate::safe_moment::{self, Signal};
use crate::settings::Settings;
use crate::syslog;
use crate::ticket::Duty;

/// The default for WAIT_SECONDS when no signal is configured.
const USUAL_WAIT: Duration = Duration::from_secs(10);
/// How long a command that asks for a reboot is watched at least; BusyBox's takes less than a second.
const MIN_WATCH: Duration = Duration::from_secs(10);
/// Programs that only start the one after their options.
const INITS: [&str; 4] = ["tini", "tini-static", "dumb-init", "docker-init"];

/// What a handoff is going to do.
pub struct Plan {
    /// Our own container.
    pub action: Action,
    /// What earlier attempts of the same action left.
    pub earlier: Vec<Seen>,
    /// `IMAGE`; `None` if it is to be pulled.
    pub image: Option<Image>,
    /// What the waiter will have to do.
    pub duty: Duty,
    /// What the engine will be asked for.
    pub prepared: Prepared,
    /// Why the handoff would fail.
    pub problems: Vec<Failure>,
}

impl Plan {
    /// The user container of an earlier attempt that runs: then there is nothing to do.
    pub fn running_user(&self) -> Option<&Seen> {
        running_user(&self.earlier)
    }
}

/// Finds out what a handoff is going to do.
///
/// # Errors
/// What keeps anything else from being found out. What can be found beside that is in [`Plan::problems`].
pub async fn plan(
    reached: &Reached,
    process: &Process,
    settings: &Settings,
    handoff: &HandoffId,
) -> Result<Plan, Vec<Failure>> {
    let lifecycle = Lifecycle::new(reached.engine.as_ref(), HANDOFF_PATIENCE);
    let about = reached.engine.about();
    let (action, image) = tokio::join!(
        identity::identify(&lifecycle, process, &reached.candidates, handoff),
        lifecycle.image(settings.image.as_written()),
    );
    let mut problems = Vec::new();
    let image = image.unwrap_or_else(|refusal| {
        problems.push(failures::image_unknown(&settings.image, &about, refusal));
        None
    });
    let action = match action {
        Ok(action) => action,
        Err(failure) => {
            problems.insert(0, failure);
            return Err(problems);
        }
    };
    let own = &action.container;
    logging::set_action(&own.name);
    tracing::info!(
        container = own.id,
        proof = action.proof,
        image = settings.image.as_written(),
        "identified the action container"
    );
    let earlier = match lifecycle.of_action(&own.name, &reached.ours).await {
        Ok(earlier) => earlier,
        Err(refusal) => {
            problems
                .push(Failure::new("cannot look for earlier attempts of this action").fix(about.check).cause(refusal));
            return Err(problems);
        }
    };
    if running_user(&earlier).is_some() {
        let duty = duty(&action, process, settings, handoff, None, about.keeps_logs);
        return Ok(Plan { action, earlier, image, duty, prepared: Prepared::default(), problems: Vec::new() });
    }
    if own.role == Some(Role::User) {
        problems.push(failures::image_is_our_own());
    }
    let signal = safe_moment::prepare(settings, process).await.unwrap_or_else(|failure| {
        problems.push(failure);
        None
    });
    let duty = duty(&action, process, settings, handoff, signal, about.keeps_logs);
    let order = Order { action: own, own_image: &action.image, image: &settings.image, duty: &duty };
    let mut prepared = reached.engine.prepare(&order).await;
    for refusal in prepared.refusals.drain(..) {
        let name = Role::User.container_name(&own.name);
        problems.push(failures::creation_failed("the user container", &name, &about, refusal));
    }
    problems.append(&mut prepared.problems);
    if let Some(image) = &image {
        problems.extend(problems_of_image(&action.image, image, &prepared));
    }
    Ok(Plan { action, earlier, image, duty, prepared, problems })
}

/// Tells why `IMAGE`, which is on this machine, cannot be run.
pub fn problems_of_image(own: &Image, image: &Image, prepared: &Prepared) -> Vec<Failure> {
    let mut problems = Vec::new();
    let runs = runs(&prepared.words, &image.config);
    if image.id == own.id || is_waitdaemon(&runs) {
        problems.push(failures::image_is_our_own());
    }
    if runs.is_empty() && image.config.is_object() {
        problems.push(failures::no_command());
    }
    problems
}

/// What the user container runs: the image's ENTRYPOINT with the action's arguments, or with its CMD if there are none.
pub fn runs(words: &[Value], config: &Value) -> Vec<Value> {
    let arguments = if words.is_empty() { list(&config["Cmd"]) } else { words };
    [list(&config["Entrypoint"]), arguments].concat()
}

/// True if a command runs waitdaemon, of whatever version: its program is called that.
fn is_waitdaemon(command: &[Value]) -> bool {
    let base = |word: &Value| text(word).rsplit('/').next().unwrap_or_default().to_owned();
    let program = command.iter().map(base).find(|word| !INITS.contains(&word.as_str()) && !word.starts_with('-'));
    program.is_some_and(|program| program == "waitdaemon")
}

/// What the waiter is told.
fn duty(
    action: &Action,
    process: &Process,
    settings: &Settings,
    handoff: &HandoffId,
    signal: Option<Signal>,
    keeps_logs: bool,
) -> Duty {
    let finish_reboot = if settings.finish_reboot && process.systemd_is_init {
        End::of(process.command.get(1..).unwrap_or_default())
    } else {
        None
    };
    // To finish what the command could not do, the waiter must see the command's end.
    let min_watch = if finish_reboot.is_some() { MIN_WATCH } else { Duration::ZERO };
    let own = &action.container;
    Duty {
        handoff: handoff.clone(),
        action_id: own.id.clone(),
        action_name: own.name.clone(),
        action_pid: own.life.pid(),
        deleted_on_success: own.whole.deleted_on_success,
        tty: own.whole.tty,
        wait_seconds: min_wait(settings, signal.is_some()).as_secs(),
        signal,
        watch_seconds: settings.watch.max(min_watch).as_secs(),
        finish_reboot,
        log: settings.log,
        syslog: syslog::server(&settings.syslog, keeps_logs, &process.command_line),
    }
}

/// WAIT_SECONDS, or its default. A signal tells the safe moment; without one only time can. So if one was asked for that
/// cannot come, 0, which is right beside a signal, does not stand. Pure.
fn min_wait(settings: &Settings, signal: bool) -> Duration {
    if signal {
        return settings.wait.unwrap_or_default();
    }
    settings.wait.filter(|wait| settings.wait_for.is_none() || !wait.is_zero()).unwrap_or(USUAL_WAIT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_signal_makes_no_wait_safe() {
        let min = |pairs: &[(&str, &str)], signal| {
            let all = [("IMAGE", "a")].iter().chain(pairs).map(|(name, value)| (name.into(), value.into()));
            min_wait(&Settings::read(all).unwrap(), signal).as_secs()
        };
        let (netboot_off, wait) = (("WAITDAEMON_WAIT_FOR", "netboot-off"), |text| ("WAIT_SECONDS", text));
        assert_eq!((min(&[], false), min(&[wait("0")], false), min(&[wait("7")], false)), (10, 0, 7));
        for (given, with, without) in [(None, 0, 10), (Some("0"), 0, 10), (Some("7"), 7, 7)] {
            let pairs: Vec<_> = given.map(wait).into_iter().chain([netboot_off]).collect();
            assert_eq!((min(&pairs, true), min(&pairs, false)), (with, without), "{given:?}");
        }
    }

    #[test]
    fn waitdaemon_is_known_by_what_it_runs() {
        for (config, words, own) in [
            (json!({"Entrypoint": ["/waitdaemon"]}), json!(["reboot"]), true),
            (json!({"Entrypoint": ["/sbin/tini", "-v", "--", "/usr/bin/waitdaemon", "x"]}), json!([]), true),
            (json!({"Entrypoint": ["/sbin/tini", "--"], "Cmd": ["/waitdaemon"]}), json!([]), true),
            (json!({"Cmd": ["/waitdaemon", "reboot"]}), json!([]), true),
            (json!({"Cmd": ["/waitdaemon", "reboot"]}), json!(["reboot"]), false),
            (json!({"Cmd": ["sh"]}), json!(["/waitdaemon"]), true),
            (json!({"Entrypoint": ["/bin/echo"]}), json!(["waitdaemon"]), false),
            (json!({"Entrypoint": ["/waitdaemon.sh"]}), json!([]), false),
            (json!({"Entrypoint": "/waitdaemon"}), json!([]), false),
            (Value::Null, json!([]), false),
        ] {
            assert_eq!(is_waitdaemon(&runs(list(&words), &config)), own, "{config} {words}");
        }
    }
}
