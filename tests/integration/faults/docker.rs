//! Faults on the way to a real Docker Engine, by a proxy that stands between.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine};
use lab::nest::Inside;
use lab::paths;
use lab::until::until;

use super::steps::{CLEAN_UP, Expect, Fault, STEPS, Step};
use crate::world::{ACTION, Action, LIMIT, USER, WAITER, count, is_meant, machine, nothing_left, nothing_there};

/// Where the proxy listens, in the machine.
const PROXY: &str = "/run/fault-proxy.sock";
/// In place of a number: the first request that fits after [`Proxy::next`].
pub const NEXT: usize = usize::MAX;

/// Runs an action for each step, and the fault happens there.
pub fn at_every_step(engine: Engine, fault: &Fault) -> Result<()> {
    let machine = machine(engine)?;
    let mut wrong = Vec::new();
    for step in STEPS.iter().filter(|step| (!step.newer_only || engine == Engine::Moby) && is_meant(step.name)) {
        if let Err(error) = at_step(&machine, step, fault) {
            wrong.push(format!("{}: {error:#}", step.name));
            for name in [WAITER, ACTION, USER] {
                machine.docker(&["rm", "-f", name])?;
            }
        }
    }
    machine.docker(&["create", "--name", USER, "alpine", "true"])?;
    for step in CLEAN_UP.iter().filter(|step| is_meant(step.name)) {
        wrong.extend(at_clean_up(&machine, step, fault).err().map(|error| format!("{}: {error:#}", step.name)));
        machine.docker(&["rm", "-f", WAITER, ACTION])?;
    }
    ensure!(wrong.is_empty(), "{} at {} steps is a violation:\n  {}", fault.what, wrong.len(), wrong.join("\n  "));
    Ok(())
}

/// A handoff that fails because a foreign container has the user container's name: only that one is left.
fn at_clean_up(machine: &Machine, step: &Step, fault: &Fault) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, fault.name)?;
    let before = count(machine, "start", USER)?;
    let said = proxy.action(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).run()?;
    ensure!(said.code == 1, "exit code {}: {said:?}", said.code);
    let left = machine.docker(&["ps", "-a", "--format", "{{.Names}}"])?;
    ensure!(left == USER, "left: {left}: {said:?}");
    ensure!(count(machine, "start", USER)? == before, "it ran");
    ensure!(proxy.log().lines().any(|line| line == "fault"), "the fault did not happen: {}", proxy.log());
    Ok(())
}

fn at_step(machine: &Machine, step: &Step, fault: &Fault) -> Result<()> {
    let proxy = Proxy::start(machine, step.request, fault.name)?;
    let before = count(machine, "start", USER)?;
    let action = proxy.action(machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]);
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
    ensure!(proxy.log().lines().any(|line| line == "fault"), "the fault did not happen: {}", proxy.log());
    Ok(())
}

/// The proxy at work; it ends with the value.
pub struct Proxy {
    log: PathBuf,
    _process: Inside,
}

impl Proxy {
    /// Starts it with a fault for a request: method, a part of the path, and which of those that fit.
    pub fn start(machine: &Machine, (method, path, nth): (&str, &str, usize), fault: &str) -> Result<Self> {
        let nth = if nth == NEXT { "next".to_owned() } else { nth.to_string() };
        Self::start_at(machine, method, path, &nth, fault)
    }

    /// The same for several of those that fit, such as `1,2`.
    pub fn start_at(machine: &Machine, method: &str, path: &str, nths: &str, fault: &str) -> Result<Self> {
        let socket = PathBuf::from(format!("/proc/{}/root{PROXY}", machine.init()));
        let _ = fs::remove_file(&socket);
        let log = machine.out().join("proxy");
        fs::write(&log, "")?;
        let _ = fs::remove_file(log.with_extension("go"));
        let _ = fs::remove_file(log.with_extension("next"));
        let program = paths::root().join("target/debug/fault-proxy");
        let shown = log.display().to_string();
        let arguments = [PROXY, "/run/docker.sock", &shown, method, path, nths, fault];
        let process = machine.start(program, &arguments, &machine.out().join("proxy.err"))?;
        until("the fault proxy", LIMIT, || Ok(socket.exists().then_some(())))?;
        Ok(Self { log, _process: process })
    }

    /// An action that reaches the engine through it.
    pub fn action<'a>(&self, machine: &'a Machine) -> Action<'a> {
        Action::new(machine).without_socket().flags(&["-v", &format!("{PROXY}:/var/run/docker.sock")])
    }

    /// Waits until the request is held.
    pub fn held(&self) -> Result<()> {
        until("the request that is held", LIMIT, || Ok(self.log().lines().any(|line| line == "held").then_some(())))
    }

    /// Lets it go on.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.log.with_extension("go"), "")?)
    }

    /// Lets the fault happen at the next request that fits.
    pub fn next(&self) -> Result<()> {
        Ok(fs::write(self.log.with_extension("next"), "")?)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
