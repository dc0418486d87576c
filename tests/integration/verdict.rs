//! The user container runs if and only if the action succeeded.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::machine::{Machine, output};

use crate::case;
use crate::cases::{ON_ALL, ON_DOCKER, ON_DOCKER_MAIN, ON_MAIN};
use crate::faults::docker::Proxy;
use crate::faults::hold::Hold;
use crate::world::{
    ACTION, Action, LIMIT, RUN, USER, WAITER, await_event, count, load, nothing_left, process,
    ran_at, ran_once, runs, started_once_after, waiter_says, waits,
};

case!(success_runs_it_after_the_wait, ON_ALL, |machine: Shared| {
    let said = Action::alpine(&machine).wait("2").script(RUN).run_well()?;
    ensure!(said.err.is_empty(), "warnings: {said:?}");
    ran_once(&machine)?;
    if let Some(report) = said.report {
        let waited = ran_at(&machine)? - report.time;
        // SUCCESS is reported a moment after the action's end.
        ensure!((1.5..6.0).contains(&waited), "ran {waited:.2} s after SUCCESS");
        return Ok(());
    }
    started_once_after(&machine, 2.0)
});

// While the waiter waits, IMAGE's tag is moved to another image, and so is waitdaemon's own.
case!(a_tag_that_moves_changes_nothing, ON_MAIN, |machine| {
    load(&machine, "cmd")?;
    Action::alpine(&machine).wait("6").script(RUN).run_well()?;
    let content = || -> Result<_> {
        let user = machine.inspect(USER)?;
        Ok(user[if machine.is_docker() { "Image" } else { "SnapshotKey" }].clone())
    };
    let verified = content()?;
    machine.engine(&["tag", "with-cmd:1", "alpine:latest"])?;
    machine.engine(&["tag", "with-cmd:1", "waitdaemon:dev"])?;
    ensure!(
        content()? == verified && runs(&machine) == 0,
        "the user container's image moved, or it ran"
    );
    ran_once(&machine)
});

// The action is killed between "armed" and its own exit.
case!(action_killed_after_the_waiter_is_armed, ON_MAIN, |machine| {
    let hold = Hold::the_answer_to_the_waiters_start(&machine)?;
    let action = hold.on_its_way(Action::alpine(&machine).wait("0").script(RUN)).start()?;
    hold.held()?;
    waiter_says(&machine, "armed")?;
    machine.signal(process(&machine, ACTION)?, "KILL")?;
    let said = action.end()?;
    ensure!(said.code != 0, "it was killed: {said:?}");
    nothing_left(&machine)?;
    ensure!(runs(&machine) == 0, "the user container ran although the action was killed");
    Ok(())
});

// The agent may remove an action by force. A waiter that was started and then finds no action
// removes everything; its first request is held meanwhile.
case!(action_removed_before_the_waiter_is_armed, ON_DOCKER, |machine: Shared| {
    let proxy = Proxy::start(&machine, ("POST", "/wait", 1), "hold")?;
    let _action = proxy.action(&machine).wait("0").script(RUN).start()?;
    proxy.held()?;
    machine.engine(&["rm", "-f", ACTION])?;
    ensure!(await_event(&machine, "die", ACTION)?.exit_code == Some(137));
    proxy.go()?;
    nothing_left(&machine)?;
    ensure!(
        count(&machine, "start", USER)? == 0,
        "the user container ran although the action was removed"
    );
    Ok(())
});

// The action and the user container are removed while the waiter's request about the latter is
// held.
case!(a_waiter_that_cannot_be_armed_clears_up, ON_DOCKER_MAIN, |machine: Shared| {
    let proxy = Proxy::start(&machine, ("GET", "a0-user/json", 1), "hold")?;
    let _action = proxy.action(&machine).wait("0").command(&["true"]).start()?;
    proxy.held()?;
    machine.engine(&["rm", "-f", ACTION, USER])?;
    proxy.go()?;
    nothing_left(&machine)
});

case!(stop_of_the_waiter_cancels, ON_MAIN, |machine: Shared| cancels(&machine, &["stop", WAITER]));

case!(interrupt_of_the_waiter_cancels, ON_MAIN, |machine: Shared| cancels(
    &machine,
    &["kill", "--signal", "INT", WAITER]
));

/// Checks that this cancels the start; on Docker within 2 s: what a stop allows and a little more.
fn cancels(machine: &Machine, how: &[&str]) -> Result<()> {
    Action::alpine(machine).wait("60").script(RUN).run_well()?;
    waits(machine)?;
    let begin = Instant::now();
    // The waiter may be gone before the command looks at it again, so the command's own result does
    // not count.
    output(machine.engine_command().args(how))?;
    nothing_left(machine)?;
    let (took, limit) =
        (begin.elapsed(), if machine.is_docker() { Duration::from_secs(2) } else { LIMIT });
    ensure!(took < limit, "it took {took:?}");
    ensure!(runs(machine) == 0, "the user container ran");
    Ok(())
}

case!(waiter_started_by_hand_refuses, ON_MAIN, |machine: Shared| {
    let run = ["run", "--rm", "--entrypoint", "/waiter", "waitdaemon:dev", "reboot"];
    let said = output(machine.engine_command().args(run))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(
        said.status.code() == Some(2) && text.contains("not by hand"),
        "{}: {text}",
        said.status
    );
    nothing_left(&machine)
});

// Within 0.1 s of WAIT_SECONDS plus what a start takes. The best of several tries counts, because
// the machine is busy.
case!(the_wait_ends_on_time, ON_DOCKER_MAIN, |machine: Shared| {
    let mut all = Vec::new();
    let plain = [
        "--name",
        "plain",
        "--network",
        "bridge",
        "--privileged",
        "--pid",
        "host",
        "alpine",
        "true",
    ];
    for _ in 0..8 {
        machine.engine(&[&["create"], &plain[..]].concat())?;
        let begin = Instant::now();
        machine.engine(&["start", "plain"])?;
        let start = begin.elapsed().as_secs_f64();
        machine.engine(&["rm", "-f", "plain"])?;
        let (deaths, starts) =
            (times(&machine, "die", ACTION)?.len(), times(&machine, "start", USER)?.len());
        Action::alpine(&machine).wait("1").command(&["true"]).run_well()?;
        nothing_left(&machine)?;
        let (died, started) =
            (times(&machine, "die", ACTION)?[deaths], times(&machine, "start", USER)?[starts]);
        let late = started - died - 1.0 - start;
        all.push(format!("{late:.3}"));
        ensure!(started - died >= 1.0, "started before the wait was over");
        if late <= 0.1 {
            return Ok(());
        }
    }
    anyhow::bail!("later than WAIT_SECONDS and a start, in seconds: {}", all.join(", "))
});

fn times(machine: &Machine, action: &str, name: &str) -> Result<Vec<f64>> {
    let events = machine.events()?.into_iter();
    Ok(events
        .filter(|event| event.action == action && event.name == name)
        .map(|event| event.time)
        .collect())
}
