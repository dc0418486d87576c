//! The same action served again on CaptainOS: a user container that runs keeps its waiter, in whatever order they are
//! listed and whatever happens in between.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::captain::Captain;
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::{captain, containers, log, nothing_left, reported};
use crate::faults::captain::{Bench, LIMIT as LONG, NO_FAULT, Rule};
use crate::world::{LIMIT, USER, WAITER};

pub fn cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::again::the_waiter_stays", the_waiter_stays),
        ("captain::again::while_the_waiter_is_killed", while_the_waiter_is_killed),
        ("captain::again::the_start_comes_first", the_start_comes_first),
        ("captain::again::the_removal_comes_first", the_removal_comes_first),
        ("captain::again::after_a_failure", after_a_failure),
    ]
}

/// The state, ID and PID of a container that runs.
fn running(captain: &Captain, name: &str) -> Result<[Value; 3]> {
    let mut seen = captain.inspect(name)?;
    ensure!(seen["Process"]["Status"]["Status"] == "running", "{name}: {}", seen["Process"]);
    Ok([name.into(), seen["ID"].take(), seen["Process"]["Pid"].take()])
}

/// Serves an action of this name whose user container goes on and is watched.
fn served(captain: &Captain, name: &str) -> Result<String> {
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0", "WAITDAEMON_WATCH_SECONDS": "600"});
    let action = json!({"name": name, "command": ["sleep", "1000"], "environment": environment});
    Ok(reported(captain, action, "SUCCESS")?.log())
}

/// Waits until so many waiters have started their user containers.
fn started(captain: &Captain, count: usize) -> Result<()> {
    until(&format!("{count} user containers to be started"), LIMIT, || {
        let lines = log(captain);
        Ok((lines.iter().filter(|line| line["message"] == "user container started").count() == count).then_some(()))
    })
}

/// Ten times, for the order of the list is chance.
fn the_waiter_stays() -> Result<()> {
    let captain = captain()?;
    for round in 0..10 {
        let name = format!("round{round}");
        served(&captain, &name)?;
        started(&captain, round + 1)?;
        let both = ["waiter", "user"].map(|role| format!("tinkerbell_{name}_a0-{role}"));
        let before = both.each_ref().map(|one| running(&captain, one)).into_iter().collect::<Result<Vec<_>>>()?;
        let said = served(&captain, &name)?;
        ensure!(said.contains("leaving it alone"), "{said}");
        let after = both.each_ref().map(|one| running(&captain, one)).into_iter().collect::<Result<Vec<_>>>();
        let after = after.with_context(|| format!("round {round}: {said}"))?;
        ensure!(after == before, "round {round}: {before:?} became {after:?}");
    }
    let there = containers(&captain)?;
    let ours = |line: &&str| line.contains("-waiter ") || line.contains("-user ");
    ensure!(there.lines().filter(ours).count() == 20, "{there}");
    Ok(())
}

/// containerd starts it again (its restart monitor looks every 10 s).
fn while_the_waiter_is_killed() -> Result<()> {
    let captain = captain()?;
    served(&captain, "last")?;
    started(&captain, 1)?;
    let (user, [_, waiter, pid]) = (running(&captain, USER)?, running(&captain, WAITER)?);
    captain.signal(pid.as_i64().context("no PID")?, "KILL")?;
    served(&captain, "last")?;
    ensure!(running(&captain, USER)? == user, "the user container was not left alone");
    let again =
        until("the waiter to run again", LIMIT, || Ok(running(&captain, WAITER).ok().filter(|now| now[2] != pid)));
    let again = again.with_context(|| containers(&captain).unwrap_or_default())?;
    ensure!(again[1] == waiter, "another waiter: {again:?}");
    let watches = "this waiter was ended and started again: the user container was started before";
    until("the waiter's watch", LIMIT, || {
        Ok(log(&captain).iter().any(|line| line["message"] == watches).then_some(()))
    })?;
    ensure!(running(&captain, USER)? == user, "the user container was not left alone");
    Ok(())
}

const RUN: &str = "echo run >> /out/runs";

/// The user container is seen not to run, and runs when it is removed.
fn the_start_comes_first() -> Result<()> {
    let bench = Bench::new()?;
    let script = format!("{RUN}; exec sleep 1000");
    let agent = bench.served_with(NO_FAULT, &script, "15")?;
    ensure!(agent.final_report(LONG)?.state == "SUCCESS", "{}", agent.log());
    drop(agent);
    let agent = bench.served_with(Rule::first(" rm ", "hold"), &script, "15")?;
    bench.held()?;
    until("the user container's start", LIMIT, || Ok((bench.runs() == 1).then_some(())))?;
    let user = running(&bench.captain, USER)?;
    bench.go()?;
    ensure!(agent.final_report(LONG)?.state == "SUCCESS", "{}", agent.log());
    ensure!(running(&bench.captain, USER)? == user, "the user container was not left alone: {}", agent.log());
    running(&bench.captain, WAITER).with_context(|| agent.log())?;
    ensure!(bench.runs() == 1, "it ran {} times", bench.runs());
    Ok(())
}

/// The user container is removed while its waiter is about to start it.
fn the_removal_comes_first() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.served(Rule::first(" start ", "hold"))?;
    ensure!(agent.final_report(LONG)?.state == "SUCCESS", "{}", agent.log());
    bench.held()?;
    drop(agent);
    let earlier = bench.captain.id_of(USER).context("no user container")?;
    bench.rule(NO_FAULT)?;
    let agent = bench.served(NO_FAULT)?;
    until("the removal of the earlier user container", LIMIT, || {
        Ok(bench.captain.id_of(USER).is_none_or(|id| id != earlier).then_some(()))
    })?;
    bench.go()?;
    bench.either(&agent)?;
    ensure!(bench.runs() == 1, "it ran {} times: {}", bench.runs(), agent.log());
    Ok(())
}

/// The user container failed and is kept, its waiter has ended: the action runs anew, with a waiter of its own.
fn after_a_failure() -> Result<()> {
    let captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0"});
    let script = |end: &str| json!({"command": ["sh", "-c", format!("{RUN}; {end}")], "environment": environment});
    drop(reported(&captain, script("exit 7"), "SUCCESS")?);
    until("the waiter's end", LIMIT, || {
        let ended =
            |name: &str| Ok::<_, anyhow::Error>(captain.inspect(name)?["Process"]["Status"]["Status"] == "stopped");
        Ok((ended(USER)? && ended(WAITER)?).then_some(()))
    })?;
    let kept = captain.id_of(USER);
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0", "WAITDAEMON_WATCH_SECONDS": "600"});
    let again = json!({"command": ["sh", "-c", format!("{RUN}; exec sleep 1000")], "environment": environment});
    drop(reported(&captain, again, "SUCCESS")?);
    let runs = captain.out().join("runs");
    until("the second run", LIMIT, || Ok((fs::read_to_string(&runs)?.lines().count() == 2).then_some(())))?;
    running(&captain, USER)?;
    running(&captain, WAITER)?;
    ensure!(captain.id_of(USER) != kept, "the user container that failed was started again");
    // What ends well leaves nothing.
    captain.nerdctl(&["rm", "-f", WAITER, USER])?;
    drop(reported(&captain, script("exit 0"), "SUCCESS")?);
    nothing_left(&captain)
}
