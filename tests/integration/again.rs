//! The same action again: one pending user container, not two; a running one is left alone.

use anyhow::{Result, ensure};
use lab::machine::Engine;

use crate::world::{Action, USER, WAITER, await_event, count, machine, nothing_left};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![while_waiting, while_the_user_container_runs, after_a_failure]
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

fn while_the_user_container_runs(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["sleep", "1000"]);
    action.run_well()?;
    await_event(&machine, "start", USER)?;
    let first = machine.inspect(USER)?["Id"].clone();
    let said = action.run_well()?;
    ensure!(said.err.contains("is already running; leaving it alone"), "{said:?}");
    let user = machine.inspect(USER)?;
    ensure!(user["Id"] == first && user["State"]["Running"] == true && user["RestartCount"] == 0, "{user}");
    ensure!(count(&machine, "start", USER)? == 1);
    ensure!(machine.inspect(WAITER)?["State"]["Running"] == true, "the waiter goes on watching");
    Ok(())
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
