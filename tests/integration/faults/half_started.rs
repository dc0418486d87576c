//! `nerdctl start` makes a container's process and then starts it. Whoever is killed in between leaves a process that
//! waits for its start: the command has not run, and runs once in the end.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::until::until;
use serde_json::json;

use super::captain::{Bench as Calls, LIMIT, Rule};
use crate::captain::{captain, containers, log, nothing_left};
use crate::fidelity::PlainCase;
use crate::world::{USER, WAITER};

pub fn cases() -> Vec<PlainCase> {
    vec![
        ("captain::half_started::waiter_and_nerdctl_are_killed".into(), Box::new(waiter_and_nerdctl_are_killed)),
        ("captain::half_started::waiter_alone_is_killed".into(), Box::new(waiter_alone_is_killed)),
        ("captain::half_started::twice".into(), Box::new(twice)),
        ("captain::half_started::the_action_is_served_again".into(), Box::new(the_action_is_served_again)),
        ("captain::half_started::nerdctl_says_nothing".into(), Box::new(nerdctl_says_nothing)),
        ("captain::half_started::nerdctl_fails_after_it".into(), Box::new(nerdctl_fails_after_it)),
    ]
}

/// Stands before runc: where /run/half-started/rule exists, `nerdctl start` is stopped once when its container's process
/// was created and nerdctl does not know it yet.
const RUNC: &str = r#"#!/bin/bash
real=/usr/local/bin/runc.lab
[ -x $real ] || real=/usr/sbin/runc
case " $* " in
*" create "*)
  for process in /proc/[0-9]*; do
    { words=$(tr '\0' ' ' < $process/cmdline); } 2> /dev/null || continue
    case $words in nerdctl*" start "* | */nerdctl*" start "*) ;; *) continue ;; esac
    mv /run/half-started/rule /run/half-started/used 2> /dev/null || break
    $real "$@" || exit 1
    kill -STOP ${process#/proc/}
    echo ${process#/proc/} > /run/half-started/new
    mv /run/half-started/new /run/half-started/stopped
    exit 0
  done
  ;;
esac
exec $real "$@"
"#;

struct Bench {
    captain: Captain,
    agent: Agent,
}

impl Bench {
    /// Serves an action whose start is interrupted half-way.
    fn new() -> Result<Self> {
        let captain = captain()?;
        let out = captain.out().display().to_string();
        fs::write(captain.out().join("runc"), RUNC)?;
        let install = format!(
            "mkdir /run/half-started; [ ! -e /usr/local/bin/runc ] || mv /usr/local/bin/runc /usr/local/bin/runc.lab; \
             install -m 755 {out}/runc /usr/local/bin/runc"
        );
        ensure!(
            captain.command("sh").args(["-c", &install]).status()?.success(),
            "cannot install the stand-in for runc"
        );
        let agent = served(&captain)?;
        Ok(Self { captain, agent })
    }

    fn folder(&self) -> std::path::PathBuf {
        folder(&self.captain)
    }

    /// Waits until a start was interrupted; returns the PID of nerdctl in the machine.
    fn interrupted(&self) -> Result<i64> {
        let stopped = self.folder().join("stopped");
        let pid = until("a start that is interrupted", LIMIT, || Ok(fs::read_to_string(&stopped).ok()))?;
        fs::remove_file(stopped)?;
        // containerd may still show the process that was ended before.
        until("the user container's new process", LIMIT, || {
            Ok((self.captain.inspect(USER)?["Process"]["Status"]["Status"] == "created").then_some(()))
        })?;
        Ok(pid.trim().parse()?)
    }

    /// Kills the waiter, and waits for its end.
    fn kill_waiter(&self) -> Result<()> {
        let pid = self.captain.inspect(WAITER)?["Process"]["Pid"].as_i64().filter(|pid| *pid > 1).context("no PID")?;
        self.captain.signal(pid, "KILL")?;
        until("the waiter's end", LIMIT, || Ok((!self.captain.runs("/waiter")?).then_some(())))
    }

    /// The command runs once, and nothing is left.
    fn runs_once(&self) -> Result<()> {
        let runs = self.captain.out().join("runs");
        let ran = || fs::read_to_string(&runs).unwrap_or_default();
        // Not before it ran: nothing is left either where it never ran and nobody said so.
        let left = nothing_left(&self.captain);
        left.with_context(|| format!("it ran {:?}: {:?}", ran(), log(&self.captain)))?;
        ensure!(ran() == "run\n", "it ran {:?}", ran());
        Ok(())
    }
}

fn folder(captain: &Captain) -> std::path::PathBuf {
    format!("/proc/{}/root/run/half-started", captain.init()).into()
}

fn served(captain: &Captain) -> Result<Agent> {
    let action = json!([{
        "name": "last", "image": "waitdaemon:dev", "timeout": 140, "pid": "host",
        "volumes": [format!("{}:/out", captain.out().display())],
        "command": ["sh", "-c", "echo run >> /out/runs"],
        "environment": {"IMAGE": "alpine", "WAIT_SECONDS": "1"},
    }]);
    let file = captain.out().join("actions.yaml");
    fs::write(&file, action.to_string())?;
    fs::write(folder(captain).join("rule"), "")?;
    let agent = Agent::start(captain, Runtime::Containerd, &file)?;
    ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
    Ok(agent)
}

fn waiter_and_nerdctl_are_killed() -> Result<()> {
    let bench = Bench::new()?;
    let nerdctl = bench.interrupted()?;
    bench.kill_waiter()?;
    // It may have ended with the waiter.
    let _ = bench.captain.signal(nerdctl, "KILL");
    bench.runs_once()
}

/// Its nerdctl, if it lives, goes on when the next waiter has begun.
fn waiter_alone_is_killed() -> Result<()> {
    let bench = Bench::new()?;
    let nerdctl = bench.interrupted()?;
    bench.kill_waiter()?;
    until("the next waiter", LIMIT, || Ok(bench.captain.runs("/waiter")?.then_some(())))?;
    let _ = bench.captain.signal(nerdctl, "CONT");
    bench.runs_once()
}

/// The start that the next waiter makes is interrupted too.
fn twice() -> Result<()> {
    let bench = Bench::new()?;
    for round in 0..2 {
        let nerdctl = bench.interrupted()?;
        if round == 0 {
            fs::write(bench.folder().join("rule"), "")?;
        }
        bench.kill_waiter()?;
        let _ = bench.captain.signal(nerdctl, "KILL");
    }
    bench.runs_once()
}

/// Before the waiter is started again: the earlier attempt is cleared away, and the action runs once.
fn the_action_is_served_again() -> Result<()> {
    let bench = Bench::new()?;
    let nerdctl = bench.interrupted()?;
    bench.kill_waiter()?;
    let _ = bench.captain.signal(nerdctl, "KILL");
    let Bench { captain, agent } = bench;
    drop(agent);
    let first = captain.id_of(USER);
    let agent = served(&captain)?;
    let _ = fs::remove_file(folder(&captain).join("rule"));
    let bench = Bench { captain, agent };
    ensure!(bench.captain.id_of(USER) != first, "the earlier attempt's user container is there: {}", bench.agent.log());
    bench.runs_once().with_context(|| containers(&bench.captain).unwrap_or_default())
}

/// nerdctl exits with 0 and has not started anything.
fn nerdctl_says_nothing() -> Result<()> {
    let bench = Calls::new()?;
    let agent = bench.served(Rule::first(" start ", "empty"))?;
    bench.either(&agent)?;
    ensure!(bench.runs() == 1 && bench.log().lines().any(|line| line == "fault"), "{}", bench.log());
    Ok(())
}

/// nerdctl starts it and ends with an error that nobody knows: the user container runs, and is watched.
fn nerdctl_fails_after_it() -> Result<()> {
    let bench = Calls::new()?;
    for (script, runs) in
        [("echo run >> /out/runs", 1), ("echo run >> /out/runs; until [ -e /out/go ]; do sleep 0.1; done", 2)]
    {
        let agent = bench.served_with(Rule::first(" start ", "unknown-after"), script, "0")?;
        until("the watch", LIMIT, || {
            let watched = bench.waiter_said(|line| line["message"] == "user container started");
            Ok((watched || bench.runs() == runs && bench.captain.id_of(WAITER).is_none()).then_some(()))
        })?;
        ensure!(bench.log().lines().any(|line| line == "fault"), "the fault did not happen: {}", bench.log());
        fs::write(bench.captain.out().join("go"), "")?;
        ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
        bench.nothing_left()?;
        ensure!(bench.runs() == runs, "it ran {} times", bench.runs());
    }
    Ok(())
}
