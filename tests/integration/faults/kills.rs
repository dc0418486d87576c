//! The action is killed with SIGKILL, which nothing can catch, at every step of the handoff.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::machine::{Machine, Variant};
use lab::system::System;
use lab::until::until;
use serde_json::Value;

use super::docker::Proxy;
use super::steps::{STEPS, Step};
use crate::world::{
    ACTION, Action, LIMIT, RUN, USER, WAITER, count, is_meant, machine_variant, nothing_left,
};

/// What is left of an action that was killed at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: nothing existed yet, or the waiter has cleared it away.
    Nothing,
    /// Containers that were created and that nothing will start. Serving the same action again
    /// removes them.
    Created,
    /// Nothing, or such containers: another call was running at the same time.
    Perhaps,
}

impl Left {
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Created => "created containers",
            Self::Perhaps => "nothing, or created containers",
        }
    }
}

/// What must be left if the action is killed when the engine has just done this step's request.
pub fn left(step: &Step) -> Left {
    let made = [
        "create the user container",
        "create the waiter",
        "listen to the waiter",
        "look at the waiter before its start",
    ];
    if made.iter().any(|name| step.name.ends_with(name)) { Left::Created } else { Left::Nothing }
}

/// The steps of the handoff.
pub fn steps() -> impl Iterator<Item = &'static Step> {
    STEPS.iter().filter(|step| step.name.starts_with("handoff"))
}

/// Kills the action at each step; the user container never runs. Then the same action is served
/// again.
pub fn action_is_killed(machine: &Machine) -> Result<()> {
    for step in steps().filter(|step| step.is_on(machine.system())) {
        at_step(machine, step).with_context(|| format!("killed at: {}", step.name))?;
    }
    Ok(())
}

fn at_step(machine: &Machine, step: &Step) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, "hold-after")?;
    let (started, died) = (count(machine, "start", USER)?, count(machine, "die", ACTION)?);
    proxy.action(machine).wait("0").command(&["true"]).start()?;
    proxy.held()?;
    let pid = machine.inspect(ACTION)?["State"]["Pid"].as_i64().unwrap_or_default();
    ensure!(pid > 1, "the action has ended");
    machine.signal(pid, "KILL")?;
    until("the action's end", LIMIT, || Ok((count(machine, "die", ACTION)? > died).then_some(())))?;
    machine.engine(&["rm", "-f", ACTION])?;
    proxy.go()?;
    match left(step) {
        Left::Nothing => nothing_left(machine)?,
        Left::Created => {
            let containers = machine.containers()?;
            ensure!(!containers.is_empty(), "nothing is left, so the documentation is wrong");
            ensure!(
                containers.iter().all(|one| one["State"]["Status"] == "created"),
                "one runs: {containers:?}"
            );
        }
        Left::Perhaps => bail!("on Docker nothing is left to chance"),
    }
    ensure!(
        count(machine, "start", USER)? == started,
        "the user container ran although the action was killed"
    );
    let again = Action::alpine(machine).wait("0").command(&["true"]);
    again.run_well()?;
    nothing_left(machine)?;
    ensure!(count(machine, "start", USER)? == started + 1, "served again it must run exactly once");
    Ok(())
}

/// Kills the waiter at each of its steps: the engine restarts it, and the user container runs once.
pub fn waiter_is_killed(machine: &Machine) -> Result<()> {
    let mut wrong = Vec::new();
    for step in STEPS.iter().filter(|step| step.name.starts_with("waiter")) {
        // The waiter never gets an answer to its own removal.
        let whens: &[&str] =
            if step.name.ends_with("remove itself") { &["hold"] } else { &["hold", "hold-after"] };
        for when in whens {
            if let Err(error) = waiter_at_step(machine, step, when) {
                wrong.push(format!("{} ({when}): {error:#}", step.name));
                for name in [WAITER, ACTION, USER] {
                    machine.engine(&["rm", "-f", name])?;
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} violations:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

/// Kills the waiter once, while it watches: nothing is started again.
pub fn waiter_is_killed_while_it_watches(machine: &Machine) -> Result<()> {
    let step = STEPS.iter().find(|step| step.name == "waiter: wait for the user container's end");
    waiter_at_step(machine, step.context("no such step")?, "hold-after")
}

fn waiter_at_step(machine: &Machine, step: &Step, when: &str) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, when)?;
    let (started, died) = (count(machine, "start", USER)?, count(machine, "die", WAITER)?);
    proxy.action(machine).wait("0").command(&["true"]).start()?;
    proxy.held()?;
    // The last step may have been the waiter's own removal.
    if let Some(pid) = machine
        .inspect(WAITER)
        .ok()
        .and_then(|waiter| waiter["State"]["Pid"].as_i64())
        .filter(|pid| *pid > 1)
    {
        let _ = machine.signal(pid, "KILL");
    }
    until("the waiter's end", LIMIT, || Ok((count(machine, "die", WAITER)? > died).then_some(())))?;
    proxy.go()?;
    let end = until("the action's end", LIMIT, || {
        Ok(Some(machine.inspect(ACTION)?["State"].clone())
            .filter(|state| state["Status"] == "exited"))
    })?;
    machine.engine(&["rm", "-f", ACTION])?;
    nothing_left(machine)?;
    let runs = count(machine, "start", USER)? - started;
    ensure!(
        end["ExitCode"] == 0 && runs == 1 || end["ExitCode"] == 1 && runs == 0,
        "{}: it ran {runs} times",
        end["ExitCode"]
    );
    Ok(())
}

/// How long the engine stays away, in seconds: at each step, and at the steps with the highest
/// risk.
const AWAY: u64 = 2;
const AWAY_LONGER: [u64; 2] = [10, 30];
const TELLING: [&str; 2] =
    ["waiter: wait for the action's end", "waiter: start the user container"];

/// Ends the engine at each step and starts it again; its containers survive or end with it.
pub fn engine_goes(system: System, live: bool, signal: &str) -> Result<()> {
    let machine =
        machine_variant(system, if live { Variant::LiveRestore } else { Variant::Usual })?;
    let mut wrong = Vec::new();
    for step in STEPS.iter().filter(|step| step.is_on(system) && is_meant(step.name)) {
        let longer = if TELLING.contains(&step.name) { &AWAY_LONGER[..] } else { &[] };
        for away in longer.iter().chain([&AWAY]) {
            if let Err(error) =
                engine_at_step(&machine, step, live, signal, Duration::from_secs(*away))
            {
                wrong.push(format!("{} (away for {away} s): {error:#}", step.name));
                // If the engine does not come up again, the first failure says why.
                for name in [WAITER, ACTION, USER] {
                    let _ = machine.engine(&["rm", "-f", name]);
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} violations:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn engine_at_step(
    machine: &Machine,
    step: &Step,
    live: bool,
    signal: &str,
    away: Duration,
) -> Result<()> {
    let runs = machine.out().join("runs");
    let _ = fs::remove_file(&runs);
    let proxy = Proxy::start(machine, step.request, "hold")?;
    proxy.action(machine).wait("0").script(RUN).start()?;
    proxy.held()?;
    machine.kill_engine(signal)?;
    // The test is about an absence of this length.
    std::thread::sleep(away);
    machine.start_engine()?;
    proxy.go()?;
    let end = until("the action's end", LIMIT, || {
        Ok(Some(machine.inspect(ACTION)?["State"].clone())
            .filter(|state| state["Status"] == "exited"))
    })?;
    machine.engine(&["rm", "-f", ACTION])?;
    let code =
        |name: &str| machine.inspect(name).ok().map(|found| found["State"]["ExitCode"].clone());
    // The user container ended with its engine, or while no engine was there to see how: to some
    // engines, with 255. The waiter says so.
    let said = |ran: &str| {
        ran == "run\n" && code(WAITER) == Some(2.into()) && code(USER).is_some_and(|code| code != 0)
    };
    // A handoff that ended with its engine leaves containers that nothing started.
    let created = |all: &[Value]| {
        !live && end["ExitCode"] != 0 && all.iter().all(|one| one["State"]["Status"] == "created")
    };
    until("the end of it all", LIMIT, || {
        let ran = fs::read_to_string(&runs).unwrap_or_default();
        let all = machine.containers()?;
        Ok((all.is_empty() || created(&all) || said(&ran)).then_some(()))
    })
    .with_context(|| format!("{:?}", machine.engine(&["ps", "-a"])))?;
    machine.engine(&["rm", "-f", WAITER, USER])?;
    let ran = fs::read_to_string(&runs).unwrap_or_default();
    ensure!(
        end["ExitCode"] == 0 && ran == "run\n" || end["ExitCode"] != 0 && ran.is_empty(),
        "{end}: ran {ran:?}"
    );
    Ok(())
}
