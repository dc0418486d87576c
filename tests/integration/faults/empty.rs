//! The engine answers with status 200 and no body, or with a body that is not about the request:
//! that is no answer.

use anyhow::{Context, Result, ensure};
use lab::machine::Machine;
use lab::until::until;

use super::docker::{NEXT, Proxy};
use crate::case;
use crate::cases::ON_DOCKER_MAIN;
use crate::world::{LIMIT, USER, WAITER, await_event, count, log, nothing_left};

/// The kinds of answers that are none.
const FAULTS: [&str; 2] = ["empty", "not-object"];
/// The request that inspects one container.
const LOOK: (&str, &str, usize) = ("GET", "/json", NEXT);

// An answer that does not say `created` does not mean that it was started before.
case!(the_waiter_is_armed, ON_DOCKER_MAIN, |machine: Shared| {
    for request in [("GET", "a0-waiter/json", 1), ("GET", "a0-user/json", 1)] {
        each(&machine, request, &["true"], |_| Ok(()))?;
    }
    Ok(())
});

case!(the_waiter_looks_before_the_start, ON_DOCKER_MAIN, |machine: Shared| {
    each(&machine, LOOK, &["true"], |proxy| {
        until("the waiter to wait", LIMIT, || {
            let waits = |line: &serde_json::Value| line["wait_seconds"].is_number();
            Ok(log(&machine, WAITER)?.0.iter().any(waits).then_some(()))
        })?;
        proxy.next()
    })
});

case!(the_waiter_starts, ON_DOCKER_MAIN, |machine: Shared| each(
    &machine,
    ("POST", "/start", 2),
    &["true"],
    |_| Ok(())
));

case!(the_waiter_looks_after_the_end, ON_DOCKER_MAIN, |machine: Shared| {
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
});

case!(the_waiter_removes, ON_DOCKER_MAIN, |machine: Shared| {
    for nth in [1, 2] {
        each(&machine, ("DELETE", "/containers/", nth), &["true"], |_| Ok(()))?;
    }
    Ok(())
});

/// Runs an action for each fault, which happens at this request of the waiter; `meanwhile` runs
/// once the action has succeeded. The user container runs once, and nothing is left.
fn each(
    machine: &Machine,
    request: (&str, &str, usize),
    command: &[&str],
    meanwhile: impl Fn(&Proxy) -> Result<()>,
) -> Result<()> {
    for fault in FAULTS {
        let before = count(machine, "start", USER)?;
        let proxy = Proxy::start(machine, request, fault)?;
        proxy.action(machine).wait("3").command(command).run_well()?;
        let done = meanwhile(&proxy).and_then(|()| nothing_left(machine));
        done.with_context(|| {
            format!("{request:?}, {fault}: {:?}\n{}", log(machine, WAITER), proxy.log())
        })?;
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
