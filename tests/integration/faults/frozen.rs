//! containerd hangs while a container is removed: `nerdctl rm --force` then logs an error and exits
//! with 0 (2.2.1). What waitdaemon reports as removed must be gone all the same.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::until::until;

use super::calls::{Calls, LIMIT, NO_FAULT, Rule};
use crate::case;
use crate::cases::ON_CAPTAIN;
use crate::world::{RUN, USER, WAITER};

impl Calls<'_> {
    /// Stops containerd just before the held call, lets the call finish, and lets containerd
    /// continue. That takes as long as nerdctl waits for containerd, about 10 s.
    fn freeze_during_the_call(&self) -> Result<()> {
        self.held()?;
        self.systemctl(&["kill", "--kill-whom=main", "--signal=STOP"])?;
        self.go()?;
        until("the end of the call", LIMIT, || {
            Ok(self.log().lines().any(|line| line == "ended").then_some(()))
        })?;
        self.systemctl(&["kill", "--kill-whom=main", "--signal=CONT"]).map(drop)
    }

    /// Serves an action whose waiter waits for an hour.
    fn waiting(&self, rule: Rule) -> Result<Agent> {
        let agent = self.served_with(rule, RUN, "3600")?;
        ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
        until("the waiter to wait", LIMIT, || {
            Ok(self.waiter_said(|line| line["wait_seconds"].is_number()).then_some(()))
        })?;
        Ok(agent)
    }

    /// Serves the action without a fault; it runs once, and nothing is left.
    fn runs_when_served_again(&self) -> Result<()> {
        let agent = self.served(NO_FAULT)?;
        self.either(&agent)?;
        ensure!(self.runs() == 1, "served again it ran {} times: {}", self.runs(), agent.log());
        Ok(())
    }
}

// The waiter does not wait for an engine that hangs: it ends, is restarted, and continues to
// cancel.
case!(while_the_waiter_cancels, ON_CAPTAIN, |machine| {
    let calls = Calls::install(&machine)?;
    let agent = calls.waiting(Rule::first(" rm ", "hold-noted"))?;
    let (_, pid) = calls.running(WAITER)?;
    let process = PathBuf::from(format!("/proc/{}/root/proc/{pid}", machine.init()));
    machine.signal(pid, "TERM")?;
    calls.held()?;
    calls.systemctl(&["kill", "--kill-whom=main", "--signal=STOP"])?;
    calls.go()?;
    let ended = until("the waiter's end", LIMIT, || {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
    });
    calls.systemctl(&["kill", "--kill-whom=main", "--signal=CONT"])?;
    ended?;
    calls.nothing_left()?;
    ensure!(calls.runs() == 0, "it ran although it was cancelled");
    drop(agent);
    calls.runs_when_served_again()
});

case!(while_an_earlier_waiter_is_removed, ON_CAPTAIN, |machine| {
    let calls = Calls::install(&machine)?;
    drop(calls.waiting(NO_FAULT)?);
    let earlier = machine.id_of(WAITER).context("no waiter")?;
    let agent = calls.served(Rule::first(" rm --force ", "hold-noted"))?;
    calls.freeze_during_the_call()?;
    let held = calls.log().lines().find(|line| line.contains(" rm --force ")).map(str::to_owned);
    ensure!(
        held.is_some_and(|call| call.ends_with(&calls.number(&earlier))),
        "another was removed: {}",
        calls.log()
    );
    calls.either(&agent)?;
    ensure!(calls.runs() == 1, "it ran {} times: {}", calls.runs(), agent.log());
    Ok(())
});

// The waiter cannot be created, because a foreign container has its name.
case!(while_a_handoff_is_rolled_back, ON_CAPTAIN, |machine| {
    let calls = Calls::install(&machine)?;
    calls.rule(NO_FAULT)?;
    calls.real(&["create", "--name", WAITER, "alpine", "true"])?;
    let agent = calls.served(Rule::first(" rm --volumes ", "hold-noted"))?;
    calls.freeze_during_the_call()?;
    ensure!(agent.final_report(LIMIT)?.state == "FAILED", "{}", agent.log());
    ensure!(!machine.has(USER), "the user container is left: {}", agent.log());
    calls.real(&["rm", WAITER])?;
    calls.nothing_left()?;
    ensure!(calls.runs() == 0, "it ran although the action failed");
    drop(agent);
    calls.runs_when_served_again()
});

case!(while_the_waiter_removes_itself, ON_CAPTAIN, |machine| {
    let calls = Calls::install(&machine)?;
    let agent = calls.served(Rule::first(" rm --force ", "hold-noted"))?;
    calls.freeze_during_the_call()?;
    calls.either(&agent)?;
    ensure!(calls.runs() == 1, "it ran {} times", calls.runs());
    Ok(())
});
