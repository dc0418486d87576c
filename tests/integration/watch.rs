//! What becomes of the user container is seen, at the right level on the right stream.

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine};
use lab::until::until;
use serde_json::Value;

use crate::world::{Action, LIMIT, USER, WAITER, await_event, exit_code, log, machine, nothing_left};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        success_leaves_nothing,
        failure_is_reported_with_its_last_lines,
        command_not_found,
        command_that_may_not_be_executed,
        removed_by_somebody,
        still_running_is_left_alone,
        no_watch_leaves_at_once,
        lines_are_json_with_the_documented_fields,
    ]
}

fn run(machine: &Machine, environment: &[(&str, &str)], command: &[&str]) -> Result<()> {
    let action = Action::new(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(command);
    environment.iter().fold(action, |action, (name, value)| action.env(name, value)).run_well()?;
    Ok(())
}

fn success_leaves_nothing(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[], &["true"])?;
    ensure!(exit_code(&machine, USER)? == 0);
    nothing_left(&machine)
}

fn errors(machine: &Machine) -> Result<Vec<Value>> {
    ensure!(exit_code(machine, WAITER)? == 2, "the waiter's exit code");
    let (out, err) = log(machine, WAITER)?;
    ensure!(out.iter().all(|line| line["level"] == "INFO"), "on standard output: {out:?}");
    ensure!(err.iter().all(|line| line["level"] == "WARN" || line["level"] == "ERROR"), "on standard error: {err:?}");
    Ok(err)
}

fn failure_is_reported_with_its_last_lines(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[], &["sh", "-c", "exec >&2; seq 30; printf 'last\\033[31m'; exit 7"])?;
    let err = errors(&machine)?;
    let lines: Vec<&str> = err.iter().filter_map(|line| line["output"].as_str()).collect();
    ensure!(lines.len() == 20 && lines.contains(&"30") && lines.contains(&"last\\u{1b}[31m"), "last lines: {lines:?}");
    let last = err.last().context("no error")?;
    ensure!(last["message"].as_str().is_some_and(|text| text.contains("exit code 7")), "{last}");
    // What explains the failure stays.
    ensure!(machine.inspect(USER)?["State"]["ExitCode"] == 7);
    Ok(())
}

fn command_not_found(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[], &["no-such-command"])?;
    let err = errors(&machine)?;
    let last = err.last().context("no error")?;
    ensure!(
        last["field"] == "command" && last["error"].as_str().is_some_and(|text| text.contains("no-such-command")),
        "{last}"
    );
    machine.inspect(USER).map(drop)
}

fn command_that_may_not_be_executed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[], &["/etc/passwd"])?;
    let err = errors(&machine)?;
    let last = err.last().context("no error")?;
    ensure!(
        last["field"] == "command" && last["error"].as_str().is_some_and(|text| text.contains("permission denied")),
        "{last}"
    );
    machine.inspect(USER).map(drop)
}

fn removed_by_somebody(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[], &["sh", "-c", "trap '' TERM; sleep 1000"])?;
    await_event(&machine, "start", USER)?;
    machine.docker(&["rm", "-f", USER])?;
    let err = errors(&machine)?;
    ensure!(
        err.iter()
            .any(|line| line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains("137"))),
        "{err:?}"
    );
    Ok(())
}

fn still_running_is_left_alone(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[("WAITDAEMON_WATCH_SECONDS", "1")], &["sleep", "1000"])?;
    await_event(&machine, "destroy", WAITER)?;
    ensure!(machine.inspect(USER)?["State"]["Running"] == true);
    Ok(())
}

fn no_watch_leaves_at_once(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    run(&machine, &[("WAITDAEMON_WATCH_SECONDS", "0")], &["sleep", "1000"])?;
    let (start, gone) = (await_event(&machine, "start", USER)?, await_event(&machine, "destroy", WAITER)?);
    ensure!(gone.time - start.time < 2.0, "the waiter stayed {:.1} s", gone.time - start.time);
    ensure!(machine.inspect(USER)?["State"]["Running"] == true);
    Ok(())
}

fn lines_are_json_with_the_documented_fields(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "30").env("WAITDAEMON_LOG", "debug");
    let said = action.env("WAITDAEMON_WATCH_SECOND", "1").run_well()?;
    let lines: Vec<Value> = said.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for line in &lines {
        for field in ["time", "level", "message", "phase"] {
            ensure!(line[field].is_string(), "no {field}: {line}");
        }
        ensure!(line["phase"] == "handoff");
    }
    let last = lines.last().context("no line")?;
    ensure!(last["action"] == crate::world::ACTION && last["wait_seconds"] == 30, "{last}");
    ensure!(lines.iter().any(|line| line["level"] == "DEBUG"), "no DEBUG line");
    ensure!(said.err.contains("unknown variable WAITDAEMON_WATCH_SECOND"), "the typing error is not noticed: {said:?}");
    until("the waiter's line", LIMIT, || {
        Ok(log(&machine, WAITER)?.0.iter().any(|line| line["message"] == "armed").then_some(()))
    })
}
