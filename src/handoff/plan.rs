//! Plans what a handoff is going to do: everything is decided here, and nothing is changed.

use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;

use super::end_checks;
use super::job::Job;
use super::kernel::Kernel;
use crate::command;
use crate::end::{End, Init};
use crate::engine::{Image, Order, Prepared, Seen, UserOrder};
use crate::error::Failure;
use crate::failures;
use crate::identity::{self, Action};
use crate::lifecycle::{HANDOFF_PATIENCE, Lifecycle, of_another_request, running_user};
use crate::logging;
use crate::machine::command_line;
use crate::names::Role;
use crate::safe_moment::{self, AwaitedSignal};
use crate::settings::{FinishReboot, Settings, Work};
use crate::ticket::{Duty, Report};

/// The default for WAIT_SECONDS when no signal is configured.
const USUAL_WAIT: Duration = Duration::from_secs(10);
/// The least time that a command that asks for a reboot is watched; BusyBox's takes less than a
/// second.
const MIN_WATCH: Duration = Duration::from_secs(10);

/// What a handoff is going to do.
pub struct Plan {
    /// Our own container.
    pub action: Action,
    /// The containers that earlier attempts of the same action left.
    pub earlier: Vec<Seen>,
    /// `IMAGE`; `None` if it must be pulled, or there will be no user container.
    pub image: Option<Image>,
    /// The action's image, which is our own; `None` if there will be no user container.
    pub own_image: Option<Image>,
    /// What the user container runs, as far as that is known.
    pub runs: Vec<String>,
    /// The kernel to load, if any.
    pub kernel: Option<Kernel>,
    /// What the waiter will have to do.
    pub duty: Duty,
    /// What the engine will be asked to create.
    pub prepared: Prepared,
    /// Why the handoff would fail.
    pub problems: Vec<Failure>,
}

impl Plan {
    /// Returns the user container of an earlier attempt if it runs: then there is nothing to do.
    pub fn running_user(&self) -> Option<&Seen> {
        running_user(&self.earlier)
    }
}

/// Finds out what a handoff is going to do.
///
/// # Errors
/// If a problem prevents the plan from being completed. All other problems are in
/// [`Plan::problems`].
pub fn plan<'a>(
    job: &'a Job<'_>,
) -> Pin<Box<dyn Future<Output = Result<Plan, Vec<Failure>>> + 'a>> {
    // Boxed, so that its code exists once.
    Box::pin(make(job))
}

async fn make(job: &Job<'_>) -> Result<Plan, Vec<Failure>> {
    let Job { reached, process, settings, .. } = *job;
    let lifecycle = Lifecycle::new(reached.engine.as_ref(), HANDOFF_PATIENCE);
    let about = reached.engine.about();
    let look_for_image = async {
        match settings.image() {
            Some(image) => {
                lifecycle.image(image.as_written()).await.map_err(|refusal| (image, refusal))
            }
            None => Ok(None),
        }
    };
    // Only what the user container is made from and compared with needs our own image.
    let look_for_own_image = async {
        match &reached.candidates[..] {
            // If there is one candidate, as usual, its image is looked up before it is proved to be
            // ours: a nerdctl call takes 35 ms.
            [candidate] if settings.image().is_some() => {
                Some(identity::own_image(&lifecycle, candidate).await)
            }
            _ => None,
        }
    };
    let (action, image, candidates_image) = tokio::join!(
        identity::identify(&lifecycle, process, &reached.candidates, &job.id),
        look_for_image,
        look_for_own_image
    );
    let mut problems = Vec::new();
    let image = image.unwrap_or_else(|(image, refusal)| {
        problems.push(failures::image_unknown(image, &about, refusal));
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
    log::info!(container = own.id.as_str(), proof = action.proof, image = settings.image().map(|image| image.as_written()); "identified the action container");
    let ours: Vec<&str> = reached.ours.iter().map(String::as_str).collect();
    let is_own = reached.candidates.first().is_some_and(|first| first.id == own.id);
    let own_image = match candidates_image.filter(|_| is_own) {
        Some(image) => Some(image),
        None if settings.image().is_some() => Some(identity::own_image(&lifecycle, own).await),
        None => None,
    };
    let own_image = match own_image.transpose() {
        Ok(image) => image,
        Err(failure) => {
            problems.push(failure);
            return Err(problems);
        }
    };
    let (earlier, others): (Vec<Seen>, Vec<Seen>) = match lifecycle.inspect_all(&ours).await {
        Ok(found) => found.into_iter().partition(|seen| seen.action == own.name),
        Err(refusal) => {
            problems.push(
                Failure::new("cannot look for earlier attempts of this action")
                    .fix(about.check)
                    .cause(refusal),
            );
            return Err(problems);
        }
    };
    if let Some(other) = of_another_request(&earlier, &process.request) {
        problems.push(failures::name_is_in_use(&other.name));
        return Err(problems);
    }
    let arguments = own_image
        .as_ref()
        .map(|own| command::arguments(&process.command, &own.config))
        .unwrap_or_default();
    let config = image.as_ref().map(|image| &image.config).unwrap_or(&Value::Null);
    let runs =
        if settings.own_end().is_some() { Vec::new() } else { command::of(&arguments, config) };
    if running_user(&earlier).is_some() {
        let duty = duty(job, &action, &runs, None);
        let (prepared, problems) = (Prepared::default(), Vec::new());
        return Ok(Plan {
            action,
            earlier,
            image,
            own_image,
            runs,
            kernel: None,
            duty,
            prepared,
            problems,
        });
    }
    if own.is_user() {
        problems.push(failures::image_is_our_own());
    }
    let signal = safe_moment::prepare(settings, process).await.unwrap_or_else(|failure| {
        problems.push(failure);
        None
    });
    let duty = duty(job, &action, &runs, signal);
    problems.extend(end_checks::problems(&duty));
    end_checks::warn(&lifecycle, &duty, &runs, &others).await;
    let kernel = match &settings.work {
        Work::Kexec(wanted) => Kernel::find(wanted.as_ref().clone())
            .await
            .map_err(|failure| problems.push(failure))
            .ok(),
        _ => None,
    };
    let order = Order {
        action: own,
        user: settings.image().zip(own_image.as_ref()).map(|(name, own_image)| UserOrder {
            image: name,
            found: image.as_ref(),
            own_image,
            arguments: &arguments,
        }),
        request: &process.request,
        has_network: process.machine.has_network,
        duty: &duty,
    };
    let mut prepared = reached.engine.prepare(&order).await;
    for refusal in prepared.refusals.drain(..) {
        let name = Role::User.container_name(&own.name);
        problems.push(failures::creation_failed("the user container", &name, &about, refusal));
    }
    problems.append(&mut prepared.problems);
    if let Some((image, own_image)) = image.as_ref().zip(own_image.as_ref()) {
        problems.extend(problems_of_image(settings, own_image, image, &prepared, &runs));
    }
    Ok(Plan { action, earlier, image, own_image, runs, kernel, duty, prepared, problems })
}

/// Returns why `IMAGE`, which is on this machine, cannot be run.
fn problems_of_image(
    settings: &Settings,
    own: &Image,
    image: &Image,
    prepared: &Prepared,
    runs: &[String],
) -> Vec<Failure> {
    let mut problems = Vec::new();
    if image.id == own.id || command::is_waitdaemon(runs) {
        problems.push(failures::image_is_our_own());
    }
    if runs.is_empty() && image.config.is_object() {
        problems.push(failures::no_command());
    }
    // Our own image runs on this machine, so its architecture is the machine's.
    let platform = image.platform.as_ref().filter(|platform| !platform.runs_on(own.architecture()));
    if let (Some(platform), Some(name)) = (platform, settings.image()) {
        problems.push(failures::image_is_for(
            name,
            std::slice::from_ref(platform),
            own.architecture(),
        ));
    }
    match &prepared.no_network {
        Some(why) if command::is_end(runs) => {
            log::warn!("the user container gets no network, and its command needs none: {why}");
        }
        Some(why) => problems.push(failures::no_network(why)),
        None => {}
    }
    problems
}

/// Returns what the waiter is told.
fn duty(job: &Job<'_>, action: &Action, runs: &[String], signal: Option<AwaitedSignal>) -> Duty {
    let Job { reached, process, settings, .. } = *job;
    let finish_reboot = finish_reboot(settings, process.machine.init, runs);
    // To finish what the command could not do, the waiter must see the command's end.
    let min_watch = if finish_reboot.is_some() { MIN_WATCH } else { Duration::ZERO };
    let own = &action.container;
    let line = process.machine.command_line.as_str();
    let worker =
        command_line::value(line, "worker_id").or_else(|| command_line::value(line, "hw_addr"));
    Duty {
        handoff: job.id.clone(),
        action_id: own.id.clone(),
        action_name: own.name.clone(),
        action_pid: own.life.pid(),
        deleted_on_success: own.whole.deleted_on_success,
        tty: own.whole.tty,
        wait_seconds: min_wait(settings, signal.is_some()).as_secs(),
        signal,
        watch_seconds: settings.watch.max(min_watch).as_secs(),
        own_end: settings.own_end(),
        finish_reboot,
        word_of_end: command::word_of_end(runs).map(str::to_owned),
        has_host_pids: own.whole.has_host_pids,
        fallback: settings.fallback,
        force_after_seconds: settings.force_after.map_or(0, |after| after.as_secs()),
        init: process.machine.init,
        report: settings.report.as_ref().map(|url| Report {
            url: url.to_string(),
            worker: worker.unwrap_or_default().to_owned(),
        }),
        log: settings.log,
        syslog: reached.syslog.clone(),
    }
}

/// Returns what to ask systemd for once the command, which could not get it, has ended. Pure.
fn finish_reboot(settings: &Settings, init: Init, runs: &[String]) -> Option<End> {
    if init != Init::Systemd || settings.image().is_none() {
        return None;
    }
    match settings.finish_reboot {
        FinishReboot::Never => None,
        FinishReboot::IfAsked => command::asks_init_for(runs),
        FinishReboot::Always => {
            command::asks_init_for(runs).or_else(|| command::end_named(runs)).or(Some(End::Reboot))
        }
    }
}

/// Returns WAIT_SECONDS, or its default. A signal tells the safe moment; without one only time can.
/// So if a signal is configured but cannot come, the default replaces 0, which is right together
/// with a signal. Pure.
fn min_wait(settings: &Settings, signal: bool) -> Duration {
    if signal {
        return settings.wait.unwrap_or_default();
    }
    settings
        .wait
        .filter(|wait| settings.wait_for.is_none() || !wait.is_zero())
        .unwrap_or(USUAL_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let all =
            [("IMAGE", "a")].iter().chain(pairs).map(|(name, value)| (name.into(), value.into()));
        Settings::read(all, &[]).unwrap()
    }

    #[test]
    fn only_a_signal_makes_no_wait_safe() {
        let min = |pairs: &[(&str, &str)], signal| min_wait(&settings(pairs), signal).as_secs();
        let (netboot_off, wait) =
            (("WAITDAEMON_WAIT_FOR", "netboot-off"), |text| ("WAIT_SECONDS", text));
        assert_eq!(
            (min(&[], false), min(&[wait("0")], false), min(&[wait("7")], false)),
            (10, 0, 7)
        );
        for (given, with, without) in [(None, 0, 10), (Some("0"), 0, 10), (Some("7"), 7, 7)] {
            let pairs: Vec<_> = given.map(wait).into_iter().chain([netboot_off]).collect();
            assert_eq!((min(&pairs, true), min(&pairs, false)), (with, without), "{given:?}");
        }
    }

    #[test]
    fn a_reboot_is_finished_if_it_asked_init_or_somebody_says_so() {
        let finished = |value: &str, command: &[&str]| {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            finish_reboot(
                &settings(&[("WAITDAEMON_FINISH_REBOOT", value)]),
                Init::Systemd,
                &command,
            )
        };
        let script = ["sh", "-c", "sleep 1; poweroff"];
        assert_eq!((finished("", &["halt"]), finished("", &script)), (Some(End::Halt), None));
        assert_eq!(
            (finished("true", &script), finished("true", &["/run.sh"])),
            (Some(End::PowerOff), Some(End::Reboot))
        );
        let script = ["sh", "-c", "shutdown -c; poweroff"];
        assert_eq!(finished("true", &script), Some(End::PowerOff));
        assert_eq!(finished("false", &["halt"]), None);
    }
}
