//! `nerdctl start` creates a container's process and then starts it. A nerdctl or a waiter that is
//! killed in between leaves a process that waits for its start: the command has not run, and runs
//! once in the end.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::machine::Machine;
use lab::until::until;

use super::calls::{Calls, LIMIT, Rule};
use crate::case;
use crate::cases::{ON_CAPTAIN, ON_CAPTAINS};
use crate::world::{Action, RUN, USER, WAITER, process, ran_once, waiter_log};

/// How long containerd may take to show a process that was created.
const SHOWN_LIMIT: Duration = Duration::from_secs(60);
/// Runs in front of runc: if /run/half-started/rule exists, `nerdctl start` is stopped once, when
/// its container's process has been created and nerdctl does not know it yet.
const RUNC: &str = r#"#!/bin/bash
real=/usr/local/bin/runc.lab
[ -x $real ] || real=/usr/sbin/runc
[ ! -d /run/half-started ] || echo "$(date +%T.%N) $*" >> /run/half-started/log
case " $* " in
*" create "*)
  starts=
  for process in /proc/[0-9]*; do
    { words=$(tr '\0' ' ' < $process/cmdline); } 2> /dev/null || continue
    case $words in nerdctl*" start "* | */nerdctl*" start "*) starts="$starts ${process#/proc/}" ;; esac
  done
  if [ -n "$starts" ] && mv /run/half-started/rule /run/half-started/used 2> /dev/null; then
    # It waits for this program's end anyway, and is stopped for certain by then.
    kill -STOP $starts
    echo "stops$starts" >> /run/half-started/log
    $real "$@" || { kill -CONT $starts; exit 1; }
    echo $starts > /run/half-started/new
    mv /run/half-started/new /run/half-started/stopped
    exit 0
  fi
  ;;
esac
exec $real "$@"
"#;

struct Bench<'a> {
    machine: &'a Machine,
    _agent: Agent,
}

impl<'a> Bench<'a> {
    /// Serves an action whose start is interrupted half-way.
    fn new(machine: &'a Machine) -> Result<Self> {
        let out = machine.out().display().to_string();
        fs::write(machine.out().join("runc"), RUNC)?;
        let install = format!(
            "mkdir /run/half-started; [ ! -e /usr/local/bin/runc ] || mv /usr/local/bin/runc /usr/local/bin/runc.lab; \
             install -m 755 {out}/runc /usr/local/bin/runc"
        );
        ensure!(
            machine.command("sh").args(["-c", &install]).status()?.success(),
            "cannot install the stand-in for runc"
        );
        let agent = served(machine)?;
        Ok(Self { machine, _agent: agent })
    }

    fn folder(&self) -> std::path::PathBuf {
        folder(self.machine)
    }

    /// Waits until a start is interrupted; returns nerdctl's PID in the machine.
    fn interrupted(&self) -> Result<i64> {
        let stopped = self.folder().join("stopped");
        let pid =
            until("a start that is interrupted", LIMIT, || Ok(fs::read_to_string(&stopped).ok()))?;
        fs::remove_file(stopped)?;
        // containerd may still show the process that ended before.
        until("the user container's new process", SHOWN_LIMIT, || {
            // nerdctl may miss it in a list that is changing.
            let user = self.machine.inspect(USER);
            Ok(user
                .is_ok_and(|user| user["Process"]["Status"]["Status"] == "created")
                .then_some(()))
        })
        .with_context(|| {
            let user = self.machine.inspect(USER).map(|user| user["Process"].clone());
            format!(
                "{user:?}\n{}\n{:?}\n{}",
                self.machine.list().unwrap_or_default(),
                waiter_log(self.machine),
                fs::read_to_string(self.folder().join("log")).unwrap_or_default()
            )
        })?;
        Ok(pid.split_whitespace().next().context("no nerdctl")?.parse()?)
    }

    /// Kills the waiter and waits for it to end.
    fn kill_waiter(&self) -> Result<()> {
        self.machine.signal(process(self.machine, WAITER)?, "KILL")?;
        until("the waiter's end", LIMIT, || Ok((!self.machine.runs("/waiter")?).then_some(())))
    }
}

fn folder(machine: &Machine) -> std::path::PathBuf {
    format!("/proc/{}/root/run/half-started", machine.init()).into()
}

fn served(machine: &Machine) -> Result<Agent> {
    let file = Action::alpine(machine).wait("1").script(RUN).file()?;
    fs::write(folder(machine).join("rule"), "")?;
    let agent = Agent::start(machine, &file)?;
    ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
    Ok(agent)
}

case!(waiter_and_nerdctl_are_killed, ON_CAPTAIN, |machine| {
    let bench = Bench::new(&machine)?;
    let nerdctl = bench.interrupted()?;
    bench.kill_waiter()?;
    // nerdctl may have ended with the waiter.
    let _ = machine.signal(nerdctl, "KILL");
    ran_once(&machine)
});

// Its nerdctl, if it is alive, continues once the next waiter has begun.
case!(waiter_alone_is_killed, ON_CAPTAIN, |machine| {
    let bench = Bench::new(&machine)?;
    let nerdctl = bench.interrupted()?;
    bench.kill_waiter()?;
    until("the next waiter", LIMIT, || Ok(machine.runs("/waiter")?.then_some(())))?;
    let _ = machine.signal(nerdctl, "CONT");
    ran_once(&machine)
});

// The next waiter's start is interrupted too.
case!(twice, ON_CAPTAINS, |machine| {
    let bench = Bench::new(&machine)?;
    for round in 0..2 {
        let nerdctl = bench.interrupted()?;
        // This waiter must not try again itself: the rule is for the next waiter's start, and the
        // stand-in looks for a live nerdctl.
        machine.signal(process(&machine, WAITER)?, "STOP")?;
        machine.signal(nerdctl, "KILL")?;
        if round == 0 {
            fs::write(bench.folder().join("rule"), "")?;
        }
        bench.kill_waiter()?;
    }
    ran_once(&machine)
});

// The action is served again before the waiter is restarted: the earlier attempt is cleared away,
// and the action runs once.
case!(the_action_is_served_again, ON_CAPTAIN, |machine| {
    let bench = Bench::new(&machine)?;
    let nerdctl = bench.interrupted()?;
    bench.kill_waiter()?;
    let _ = machine.signal(nerdctl, "KILL");
    drop(bench);
    let first = machine.id_of(USER);
    let agent = served(&machine)?;
    let _ = fs::remove_file(folder(&machine).join("rule"));
    ensure!(
        machine.id_of(USER) != first,
        "the earlier attempt's user container is there: {}",
        agent.log()
    );
    ran_once(&machine).with_context(|| machine.list().unwrap_or_default())
});

// nerdctl exits with 0 but has not started anything.
case!(nerdctl_says_nothing, ON_CAPTAIN, |machine| {
    let bench = Calls::install(&machine)?;
    let agent = bench.served(Rule::first(" start ", "empty"))?;
    bench.either(&agent)?;
    ensure!(
        bench.runs() == 1 && bench.log().lines().any(|line| line == "fault"),
        "{}",
        bench.log()
    );
    Ok(())
});

// nerdctl starts the container and ends with an unknown error: the user container runs, and is
// watched.
case!(nerdctl_fails_after_it, ON_CAPTAIN, |machine| {
    let bench = Calls::install(&machine)?;
    for (script, runs) in
        [(RUN, 1), ("echo run >> /out/runs; until [ -e /out/go ]; do sleep 0.1; done", 2)]
    {
        let agent = bench.served_with(Rule::first(" start ", "unknown-after"), script, "0")?;
        until("the watch", LIMIT, || {
            let watched = bench.waiter_said(|line| line["message"] == "user container started");
            Ok((watched || bench.runs() == runs && !machine.has(WAITER)).then_some(()))
        })?;
        ensure!(
            bench.log().lines().any(|line| line == "fault"),
            "the fault did not happen: {}",
            bench.log()
        );
        fs::write(bench.machine.out().join("go"), "")?;
        ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
        bench.nothing_left()?;
        ensure!(bench.runs() == runs, "it ran {} times", bench.runs());
    }
    Ok(())
});
