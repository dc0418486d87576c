//! The engine answers with status 200 and nothing, or with what is not about what was asked: that is no answer.

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine};
use lab::until::until;

use super::docker::{NEXT, Proxy};
use crate::world::{LIMIT, USER, WAITER, await_event, count, log, machine, nothing_left};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        the_waiter_is_armed,
        the_waiter_looks_before_the_start,
        the_waiter_starts,
        the_waiter_looks_after_the_end,
        the_waiter_removes
    ]
}

/// The ways in which an answer can be none.
const FAULTS: [&str; 2] = ["empty", "not-object"];
/// The look at one container.
const LOOK: (&str, &str, usize) = ("GET", "/json", NEXT);

/// Nothing that says `created` is not "it was started before".
fn the_waiter_is_armed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for request in [("GET", "a0-waiter/json", 1), ("GET", "a0-user/json", 1)] {
        each(&machine, request, &["true"], |_| Ok(()))?;
    }
    Ok(())
}

fn the_waiter_looks_before_the_start(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    each(&machine, LOOK, &["true"], |proxy| {
        until("the waiter to wait", LIMIT, || {
            let waits = |line: &serde_json::Value| line["wait_seconds"].is_number();
            Ok(log(&machine, WAITER)?.0.iter().any(waits).then_some(()))
        })?;
        proxy.next()
    })
}

fn the_waiter_starts(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    each(&machine, ("POST", "/start", 2), &["true"], |_| Ok(()))
}

fn the_waiter_looks_after_the_end(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let command = ["sh", "-c", "until [ -e /out/go ]; do sleep 0.1; done"];
    let go = machine.out().join("go");
    each(&machine, LOOK, &command, |proxy| {
        let _ = std::fs::remove_file(&go);
        until("the waiter's watch", LIMIT, || {
            let watches = |line: &serde_json::Value| line["message"] == "user container started";
            Ok(log(&machine, WAITER)?.0.iter().any(watches).then_some(()))
        })?;
        proxy.next()?;
        Ok(std::fs::write(&go, "")?)
    })
}

fn the_waiter_removes(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for nth in [1, 2] {
        each(&machine, ("DELETE", "/containers/", nth), &["true"], |_| Ok(()))?;
    }
    Ok(())
}

/// Runs an action for each fault, which happens at this request of the waiter; `meanwhile` runs when the action has
/// succeeded. The user container runs once, and nothing is left.
fn each(
    machine: &Machine,
    request: (&str, &str, usize),
    command: &[&str],
    meanwhile: impl Fn(&Proxy) -> Result<()>,
) -> Result<()> {
    for fault in FAULTS {
        let before = count(machine, "start", USER)?;
        let proxy = Proxy::start(machine, request, fault)?;
        let out = format!("{}:/out", machine.out().display());
        let action = proxy.action(machine).flags(&["-v", &out]).env("IMAGE", "alpine").env("WAIT_SECONDS", "3");
        action.command(command).run_well()?;
        let done = meanwhile(&proxy).and_then(|()| nothing_left(machine));
        done.with_context(|| format!("{request:?}, {fault}: {:?}\n{}", log(machine, WAITER), proxy.log()))?;
        let starts = count(machine, "start", USER)? - before;
        ensure!(starts == 1, "{request:?}, {fault}: it ran {starts} times: {}", proxy.log());
        ensure!(
            proxy.log().lines().any(|line| line == "fault"),
            "{request:?}, {fault}: it did not happen: {}",
            proxy.log()
        );
        await_event(machine, "die", USER)?;
    }
    Ok(())
}
