//! Faults on the way to a real Docker Engine, injected by a proxy.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::machine::Machine;
use lab::nest::Inside;
use lab::paths;
use lab::until::until;

use super::steps::{CLEAN_UP, Expect, Fault, STEPS, Step};
use crate::world::{
    ACTION, Action, LIMIT, USER, WAITER, count, is_meant, nothing_left, nothing_there,
};

/// The proxy's socket, below what the engine calls /run.
const PROXY: &str = "fault-proxy.sock";
/// Stands for a number: the first matching request after [`Proxy::next`].
pub const NEXT: usize = usize::MAX;

/// Runs an action for each step, with the fault at that step.
pub fn at_every_step(machine: &Machine, fault: &Fault) -> Result<()> {
    let mut wrong = Vec::new();
    for step in STEPS.iter().filter(|step| step.is_on(machine.system()) && is_meant(step.name)) {
        if let Err(error) = at_step(machine, step, fault) {
            wrong.push(format!("{}: {error:#}", step.name));
            for name in [WAITER, ACTION, USER] {
                machine.engine(&["rm", "-f", name])?;
            }
        }
    }
    machine.engine(&["create", "--name", USER, "alpine", "true"])?;
    for step in CLEAN_UP.iter().filter(|step| is_meant(step.name)) {
        wrong.extend(
            at_clean_up(machine, step, fault)
                .err()
                .map(|error| format!("{}: {error:#}", step.name)),
        );
        machine.engine(&["rm", "-f", WAITER, ACTION])?;
    }
    ensure!(
        wrong.is_empty(),
        "{} at {} steps is a violation:\n  {}",
        fault.what,
        wrong.len(),
        wrong.join("\n  ")
    );
    Ok(())
}

/// Checks a handoff that fails because a foreign container has the user container's name: only that
/// container is left.
fn at_clean_up(machine: &Machine, step: &Step, fault: &Fault) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, fault.name)?;
    let before = count(machine, "start", USER)?;
    let said = proxy.action(machine).wait("0").command(&["true"]).run()?;
    ensure!(said.code == 1, "exit code {}: {said:?}", said.code);
    let left = machine.engine(&["ps", "-a", "--format", "{{.Names}}"])?;
    ensure!(left == USER, "left: {left}: {said:?}");
    ensure!(count(machine, "start", USER)? == before, "it ran");
    ensure!(
        proxy.log().lines().any(|line| line == "fault"),
        "the fault did not happen: {}",
        proxy.log()
    );
    Ok(())
}

fn at_step(machine: &Machine, step: &Step, fault: &Fault) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, fault.name)?;
    let before = count(machine, "start", USER)?;
    let action = proxy.action(machine).wait("0").command(&["true"]);
    let said = action.run()?;
    let starts = || Ok::<_, anyhow::Error>(count(machine, "start", USER)? - before);
    let expected = step.expect(fault);
    ensure!((said.code == 0) == (expected == Expect::Ran), "exit code {}: {said:?}", said.code);
    if said.code == 0 {
        nothing_left(machine).with_context(|| proxy.log())?;
        ensure!(starts()? == 1, "it ran {} times", starts()?);
    } else {
        nothing_there(machine)?;
        ensure!(starts()? == 0, "it ran although the action failed");
    }
    ensure!(
        proxy.log().lines().any(|line| line == "fault"),
        "the fault did not happen: {}",
        proxy.log()
    );
    Ok(())
}

/// A running proxy; dropping it ends it.
pub struct Proxy {
    log: PathBuf,
    volume: String,
    _process: Inside,
}

impl Proxy {
    /// Starts it with a fault for a request: the method, a part of the path, and which of the
    /// matching requests.
    pub fn start(
        machine: &Machine,
        (method, path, nth): (&str, &str, usize),
        fault: &str,
    ) -> Result<Self> {
        let nth = if nth == NEXT { "next".to_owned() } else { nth.to_string() };
        Self::start_at(machine, method, path, &nth, fault)
    }

    /// The same for several of the matching requests, such as `1,2`.
    pub fn start_at(
        machine: &Machine,
        method: &str,
        path: &str,
        nths: &str,
        fault: &str,
    ) -> Result<Self> {
        let socket = machine.run_path_of_host(PROXY);
        let _ = fs::remove_file(&socket);
        let log = machine.out().join("proxy");
        fs::write(&log, "")?;
        let _ = fs::remove_file(log.with_extension("go"));
        let _ = fs::remove_file(log.with_extension("next"));
        let program = paths::root().join("target/debug/fault-proxy");
        let shown = log.display().to_string();
        let (listens, engine) = (machine.run_path(PROXY), machine.run_path("docker.sock"));
        let arguments = [&listens, &engine, &shown, method, path, nths, fault];
        let process = machine.start(program, &arguments, &machine.out().join("proxy.err"))?;
        until("the fault proxy", LIMIT, || Ok(socket.exists().then_some(())))?;
        Ok(Self { log, volume: format!("/run/{PROXY}:/var/run/docker.sock"), _process: process })
    }

    /// An action that reaches the engine through the proxy.
    pub fn action<'a>(&self, machine: &'a Machine) -> Action<'a> {
        Action::alpine(machine).without_socket().volume(&self.volume)
    }

    /// The volume through which an action reaches the proxy.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// Waits until the request is held.
    pub fn held(&self) -> Result<()> {
        until("the request that is held", LIMIT, || {
            Ok(self.log().lines().any(|line| line == "held").then_some(()))
        })
    }

    /// Lets the held request continue.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.log.with_extension("go"), "")?)
    }

    /// Sets the fault for the next matching request.
    pub fn next(&self) -> Result<()> {
        Ok(fs::write(self.log.with_extension("next"), "")?)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
