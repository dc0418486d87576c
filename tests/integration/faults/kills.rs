//! The action is killed with SIGKILL, which nothing can catch, at every step of the handoff.

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine};

use super::docker::Proxy;
use super::steps::{STEPS, Step};
use crate::world::{ACTION, Action, LIMIT, USER, count, machine, nothing_left};

/// What is left of an action that was killed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: there was nothing yet, or the waiter has cleared it away.
    Nothing,
    /// Containers that were created and that nothing will start. The same action again removes them.
    Created,
}

/// What must be left where the action is killed while the engine has just done this step's request.
pub fn left(step: &Step) -> Left {
    let made = ["create the user container", "create the waiter", "listen to the waiter"];
    if made.iter().any(|name| step.name.ends_with(name)) { Left::Created } else { Left::Nothing }
}

/// The steps of the handoff.
pub fn steps() -> impl Iterator<Item = &'static Step> {
    STEPS.iter().filter(|step| step.name.starts_with("handoff"))
}

/// Kills the action at each step; the user container never runs. Then the same action is served again.
pub fn action_is_killed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for step in steps().filter(|step| !step.newer_only || engine == Engine::Moby) {
        at_step(&machine, step).with_context(|| format!("killed at: {}", step.name))?;
    }
    Ok(())
}

fn at_step(machine: &Machine, step: &Step) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, "hold-after")?;
    let (started, died) = (count(machine, "start", USER)?, count(machine, "die", ACTION)?);
    proxy.action(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).start()?;
    proxy.held()?;
    let pid = machine.inspect(ACTION)?["State"]["Pid"].as_i64().unwrap_or_default();
    ensure!(pid > 1, "the action has ended");
    machine.signal(pid, "KILL")?;
    lab::until::until("the action's end", LIMIT, || Ok((count(machine, "die", ACTION)? > died).then_some(())))?;
    machine.docker(&["rm", "-f", ACTION])?;
    proxy.go()?;
    match left(step) {
        Left::Nothing => nothing_left(machine)?,
        Left::Created => {
            let containers = machine.containers()?;
            ensure!(!containers.is_empty(), "nothing is left, so the documentation is wrong");
            ensure!(containers.iter().all(|one| one["State"]["Status"] == "created"), "one runs: {containers:?}");
        }
    }
    ensure!(count(machine, "start", USER)? == started, "the user container ran although the action was killed");
    let again = Action::new(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]);
    again.run_well()?;
    nothing_left(machine)?;
    ensure!(count(machine, "start", USER)? == started + 1, "served again it must run exactly once");
    Ok(())
}
