//! A dry run: a plan that is shown and not applied. It also asks for what only applying the plan
//! would tell: the registry's answer, and which containers hold the names. It does not find what
//! only the engine's own attempt can tell, such as a setting that the engine rejects.

use std::io::{IsTerminal, Write};

use serde_json::{Map, Value, json};

use super::job::Job;
use super::plan::{Plan, plan};
use crate::bootloader::entry::Entry;
use crate::choose::{Reached, choose};
use crate::engine::{Life, Pulling, Seen, json};
use crate::error::{Context, Failure, exit};
use crate::failures;
use crate::lifecycle::{HANDOFF_PATIENCE, Lifecycle};
use crate::logging;
use crate::login::Login;
use crate::machine::command_line;
use crate::names::Role;
use crate::process::Process;
use crate::settings::{Problem, Settings};

/// The findings, as they are printed: for a reader on a terminal, else as lines of the log.
struct DryRun {
    found: Vec<(&'static str, Value)>,
    problems: Vec<Value>,
    for_a_reader: bool,
}

/// Finds out what a handoff with these settings would do and prints it; returns the handoff's exit
/// code.
pub async fn run(settings: &Settings, process: &Process, login: Option<Login>) -> u8 {
    let mut report = DryRun::new();
    let code = match choose(settings, process).await {
        Ok(reached) => match report.plan(&reached, process, settings, login).await {
            Ok(()) if report.problems.is_empty() => 0,
            Ok(()) => exit::HANDOFF_FAILED,
            Err(failures) => {
                failures.iter().for_each(|failure| report.failed(failure));
                exit::HANDOFF_FAILED
            }
        },
        Err(failures) => {
            failures.iter().for_each(|failure| report.failed(failure));
            report.failed(&Failure::new("no container engine can be used"));
            exit::NO_ENGINE
        }
    };
    report.print(code)
}

/// Prints what else is wrong with the settings; returns the handoff's exit code.
pub fn failed(failure: &Failure) -> u8 {
    let mut report = DryRun::new();
    report.failed(failure);
    report.print(exit::INVALID_SETTINGS)
}

/// Prints what is wrong with the settings; returns the handoff's exit code.
pub fn invalid(problems: &[Problem]) -> u8 {
    let mut report = DryRun::new();
    for problem in problems {
        let mut failure =
            Failure::new(problem.problem.as_str()).field(problem.field).fix(problem.fix);
        failure.cause =
            problem.value.as_deref().map(|value| format!("the value is {value:?}").into());
        report.failed(&failure);
    }
    report.print(exit::INVALID_SETTINGS)
}

impl DryRun {
    fn new() -> Self {
        Self {
            found: Vec::new(),
            problems: Vec::new(),
            for_a_reader: std::io::stdout().is_terminal(),
        }
    }

    async fn plan(
        &mut self,
        reached: &Reached,
        process: &Process,
        settings: &Settings,
        login: Option<Login>,
    ) -> Result<(), Vec<Failure>> {
        self.say("engine", reached.engine.about().described);
        let job = Job::new(reached, process, settings, login)?;
        let mut plan = plan(&job).await?;
        let own = &plan.action.container;
        self.say("action", json!({"name": own.name, "id": own.id, "proof": plan.action.proof}));
        if let Some(user) = plan.running_user() {
            self.say(
                "earlier_attempt",
                [format!("{} is already running; it would be left alone", user.name)],
            );
            return Ok(());
        }
        std::mem::take(&mut plan.problems).iter().for_each(|failure| self.failed(failure));
        self.foresee(&job, &plan).await?;
        self.say_containers(settings, &plan);
        Ok(())
    }

    /// Asks for what only applying the plan would tell.
    async fn foresee(&mut self, job: &Job<'_>, plan: &Plan) -> Result<(), Vec<Failure>> {
        let Job { reached, settings, .. } = *job;
        let lifecycle = Lifecycle::new(reached.engine.as_ref(), HANDOFF_PATIENCE);
        let action = plan.action.container.name.as_str();
        let names = [Role::Waiter, Role::User].map(|role| role.container_name(action));
        let holders = lifecycle.inspect_all(&[&names[0], &names[1]]).await;
        for holder in holders.context(format!("cannot inspect {} and {}", names[0], names[1]))? {
            if holder.action != action {
                let taken = format!("the name {} is taken by another container", holder.name);
                self.failed(&Failure::new(taken).fix(failures::NAME_IS_TAKEN));
            }
        }
        // In the order in which they would be removed.
        let is_user = |seen: &&Seen| seen.is_user();
        let (users, others): (Vec<&Seen>, Vec<&Seen>) = plan.earlier.iter().partition(is_user);
        let earlier = users.into_iter().chain(others).map(|seen| match seen.life {
            Life::Running { .. } => format!("{} would be ended and removed", seen.name),
            _ => format!("{} would be removed", seen.name),
        });
        self.say("earlier_attempt", earlier.collect::<Vec<_>>());
        let absent = settings.image().filter(|_| plan.image.is_none());
        if let Some((image, own)) = absent.zip(plan.own_image.as_ref()) {
            let machine = own.architecture();
            match reached.engine.pull(image, job.login.as_ref(), Pulling::Find).await {
                Ok(platforms)
                    if !platforms.is_empty()
                        && !platforms.iter().any(|one| one.runs_on(machine)) =>
                {
                    self.failed(&failures::image_is_for(image, &platforms, machine));
                }
                Ok(_) => {}
                Err(refusal) => {
                    let about = reached.engine.about();
                    self.failed(&failures::pull_failed(image, &about, refusal));
                }
            }
        }
        Ok(())
    }

    fn say_containers(&mut self, settings: &Settings, plan: &Plan) {
        let action = plan.action.container.name.as_str();
        if let Some(image) = settings.image() {
            self.say(
                "image",
                json!({"name": image.as_written(), "on_this_machine": plan.image.is_some()}),
            );
            let (name, differences) =
                (Role::User.container_name(action), &plan.prepared.differences);
            self.say(
                "user_container",
                json!({"name": name, "runs": plan.runs, "differences": differences}),
            );
        }
        if let Some(kernel) = &plan.kernel {
            let Entry { kernel, initrds, command_line, source, .. } = &kernel.entry;
            let command_line = command_line::redact(command_line);
            let entry = json!({"path": kernel, "initrds": initrds, "command_line": command_line, "source": source});
            self.say("kernel", entry);
        }
        self.say("waiter", json!({"name": Role::Waiter.container_name(action)}));
        self.say("wait_seconds", plan.duty.wait_seconds);
        self.say("waits_for", plan.duty.signal.as_ref().map(|signal| signal.name.as_str()));
        self.say("watch_seconds", plan.duty.watch_seconds);
        self.say("asks_systemd_for", plan.duty.finish_reboot.map(|end| end.name()));
        if plan.duty.ends_machine() {
            self.say("ends_machine_by", plan.duty.own_end.map(|end| end.name()));
            self.say("fallback", plan.duty.fallback.map(|fallback| fallback.end.name()));
            self.say("init", plan.duty.init.name());
        }
    }

    fn say(&mut self, what: &'static str, value: impl Into<Value>) {
        self.found.push((what, value.into()));
    }

    fn failed(&mut self, failure: &Failure) {
        if !self.for_a_reader {
            logging::failure(failure);
        }
        let mut problem = Map::new();
        problem.insert("message".to_owned(), failure.message.as_str().into());
        let others = [
            ("error", failure.causes()),
            ("field", failure.field.to_owned()),
            ("fix", failure.fix.clone()),
        ];
        problem.extend(
            others
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .map(|(key, text)| (key.to_owned(), text.into())),
        );
        self.problems.push(problem.into());
    }

    /// Prints the report; returns `code`.
    fn print(mut self, code: u8) -> u8 {
        let problems = std::mem::take(&mut self.problems);
        self.say("problems", problems);
        self.say("exit_code", code);
        if self.for_a_reader {
            // A failure is ignored: there is nowhere to report it.
            let _ = std::io::stdout().write_all(format_plan(&self.found).as_bytes());
        } else {
            let mut plan = Map::new();
            plan.extend(self.found.into_iter().map(|(what, value)| (what.to_owned(), value)));
            logging::document("dry run: nothing was changed", "plan", plan.into());
        }
        code
    }
}

/// Formats a plan for a reader. Pure.
fn format_plan(plan: &[(&str, Value)]) -> String {
    let mut text = "dry run: nothing was changed\n".to_owned();
    plan.iter().for_each(|(what, value)| write(&mut text, what, value, 0));
    text
}

/// Writes a value with its name on a line; below it, indented, what an object or a list of objects
/// holds.
fn write(text: &mut String, name: &str, value: &Value, depth: usize) {
    let (said, below) = match value {
        Value::Object(map) if map.contains_key("user") => {
            let word = |key: &str| in_words(&map[key]);
            (format!("{}: {} -> {}", word("field"), word("action"), word("user")), None)
        }
        Value::Object(map) => (map.get("message").map(in_words).unwrap_or_default(), Some(value)),
        Value::Array(list) if list.iter().any(Value::is_object) => (String::new(), Some(value)),
        value => (in_words(value), None),
    };
    let width = if name == "-" { 2 } else { 17 };
    let line = format!("{}{:width$}{said}", "  ".repeat(depth), name.replace('_', " "));
    text.push_str(line.trim_end());
    text.push('\n');
    match below {
        Some(Value::Object(map)) => {
            let others = map.iter().filter(|(name, _)| *name != "message");
            others.for_each(|(name, value)| write(text, name, value, depth + 1));
        }
        Some(Value::Array(list)) => {
            list.iter().for_each(|value| write(text, "-", value, depth + 1))
        }
        _ => {}
    }
}

/// Formats a plain value. Control characters in a name or an engine's message are replaced, so they
/// cannot affect the terminal.
fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        value if json::empty(value) => "none".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_shown_for_a_reader() {
        let differences = json!([{"field": "Config.Image", "action": "x", "user": "y"}]);
        let plan = [
            ("engine", json!("Docker")),
            ("earlier_attempt", json!([])),
            ("asks_systemd_for", Value::Null),
            ("user_container", json!({"runs": ["reboot"], "differences": differences})),
            ("problems", json!([{"message": "a\u{1b}[2Jb", "fix": "c"}])),
        ];
        let text = format_plan(&plan);
        for line in [
            "engine           Docker",
            "earlier attempt  none",
            "asks systemd for none",
            "  runs             [\"reboot\"]",
            "    - Config.Image: x -> y",
            "  - a [2Jb",
            "    fix              c",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
