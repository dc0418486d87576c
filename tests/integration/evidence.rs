//! Success is known by evidence: a missing action is no evidence, and what is forgotten is not
//! guessed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, output};
use lab::until::until;
use serde_json::json;

use crate::after_success::before_the_bridge;
use crate::case;
use crate::cases::{ON_CAPTAIN, ON_DOCKER_MAIN};
use crate::faults::calls::{Calls, NO_FAULT, Rule};
use crate::remembers::{journal_of, writes};
use crate::world::{
    ACTION, LIMIT, USER, WAITER, kill_waiter, log, ran_at, ran_once, runs, waiter_log,
};

/// How late the reports of an agent that cannot delete its container may come.
const LATE: Duration = Duration::from_secs(150);

// The action is removed, and 256 events later the waiter is killed.
case!(the_engine_has_forgotten_the_action, ON_DOCKER_MAIN, |machine: Shared| {
    writes(&machine, "6").run_well()?;
    forget_the_action(&machine)?;
    kill_waiter(&machine)?;
    ran_once(&machine)
});

// The same, and the journal has lost all but its first line: nothing runs, and the explanation is
// kept.
case!(nothing_tells_how_the_action_ended, ON_DOCKER_MAIN, |machine: Shared| {
    writes(&machine, "60").run_well()?;
    forget_the_action(&machine)?;
    let journal = journal_of(&machine)?;
    let text = fs::read_to_string(&journal)?;
    fs::write(&journal, text.lines().take(1).map(|line| format!("{line}\n")).collect::<String>())?;
    kill_waiter(&machine)?;
    let error = until("the waiter's error", LIMIT, || {
        Ok(log(&machine, WAITER)?.1.into_iter().find(|line| line["level"] == "ERROR"))
    })?;
    ensure!(error["message"].to_string().contains("cannot tell how the action ended"), "{error}");
    until("the waiter's end with 2", LIMIT, || {
        let state = &machine.inspect(WAITER)?["State"];
        Ok((state["Status"] == "exited" && state["ExitCode"] == 2).then_some(()))
    })?;
    ensure!(
        runs(&machine) == 0 && machine.inspect(USER).is_err(),
        "the user container is still there, or ran"
    );
    Ok(())
});

fn forget_the_action(machine: &Machine) -> Result<()> {
    machine.engine(&["rm", "-f", ACTION])?;
    for number in 0..130 {
        let name = format!("filler-{number}");
        let (made, _) = machine.ask("POST", "/volumes/create", Some(&json!({"Name": name})))?;
        let (removed, _) = machine.ask("DELETE", &format!("/volumes/{name}"), None)?;
        ensure!((made, removed) == (201, 204), "no event: {made} {removed}");
    }
    Ok(())
}

// containerd is stopped once the agent has seen the action's end and removes its network, until the
// agent has reported. The agent could not delete the container and reports SUCCESS all the same.
case!(the_agent_cannot_delete, ON_CAPTAIN, |machine| {
    let calls = Calls::install(&machine)?;
    let there = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", machine.init()));
    let wait = r#"if [ "$CNI_COMMAND" = DEL ] && mkdir /run/deleting 2> /dev/null; then
  while [ ! -e /run/delete ]; do sleep 0.05; done
fi"#;
    before_the_bridge(&machine, wait)?;
    let agent = calls.served(NO_FAULT)?;
    until("the agent to remove the network", LIMIT, || {
        Ok(there("/run/deleting").exists().then_some(()))
    })?;
    calls.systemctl(&["kill", "--kill-whom=main", "--signal=STOP"])?;
    fs::write(there("/run/delete"), "")?;
    let report = agent.final_report(LIMIT);
    calls.systemctl(&["kill", "--kill-whom=main", "--signal=CONT"])?;
    let report = report?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    let mut said = Vec::new();
    let ran = until("the run", LATE, || {
        let now = waiter_log(&machine);
        said = if now.is_empty() { std::mem::take(&mut said) } else { now };
        Ok((runs(&machine) > 0).then_some(()))
    });
    ran.with_context(|| format!("{said:?}"))?;
    calls.nothing_left()?;
    ensure!(runs(&machine) == 1, "it ran {} times", runs(&machine));
    ensure!(
        agent.log().contains("failed to delete container"),
        "the agent could delete its container: {}",
        agent.log()
    );
    Ok(())
});

// The agent takes 6 s to remove the action's network and only then reports: WAIT_SECONDS count from
// there.
case!(the_agent_is_slow_before_its_report, ON_CAPTAIN, |machine| {
    // The first removal is the action's; nerdctl also removes before it adds.
    before_the_bridge(
        &machine,
        r#"if [ "$CNI_COMMAND" = DEL ] && mkdir /run/slow 2> /dev/null; then sleep 6; fi"#,
    )?;
    let said = writes(&machine, "2").run_well()?;
    ran_once(&machine)?;
    let waited = ran_at(&machine)? - said.report.context("no report")?.time;
    ensure!((1.0..30.0).contains(&waited), "it ran {waited:.2} s after the report");
    Ok(())
});

// The agent of Tinkerbell v0.23 also deletes the container of a failed action, so its absence is no
// evidence.
case!(a_failed_action_that_was_deleted, ON_CAPTAIN, |machine| {
    let calls = Calls::install(&machine)?;
    let agent = calls.served(Rule::first("run --detach", "hold-after"))?;
    calls.held()?;
    until("the waiter to be armed", LIMIT, || {
        Ok(calls.waiter_said(|line| line["message"] == "armed").then_some(()))
    })?;
    let ((id, action), (_, waiter)) = (calls.running(ACTION)?, calls.running(WAITER)?);
    // Keeps the waiter from seeing anything in between.
    machine.signal(waiter, "STOP")?;
    machine.signal(action, "KILL")?;
    ensure!(agent.final_report(LIMIT)?.state == "FAILED", "{}", agent.log());
    // nerdctl cannot do it: "cannot determine networking options from nil spec.Annotations"
    // (2.2.1).
    let socket = format!("/proc/{}/root/run/containerd/containerd.sock", machine.init());
    let delete = ["--address", &socket, "--namespace", "tinkerbell", "containers", "delete", &id];
    let deleted = output(Command::new("ctr").args(delete))?;
    ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    machine.signal(waiter, "CONT")?;
    calls.nothing_left()?;
    ensure!(runs(&machine) == 0, "it ran although the action was killed");
    drop(agent);
    Ok(())
});
