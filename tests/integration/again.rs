//! The same action again: one pending user container, not two; a running one is left alone.

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine};
use lab::until::until;
use serde_json::Value;

use crate::faults::docker::Proxy;
use crate::world::{ACTION, Action, LIMIT, USER, WAITER, await_event, count, log, machine, nothing_left};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        while_waiting,
        while_the_user_container_runs,
        while_the_waiter_is_killed,
        the_start_comes_first,
        the_removal_comes_first,
        after_a_failure
    ]
}

fn while_waiting(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "5").command(&["true"]);
    action.run_well()?;
    let first = machine.inspect(USER)?["Id"].clone();
    action.run_well()?;
    ensure!(machine.inspect(USER)?["Id"] != first, "the first attempt's user container must be gone");
    ensure!(machine.containers()?.len() == 2, "one waiter and one user container");
    await_event(&machine, "start", USER)?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 1, "it ran {} times", count(&machine, "start", USER)?);
    Ok(())
}

/// The name, ID and start of a container that runs.
fn running(machine: &Machine, name: &str) -> Result<[Value; 3]> {
    let mut seen = machine.inspect(name)?;
    ensure!(seen["State"]["Running"] == true, "{name}: {}", seen["State"]);
    Ok([name.into(), seen["Id"].take(), seen["State"]["StartedAt"].take()])
}

/// An action whose user container goes on and is watched.
fn long<'a>(machine: &'a Machine, wait: &str) -> Action<'a> {
    let action = Action::new(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", wait);
    action.env("WAITDAEMON_WATCH_SECONDS", "600").command(&["sleep", "1000"])
}

fn while_the_user_container_runs(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = long(&machine, "0");
    action.run_well()?;
    await_event(&machine, "start", USER)?;
    let before = [running(&machine, USER)?, running(&machine, WAITER)?];
    for _ in 0..3 {
        let said = action.run_well()?;
        ensure!(said.err.contains("is already running; leaving it alone"), "{said:?}");
        let now = [running(&machine, USER)?, running(&machine, WAITER)?];
        ensure!(now == before, "{before:?} became {now:?}");
    }
    ensure!(count(&machine, "start", USER)? == 1 && count(&machine, "create", WAITER)? == 1, "{:#?}", machine.events());
    Ok(())
}

/// The engine starts it again.
fn while_the_waiter_is_killed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = long(&machine, "0");
    action.run_well()?;
    let watches = |line: &Value| line["message"] == "user container started";
    until("the waiter's watch", LIMIT, || Ok(log(&machine, WAITER)?.0.iter().any(watches).then_some(())))?;
    let user = running(&machine, USER)?;
    machine.signal(machine.inspect(WAITER)?["State"]["Pid"].as_i64().context("no PID")?, "KILL")?;
    await_event(&machine, "die", WAITER)?;
    action.run_well()?;
    ensure!(running(&machine, USER)? == user, "the user container was not left alone");
    until("the waiter to run again", LIMIT, || Ok((count(&machine, "start", WAITER)? == 2).then_some(())))?;
    running(&machine, WAITER)?;
    ensure!(count(&machine, "create", WAITER)? == 1 && count(&machine, "start", USER)? == 1, "{:#?}", machine.events());
    Ok(())
}

/// The user container is seen not to run, and runs when it is removed.
fn the_start_comes_first(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    long(&machine, "12").run_well()?;
    let proxy = Proxy::start(&machine, ("DELETE", "/containers/", 1), "hold")?;
    let flags = ["-v", "/run/fault-proxy.sock:/var/run/docker.sock"];
    long(&machine, "12").without_socket().flags(&flags).start()?;
    proxy.held()?;
    await_event(&machine, "start", USER)?;
    let before = [running(&machine, USER)?, running(&machine, WAITER)?];
    proxy.go()?;
    let end = await_event_number(&machine, "die", ACTION, 2)?;
    ensure!(end == Some(0), "the second ended with {end:?}: {:?}", log(&machine, ACTION)?);
    let now = [running(&machine, USER)?, running(&machine, WAITER)?];
    ensure!(now == before, "{before:?} became {now:?}");
    Ok(())
}

/// The user container is removed while its waiter is about to start it.
fn the_removal_comes_first(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let proxy = Proxy::start(&machine, ("POST", "/start", 2), "hold")?;
    let action = || Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]);
    let flags = ["-v", "/run/fault-proxy.sock:/var/run/docker.sock"];
    action().without_socket().flags(&flags).run_well()?;
    proxy.held()?;
    action().start()?;
    await_event(&machine, "destroy", USER)?;
    proxy.go()?;
    let end = await_event_number(&machine, "die", ACTION, 2)?;
    ensure!(end == Some(0), "the second ended with {end:?}: {:?}", log(&machine, ACTION)?);
    machine.docker(&["rm", "-f", ACTION])?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 1, "it ran {} times", count(&machine, "start", USER)?);
    Ok(())
}

/// Waits for an event to happen so many times to containers of a name; returns the last one's exit code.
fn await_event_number(machine: &Machine, action: &str, name: &str, number: usize) -> Result<Option<i32>> {
    let found = until(&format!("{action} of {name}, number {number}"), LIMIT, || {
        let events = machine.events()?;
        let mut meant = events.iter().filter(|event| event.action == action && event.name == name);
        Ok(meant.nth(number - 1).map(|event| event.exit_code))
    });
    found.with_context(|| format!("events: {:#?}", machine.events()))
}

fn after_a_failure(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["false"]).run_well()?;
    await_event(&machine, "die", WAITER)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).run_well()?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 2, "each attempt once");
    Ok(())
}
