//! The user container runs if and only if the action succeeded.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lab::machine::{Engine, Machine, output};
use lab::until::until;

use crate::world::{
    ACTION, Action, LIMIT, SOCKET, USER, WAITER, await_event, count, exit_code, load, log, machine, nothing_left,
    started_once_after,
};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        success_runs_it_after_the_wait,
        a_tag_that_moves_changes_nothing,
        action_killed_after_the_waiter_is_armed,
        action_removed_before_the_waiter_is_armed,
        stop_of_the_waiter_cancels,
        interrupt_of_the_waiter_cancels,
        waiter_started_by_hand_refuses,
    ]
}

fn success_runs_it_after_the_wait(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "2").command(&["true"]).run_well()?;
    ensure!(said.err.is_empty(), "warnings: {said:?}");
    started_once_after(&machine, 2.0)?;
    nothing_left(&machine)
}

/// While the waiter waits, IMAGE's tag is given to another image and waitdaemon's own is removed.
fn a_tag_that_moves_changes_nothing(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    load(&machine, "cmd")?;
    let script = ["sh", "-c", "echo right"];
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "3").command(&script).run_well()?;
    let verified = machine.inspect(USER)?["Image"].clone();
    machine.docker(&["tag", "with-cmd:1", "alpine:latest"])?;
    machine.docker(&["tag", "with-cmd:1", "waitdaemon:dev"])?;
    let moved = machine.docker(&["image", "inspect", "-f", "{{.Id}}", "alpine"])?;
    ensure!(verified != moved, "the tag did not move");
    ensure!(machine.inspect(USER)?["Image"] == verified, "the user container's image moved");
    started_once_after(&machine, 3.0)?;
    ensure!(exit_code(&machine, USER)? == 0);
    nothing_left(&machine)
}

/// The action is killed between "armed" and its own exit, a window of milliseconds.
fn action_killed_after_the_waiter_is_armed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for _ in 0..10 {
        if let Some(pid) = caught_armed(&machine)? {
            machine.signal(pid, "KILL")?;
            ensure!(await_event(&machine, "die", ACTION)?.exit_code == Some(137));
            machine.docker(&["rm", "-f", ACTION])?;
            nothing_left(&machine)?;
            ensure!(count(&machine, "start", USER)? == 0, "the user container ran although the action was killed");
            return Ok(());
        }
        // Missed: away with all three before anything runs, and again.
        for name in [WAITER, ACTION, USER] {
            machine.docker(&["rm", "-f", name])?;
        }
        ensure!(count(&machine, "start", USER)? == 0, "the wait was too short for this case");
    }
    bail!("the action was never caught between armed and exit")
}

/// The agent may remove an action by force. A waiter that was started and then finds no action clears
/// all away.
fn action_removed_before_the_waiter_is_armed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for _ in 0..10 {
        let (created, started) = (count(&machine, "create", USER)?, count(&machine, "start", WAITER)?);
        let action = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "30").command(&["true"]);
        action.start()?;
        until("the user container", LIMIT, || Ok((count(&machine, "create", USER)? > created).then_some(())))?;
        machine.docker(&["rm", "-f", ACTION])?;
        let begun = until("the waiter's start", Duration::from_secs(3), || {
            Ok((count(&machine, "start", WAITER)? > started).then_some(()))
        });
        let last_end = machine.events()?.into_iter().rfind(|event| event.action == "die" && event.name == ACTION);
        if begun.is_ok() && last_end.is_some_and(|end| end.exit_code == Some(137)) {
            nothing_left(&machine)?;
            ensure!(count(&machine, "start", USER)? == 0, "the user container ran although the action was removed");
            return Ok(());
        }
        // Too early (nobody was there to clear away what was created) or too late (it had succeeded).
        for name in [WAITER, USER] {
            machine.docker(&["rm", "-f", name])?;
        }
    }
    bail!("the action was never caught between the waiter's start and armed")
}

/// Starts an action and stops its process while its waiter starts; its PID if the waiter got armed
/// and the action is still there.
fn caught_armed(machine: &Machine) -> Result<Option<i64>> {
    let created = count(machine, "create", WAITER)?;
    Action::new(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "30").command(&["true"]).start()?;
    let pid = machine.inspect(ACTION)?["State"]["Pid"].as_i64().unwrap_or_default();
    until("the waiter's creation", LIMIT, || Ok((count(machine, "create", WAITER)? > created).then_some(())))?;
    if pid == 0 || machine.signal(pid, "STOP").is_err() {
        return Ok(None);
    }
    let armed = until("the waiter to be armed", Duration::from_secs(3), || Ok(is_armed(machine)?.then_some(())));
    let running = machine.inspect(ACTION)?["State"]["Running"] == true;
    Ok((armed.is_ok() && running).then_some(pid))
}

fn is_armed(machine: &Machine) -> Result<bool> {
    Ok(log(machine, WAITER)?.0.iter().any(|line| line["message"] == "armed"))
}

fn stop_of_the_waiter_cancels(engine: Engine) -> Result<()> {
    cancels(engine, &["stop", WAITER])
}

fn interrupt_of_the_waiter_cancels(engine: Engine) -> Result<()> {
    cancels(engine, &["kill", "--signal", "INT", WAITER])
}

/// Within 2 s nothing is left; a wait of 4 s would have been over soon after.
fn cancels(engine: Engine, how: &[&str]) -> Result<()> {
    let machine = machine(engine)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "4").command(&["true"]).run_well()?;
    let begin = Instant::now();
    // The waiter may be gone before docker stop looks at it again, so docker's own word does not count.
    output(machine.docker_command().args(how))?;
    nothing_left(&machine)?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    ensure!(count(&machine, "start", USER)? == 0, "the user container ran");
    Ok(())
}

fn waiter_started_by_hand_refuses(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let run = ["run", "--rm", "-v", SOCKET, "--entrypoint", "/waiter", "waitdaemon:dev", "reboot"];
    let said = output(machine.docker_command().args(run))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(2) && text.contains("not by hand"), "{}: {text}", said.status);
    nothing_left(&machine)
}
