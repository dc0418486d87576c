//! containerd hangs while a container is removed: `nerdctl rm --force` then logs an error and exits with 0 (2.2.1). What
//! waitdaemon says was removed is gone all the same.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::until::until;

use super::captain::{Bench, LIMIT, NO_FAULT, Rule};
use crate::fidelity::PlainCase;
use crate::world::{USER, WAITER};

pub fn cases() -> Vec<PlainCase> {
    vec![
        ("captain::frozen::while_the_waiter_cancels".into(), Box::new(while_the_waiter_cancels)),
        ("captain::frozen::while_an_earlier_waiter_is_removed".into(), Box::new(while_an_earlier_waiter_is_removed)),
        ("captain::frozen::while_a_handoff_is_rolled_back".into(), Box::new(while_a_handoff_is_rolled_back)),
        ("captain::frozen::while_the_waiter_removes_itself".into(), Box::new(while_the_waiter_removes_itself)),
    ]
}

const RUN: &str = "echo run >> /out/runs";

impl Bench {
    /// Stops containerd just before the call that is held, lets the call come to its end, and lets containerd go on: that
    /// takes as long as nerdctl waits for it, about 10 s.
    fn freeze_during_the_call(&self) -> Result<()> {
        self.held()?;
        self.systemctl(&["kill", "--kill-whom=main", "--signal=STOP"])?;
        self.go()?;
        until("the end of the call", LIMIT, || Ok(self.log().lines().any(|line| line == "ended").then_some(())))?;
        self.systemctl(&["kill", "--kill-whom=main", "--signal=CONT"]).map(drop)
    }

    /// The waiter waits for an hour.
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

/// It does not wait for an engine that hangs: it ends, is started again, and goes on cancelling.
fn while_the_waiter_cancels() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.waiting(Rule::first(" rm ", "hold-noted"))?;
    let (_, pid) = bench.running(WAITER)?;
    let process = PathBuf::from(format!("/proc/{}/root/proc/{pid}", bench.captain.init()));
    bench.captain.signal(pid, "TERM")?;
    bench.held()?;
    bench.systemctl(&["kill", "--kill-whom=main", "--signal=STOP"])?;
    bench.go()?;
    let ended = until("the waiter's end", LIMIT, || {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
    });
    bench.systemctl(&["kill", "--kill-whom=main", "--signal=CONT"])?;
    ended?;
    bench.nothing_left()?;
    ensure!(bench.runs() == 0, "it ran although it was cancelled");
    drop(agent);
    bench.runs_when_served_again()
}

fn while_an_earlier_waiter_is_removed() -> Result<()> {
    let bench = Bench::new()?;
    drop(bench.waiting(NO_FAULT)?);
    let earlier = bench.captain.id_of(WAITER).context("no waiter")?;
    let agent = bench.served(Rule::first(" rm --force ", "hold-noted"))?;
    bench.freeze_during_the_call()?;
    let held = bench.log().lines().find(|line| line.contains(" rm --force ")).map(str::to_owned);
    ensure!(held.is_some_and(|call| call.ends_with(&bench.number(&earlier))), "another was removed: {}", bench.log());
    bench.either(&agent)?;
    ensure!(bench.runs() == 1, "it ran {} times: {}", bench.runs(), agent.log());
    Ok(())
}

/// The waiter cannot be created, for a foreign container has its name.
fn while_a_handoff_is_rolled_back() -> Result<()> {
    let bench = Bench::new()?;
    bench.rule(NO_FAULT)?;
    bench.real(&["create", "--name", WAITER, "alpine", "true"])?;
    let agent = bench.served(Rule::first(" rm --force ", "hold-noted"))?;
    bench.freeze_during_the_call()?;
    ensure!(agent.final_report(LIMIT)?.state == "FAILED", "{}", agent.log());
    ensure!(bench.captain.id_of(USER).is_none(), "the user container is left: {}", agent.log());
    bench.real(&["rm", WAITER])?;
    bench.nothing_left()?;
    ensure!(bench.runs() == 0, "it ran although the action failed");
    drop(agent);
    bench.runs_when_served_again()
}

fn while_the_waiter_removes_itself() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.served(Rule::first(" rm --force ", "hold-noted"))?;
    bench.freeze_during_the_call()?;
    bench.either(&agent)?;
    ensure!(bench.runs() == 1, "it ran {} times", bench.runs());
    Ok(())
}
