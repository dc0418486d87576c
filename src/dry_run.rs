//! A dry run: what a handoff would do, found out without changing anything.
//!
//! It asks what the handoff asks, in the same order, and goes on where the handoff would end, so that all
//! problems are found at once. What only the engine's own try can tell, such as a setting that it does not
//! take, it cannot find.

use std::io::{IsTerminal, Write};

use serde_json::{Map, Value, json};

use crate::engine::{self, Chosen, Engine, Standing, failures, json};
use crate::error::{Failure, exit};
use crate::handoff;
use crate::host;
use crate::logging;
use crate::login::Login;
use crate::names::{HandoffId, Role};
use crate::safe_moment;
use crate::settings::{Problem, Settings};

/// What was found, as it is printed: on a terminal for a reader, else as lines of the log.
struct Plan {
    found: Vec<(&'static str, Value)>,
    problems: Vec<Value>,
    for_a_reader: bool,
}

/// Finds out what a handoff with these settings would do and prints it; returns the handoff's exit code.
pub async fn run(settings: &Settings, login: Option<Login>) -> u8 {
    let mut plan = Plan::new();
    let code = match engine::choose(settings).await {
        Ok(Chosen::Docker(docker)) => plan.of(&docker, settings, login).await,
        Ok(Chosen::Nerdctl(nerdctl)) => plan.of(&nerdctl, settings, login).await,
        Err(failures) => {
            failures.iter().for_each(|failure| plan.failed(failure));
            plan.failed(&Failure::new("no container engine can be used"));
            exit::NO_ENGINE
        }
    };
    plan.print(code)
}

/// Prints what else is wrong with them; returns the handoff's exit code.
pub fn failed(failure: &Failure) -> u8 {
    let mut plan = Plan::new();
    plan.failed(failure);
    plan.print(exit::INVALID_SETTINGS)
}

/// Prints what is wrong with the settings; returns the handoff's exit code.
pub fn invalid(problems: &[Problem]) -> u8 {
    let mut plan = Plan::new();
    for problem in problems {
        let mut failure = Failure::new(problem.problem.as_str()).field(problem.field).fix(problem.fix);
        failure.cause = problem.value.as_deref().map(|value| format!("the value is {value:?}").into());
        plan.failed(&failure);
    }
    plan.print(exit::INVALID_SETTINGS)
}

impl Plan {
    fn new() -> Self {
        Self { found: Vec::new(), problems: Vec::new(), for_a_reader: std::io::stdout().is_terminal() }
    }

    async fn of<E: Engine>(&mut self, engine: &E, settings: &Settings, login: Option<Login>) -> u8 {
        self.say("engine", engine.described());
        match self.look(engine, settings, login).await {
            Ok(()) if self.problems.is_empty() => 0,
            Ok(()) => exit::HANDOFF_FAILED,
            Err(failure) => {
                self.failed(&failure);
                exit::HANDOFF_FAILED
            }
        }
    }

    async fn look<E: Engine>(&mut self, engine: &E, settings: &Settings, login: Option<Login>) -> Result<(), Failure> {
        let handoff = HandoffId::random().map_err(|error| Failure::new("no random numbers").cause(error))?;
        let action = engine.identify(&handoff).await?;
        let (id, name) = engine.action_names(&action);
        logging::set_action(name);
        self.say("action", json!({"name": name, "id": id, "proof": engine.proof(&action)}));

        let mut earlier = Vec::new();
        for role in [Role::Waiter, Role::User] {
            let container = role.container_name(name);
            match engine.standing(&container, name).await? {
                Standing::Free => {}
                Standing::Pending => earlier.push(format!("{container} would be removed")),
                Standing::Running if role == Role::User => {
                    self.say("earlier_attempt", [format!("{container} runs already; it would be left alone")]);
                    return Ok(());
                }
                Standing::Running => earlier.push(format!("{container} would be ended and removed")),
                Standing::Foreign => self.failed(
                    &Failure::new(format!("the name {container} is taken by another container"))
                        .fix(failures::NAME_IS_TAKEN),
                ),
            }
        }
        self.say("earlier_attempt", earlier);

        let image = engine.image(&settings.image).await?;
        self.say("image", json!({"name": settings.image.as_written(), "on_this_machine": image.is_some()}));
        if image.is_none() {
            let login = login.or_else(|| Login::of_machine(&host::command_line(), &settings.image));
            let found = engine.find_in_registry(&settings.image, login.as_ref()).await;
            found.unwrap_or_else(|failure| self.failed(&failure));
        }

        let signal = safe_moment::prepare(settings).await;
        let signal = signal.unwrap_or_else(|failure| {
            self.failed(&failure);
            None
        });
        let ticket = handoff::ticket(engine, &action, settings, &handoff, signal);
        let planned = engine.plan(&action, &settings.image, &ticket).await;
        planned.problems.iter().for_each(|failure| self.failed(failure));
        let config = image.unwrap_or_default();
        let or = |words: &[Value], other: &Value| -> Vec<Value> {
            if words.is_empty() { other.as_array().cloned().unwrap_or_default() } else { words.to_vec() }
        };
        let command = or(&planned.words, &config["Cmd"]);
        let runs = [or(&[], &config["Entrypoint"]), command].concat();
        if runs.is_empty() && config.is_object() {
            self.failed(&failures::no_command());
        }
        self.say(
            "user_container",
            json!({"name": Role::User.container_name(name), "runs": runs, "differences": planned.differences}),
        );
        self.say("waiter", json!({"name": Role::Waiter.container_name(name)}));
        self.say("wait_seconds", ticket.wait_seconds);
        self.say("waits_for", ticket.signal.as_ref().map(|signal| signal.name.as_str()));
        self.say("watch_seconds", ticket.watch_seconds);
        self.say("asks_systemd_for", ticket.finish_reboot.map(|request| request.name()));
        Ok(())
    }

    fn say(&mut self, what: &'static str, value: impl Into<Value>) {
        self.found.push((what, value.into()));
    }

    fn failed(&mut self, failure: &Failure) {
        if !self.for_a_reader {
            logging::failure(failure);
        }
        let mut problem = Map::from_iter([("message".to_owned(), failure.what.as_str().into())]);
        let others = [("error", failure.causes()), ("field", failure.field.to_owned()), ("fix", failure.fix.clone())];
        problem.extend(
            others.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), text.into())),
        );
        self.problems.push(problem.into());
    }

    /// Prints it; returns `code`.
    fn print(mut self, code: u8) -> u8 {
        let problems = std::mem::take(&mut self.problems);
        self.say("problems", problems);
        self.say("exit_code", code);
        if self.for_a_reader {
            // There is nobody to tell where a terminal cannot be written.
            let _ = std::io::stdout().write_all(shown(&self.found).as_bytes());
        } else {
            let plan: Map<String, Value> =
                self.found.into_iter().map(|(what, value)| (what.to_owned(), value)).collect();
            logging::document("dry run: nothing was changed", "plan", plan.into());
        }
        code
    }
}

/// A plan for a reader. Pure.
fn shown(plan: &[(&str, Value)]) -> String {
    let mut text = "dry run: nothing was changed\n".to_owned();
    plan.iter().for_each(|(what, value)| write(&mut text, what, value, 0));
    text
}

/// A value with its name on a line; what an object or a list of objects holds below it, further in.
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
        Some(Value::Array(list)) => list.iter().for_each(|value| write(text, "-", value, depth + 1)),
        _ => {}
    }
}

/// A plain value. Control characters of a name or an engine's message do nothing to the terminal.
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
        let text = shown(&plan);
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
