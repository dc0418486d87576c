//! The action is killed with SIGKILL, which nothing can catch, at every step of the handoff.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::machine::{Engine, Machine, Variant};
use lab::until::until;
use serde_json::Value;

use super::docker::Proxy;
use super::steps::{STEPS, Step};
use crate::world::{ACTION, Action, LIMIT, USER, WAITER, count, is_meant, machine, machine_variant, nothing_left};

/// What is left of an action that was killed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: there was nothing yet, or the waiter has cleared it away.
    Nothing,
    /// Containers that were created and that nothing will start. The same action again removes them.
    Created,
    /// Nothing, or such containers: another call was under way.
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

/// What must be left where the action is killed while the engine has just done this step's request.
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
    until("the action's end", LIMIT, || Ok((count(machine, "die", ACTION)? > died).then_some(())))?;
    machine.docker(&["rm", "-f", ACTION])?;
    proxy.go()?;
    match left(step) {
        Left::Nothing => nothing_left(machine)?,
        Left::Created => {
            let containers = machine.containers()?;
            ensure!(!containers.is_empty(), "nothing is left, so the documentation is wrong");
            ensure!(containers.iter().all(|one| one["State"]["Status"] == "created"), "one runs: {containers:?}");
        }
        Left::Perhaps => bail!("on Docker nothing is left to chance"),
    }
    ensure!(count(machine, "start", USER)? == started, "the user container ran although the action was killed");
    let again = Action::new(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]);
    again.run_well()?;
    nothing_left(machine)?;
    ensure!(count(machine, "start", USER)? == started + 1, "served again it must run exactly once");
    Ok(())
}

/// Kills the waiter at each of its steps: the engine starts it again, and the user container runs once.
pub fn waiter_is_killed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let mut wrong = Vec::new();
    for step in STEPS.iter().filter(|step| step.name.starts_with("waiter")) {
        // Of its own removal it never gets an answer.
        let whens: &[&str] = if step.name.ends_with("remove itself") { &["hold"] } else { &["hold", "hold-after"] };
        for when in whens {
            if let Err(error) = waiter_at_step(&machine, step, when) {
                wrong.push(format!("{} ({when}): {error:#}", step.name));
                for name in [WAITER, ACTION, USER] {
                    machine.docker(&["rm", "-f", name])?;
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} violations:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

/// Kills it once, while it watches: nothing is started again.
pub fn waiter_is_killed_while_it_watches(engine: Engine) -> Result<()> {
    let step = STEPS.iter().find(|step| step.name == "waiter: wait for the user container's end");
    waiter_at_step(&machine(engine)?, step.context("no such step")?, "hold-after")
}

fn waiter_at_step(machine: &Machine, step: &Step, when: &str) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, when)?;
    let (started, died) = (count(machine, "start", USER)?, count(machine, "die", WAITER)?);
    proxy.action(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).start()?;
    proxy.held()?;
    // What was done last may be its own removal.
    if let Some(pid) =
        machine.inspect(WAITER).ok().and_then(|waiter| waiter["State"]["Pid"].as_i64()).filter(|pid| *pid > 1)
    {
        let _ = machine.signal(pid, "KILL");
    }
    until("the waiter's end", LIMIT, || Ok((count(machine, "die", WAITER)? > died).then_some(())))?;
    proxy.go()?;
    let end = until("the action's end", LIMIT, || {
        Ok(Some(machine.inspect(ACTION)?["State"].clone()).filter(|state| state["Status"] == "exited"))
    })?;
    machine.docker(&["rm", "-f", ACTION])?;
    nothing_left(machine)?;
    let runs = count(machine, "start", USER)? - started;
    ensure!(
        end["ExitCode"] == 0 && runs == 1 || end["ExitCode"] == 1 && runs == 0,
        "{}: it ran {runs} times",
        end["ExitCode"]
    );
    Ok(())
}

/// How the engine goes and what becomes of its containers, with how long it stays away at each step, and at those where
/// most can go wrong.
const ENGINE_GOES: [(&str, bool, &str); 4] = [
    ("faults::engine_is_killed", true, "KILL"),
    ("faults::engine_is_stopped", true, "TERM"),
    ("faults::engine_is_killed_with_its_containers", false, "KILL"),
    ("faults::engine_is_stopped_with_its_containers", false, "TERM"),
];
/// Seconds.
const AWAY: u64 = 2;
const AWAY_LONGER: [u64; 2] = [10, 30];
const TELLING: [&str; 2] = ["waiter: wait for the action's end", "waiter: start the user container"];

/// A case for each.
pub fn engine_cases() -> Vec<crate::Case> {
    let case = |(name, live, signal): (&str, bool, &'static str)| -> crate::Case {
        (name.to_owned(), Box::new(move |engine: Engine| engine_goes(engine, live, signal)))
    };
    ENGINE_GOES.into_iter().map(case).collect()
}

/// Ends the engine at each step and starts it again.
fn engine_goes(engine: Engine, live: bool, signal: &str) -> Result<()> {
    let machine = machine_variant(engine, if live { Variant::LiveRestore } else { Variant::Usual })?;
    let mut wrong = Vec::new();
    for step in STEPS.iter().filter(|step| (!step.newer_only || engine == Engine::Moby) && is_meant(step.name)) {
        let longer = if TELLING.contains(&step.name) { &AWAY_LONGER[..] } else { &[] };
        for away in longer.iter().chain([&AWAY]) {
            if let Err(error) = engine_at_step(&machine, step, live, signal, Duration::from_secs(*away)) {
                wrong.push(format!("{} (away for {away} s): {error:#}", step.name));
                // Where the engine does not come up again, the first failure tells why.
                for name in [WAITER, ACTION, USER] {
                    let _ = machine.docker(&["rm", "-f", name]);
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} violations:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn engine_at_step(machine: &Machine, step: &Step, live: bool, signal: &str, away: Duration) -> Result<()> {
    let runs = machine.out().join("runs");
    let _ = fs::remove_file(&runs);
    let proxy = Proxy::start(machine, step.request, "hold")?;
    let out = format!("{}:/out", machine.out().display());
    let action = proxy.action(machine).flags(&["-v", &out]).env("IMAGE", "alpine").env("WAIT_SECONDS", "0");
    action.command(&["sh", "-c", "echo run >> /out/runs"]).start()?;
    proxy.held()?;
    machine.kill_engine(signal)?;
    // What is tried is an absence of this length.
    std::thread::sleep(away);
    machine.start_engine()?;
    proxy.go()?;
    let end = until("the action's end", LIMIT, || {
        Ok(Some(machine.inspect(ACTION)?["State"].clone()).filter(|state| state["Status"] == "exited"))
    })?;
    machine.docker(&["rm", "-f", ACTION])?;
    let code = |name: &str| machine.inspect(name).ok().map(|found| found["State"]["ExitCode"].clone());
    // Ended with its engine, or while none was there to see how: 255 to some engines. The waiter says so.
    let said = |ran: &str| ran == "run\n" && code(WAITER) == Some(2.into()) && code(USER).is_some_and(|code| code != 0);
    // A handoff that ended with its engine leaves what nobody started.
    let created =
        |all: &[Value]| !live && end["ExitCode"] != 0 && all.iter().all(|one| one["State"]["Status"] == "created");
    until("the end of it all", LIMIT, || {
        let ran = fs::read_to_string(&runs).unwrap_or_default();
        let all = machine.containers()?;
        Ok((all.is_empty() || created(&all) || said(&ran)).then_some(()))
    })
    .with_context(|| format!("{:?}", machine.docker(&["ps", "-a"])))?;
    machine.docker(&["rm", "-f", WAITER, USER])?;
    let ran = fs::read_to_string(&runs).unwrap_or_default();
    ensure!(end["ExitCode"] == 0 && ran == "run\n" || end["ExitCode"] != 0 && ran.is_empty(), "{end}: ran {ran:?}");
    Ok(())
}
