//! The outcome of the user container is seen and logged, at the right level on the right stream.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, State, output};
use lab::until::until;
use serde_json::Value;

use crate::case;
use crate::cases::ON_MAIN;
use crate::world::{
    ACTION, Action, LIMIT, USER, WAITER, log, nothing_left, running, waiter_line, waiter_log,
    waiter_says, watches,
};

/// How long a waiter that does not watch may take to leave, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

fn run(machine: &Machine, environment: &[(&str, &str)], command: &[&str]) -> Result<()> {
    let action = Action::alpine(machine).wait("0").command(command);
    environment.iter().fold(action, |action, (name, value)| action.env(name, value)).run_well()?;
    Ok(())
}

case!(success_leaves_nothing, ON_MAIN, |machine: Shared| {
    run(&machine, &[], &["true"])?;
    nothing_left(&machine)
});

/// The waiter's lines once it has ended with 2; its last error contains these words.
fn lines_to(machine: &Machine, words: &str) -> Result<Vec<Value>> {
    until("the waiter's end", LIMIT, || {
        Ok(machine.seen(WAITER).filter(|seen| seen.state == State::Ended))
    })?;
    let is_said = |line: &Value| {
        line["level"] == "ERROR" && format!("{} {}", line["message"], line["error"]).contains(words)
    };
    // Its last output may reach the log a moment after its end.
    let found = until(&format!("the waiter's error {words:?}"), LIMIT, || {
        let lines = waiter_log(machine);
        Ok(lines.iter().any(is_said).then_some(lines))
    });
    let lines = found.with_context(|| machine.container_logs())?;
    let code = machine.seen(WAITER).and_then(|seen| seen.exit_code);
    ensure!(code == Some(2), "the waiter's exit code is {code:?}: {lines:?}");
    let (out, err) = log(machine, WAITER)?;
    ensure!(out.iter().all(|line| line["level"] == "INFO"), "on standard output: {out:?}");
    ensure!(
        err.iter().all(|line| line["level"] == "WARN" || line["level"] == "ERROR"),
        "on standard error: {err:?}"
    );
    Ok(lines)
}

case!(failure_is_reported_with_its_last_lines, ON_MAIN, |machine: Shared| {
    run(&machine, &[], &["sh", "-c", "exec >&2; seq 30; printf 'last\\033[31m'; exit 7"])?;
    let lines = lines_to(&machine, "exit code 7")?;
    let last: Vec<&str> = lines.iter().filter_map(|line| line["output"].as_str()).collect();
    ensure!(
        last.len() == 20 && last[18] == "30" && last[19] == "last\\u{1b}[31m",
        "last lines: {last:?}"
    );
    ensure!(
        lines.iter().all(|line| line["output"].is_null() || line["level"] == "ERROR"),
        "{lines:?}"
    );
    // The explanation of the failure is kept.
    let user = machine.seen(USER).context("the user container is gone")?;
    ensure!(user.exit_code == Some(7), "{user:?}");
    Ok(())
});

case!(command_not_found, ON_MAIN, |machine: Shared| cannot_be_executed(
    &machine,
    "no-such-command",
    "no-such-command"
));

case!(command_is_not_executable, ON_MAIN, |machine: Shared| {
    cannot_be_executed(&machine, "/etc/passwd", "permission denied")
});

fn cannot_be_executed(machine: &Machine, command: &str, words: &str) -> Result<()> {
    run(machine, &[], &[command])?;
    let lines = lines_to(machine, words)?;
    ensure!(
        lines.iter().any(|line| line["field"] == "command" && !line["fix"].is_null()),
        "{lines:?}"
    );
    // nerdctl gives the name of a container that could not be started to the next one (2.2.1), so
    // only inspect tells.
    machine.inspect(USER).context("the user container is gone")?;
    Ok(())
}

case!(removed_from_outside, ON_MAIN, |machine: Shared| {
    run(&machine, &[], &["sh", "-c", "trap '' TERM; sleep 1000"])?;
    watches(&machine)?;
    output(machine.engine_command().args(["rm", "-f", USER]))?;
    // On containerd the waiter may see the end before the removal has begun.
    let ends = ["was removed by something else", "failed with exit code 137"];
    let ends = &ends[..if machine.is_docker() { 1 } else { 2 }];
    waiter_line(&machine, "that it is gone", |line| {
        line["message"].as_str().is_some_and(|text| ends.iter().any(|end| text.contains(end)))
    })
    .map(drop)
});

case!(still_running_is_left_alone, ON_MAIN, |machine: Shared| {
    run(&machine, &[("WAITDAEMON_WATCH_SECONDS", "1")], &["sleep", "1000"])?;
    until("the waiter's removal", LIMIT, || Ok((!machine.has(WAITER)).then_some(())))?;
    running(&machine, USER).map(drop)
});

case!(no_watch_leaves_at_once, ON_MAIN, |machine: Shared| {
    run(&machine, &[("WAITDAEMON_WATCH_SECONDS", "0")], &["sleep", "1000"])?;
    until("the user container's start", LIMIT, || Ok(running(&machine, USER).ok()))?;
    let begin = Instant::now();
    until("the waiter's removal", LIMIT, || Ok((!machine.has(WAITER)).then_some(())))?;
    // A minute is usual.
    ensure!(begin.elapsed() < AT_ONCE, "the waiter stayed {:?}", begin.elapsed());
    running(&machine, USER).map(drop)
});

case!(lines_are_json_with_the_documented_fields, ON_MAIN, |machine: Shared| {
    let action = Action::alpine(&machine).wait("30").env("WAITDAEMON_LOG", "debug");
    let said = action.env("WAITDAEMON_WATCH_SECOND", "1").run_well()?;
    let lines: Vec<Value> = said.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for line in &lines {
        for field in ["time", "level", "message", "phase"] {
            ensure!(line[field].is_string(), "no {field}: {line}");
        }
        ensure!(line["phase"] == "handoff");
    }
    let last = lines.last().context("no line")?;
    ensure!(last["action"] == ACTION && last["wait_seconds"] == 30, "{last}");
    ensure!(lines.iter().any(|line| line["level"] == "DEBUG"), "no DEBUG line");
    ensure!(
        said.err.contains("unknown variable WAITDAEMON_WATCH_SECOND"),
        "the typing error is not noticed: {said:?}"
    );
    waiter_says(&machine, "armed").map(drop)
});
