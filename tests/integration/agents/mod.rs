//! Every Tink Agent in use, on each OSIE: the README's reboot, a benign action, one that fails and
//! two that time out. docs/compatibility.md is made from the tables here and in `page`.

mod page;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{Agent, Report, Version};
use lab::machine::{Machine, REBOOTED, output};
use lab::paths;
use lab::registry::Registry;
use lab::until::until;

use crate::cases::Systems;
use crate::faults::calls::{Calls, LIMIT as LONG, Rule};
use crate::faults::docker::Proxy;
use crate::world::{ACTION, Action, LIMIT, RUN, USER, WAITER, count, events_of, process, runs};
use lab::system::System;

/// The OSIEs as they ship.
const OSIES: [System; 2] = [System::CaptainOS, System::HookOS];
const ON_OSIES: Systems = Systems::on(&OSIES);
/// The OSIE for what differs only on containerd.
const ON_CAPTAIN: Systems = Systems::on(&[System::CaptainOS]);

/// The cases of each agent, for the page: the case's name and what it shows.
const CASES: [(&str, &str); 6] = [
    (
        "example_reboot",
        "the README's reboot: the machine goes down in order, `WAIT_SECONDS` after the agent reported `SUCCESS`",
    ),
    (
        "benign_command_runs_once",
        "a command that simply ends: it runs once, after `SUCCESS`, and nothing is left",
    ),
    (
        "a_failed_action_runs_nothing",
        "an action that fails: IMAGE cannot be pulled, a variable is wrong, or a name is taken. Nothing runs, and nothing of ours is left",
    ),
    (
        "timeout_during_a_pull",
        "an action that exceeds its `timeout` while a registry does not answer: the same",
    ),
    (
        "timeout_after_arming",
        "an action that exceeds its `timeout` after the waiter was armed, so the agent kills it: the same",
    ),
    (
        "the_server_is_away_at_the_report",
        "the server cannot be reached when the agent reports: your container runs once, because the action did succeed (on CaptainOS only)",
    ),
];

/// The cases of one agent, in a module named after it.
macro_rules! of_agent {
    ($module:ident, $version:expr) => {
        mod $module {
            use crate::case;
            use lab::agent::Version;

            const VERSION: Version = $version;

            case!(example_reboot, super::ON_OSIES, |machine| super::example_reboot(
                VERSION, machine
            ));
            case!(benign_command_runs_once, super::ON_OSIES, |machine| {
                super::benign_command_runs_once(VERSION, &machine)
            });
            case!(a_failed_action_runs_nothing, super::ON_OSIES, |machine| {
                super::a_failed_action_runs_nothing(VERSION, &machine)
            });
            case!(timeout_during_a_pull, super::ON_OSIES, |machine| super::timeout_during_a_pull(
                VERSION, &machine
            ));
            case!(timeout_after_arming, super::ON_OSIES, |machine| super::timeout_after_arming(
                VERSION, &machine
            ));
            case!(the_server_is_away_at_the_report, super::ON_CAPTAIN, |machine| {
                super::the_server_is_away_at_the_report(VERSION, &machine)
            });
        }
    };
}

of_agent!(v0_25, Version::V0_25);
of_agent!(v0_24, Version::V0_24);
of_agent!(v0_23, Version::V0_23);

/// What differs between agents; the cases check each agent for it.
struct Ways {
    /// An action's `namespaces` reach its container.
    namespaces: bool,
    /// On containerd, the container of a failed action is kept.
    keeps_failed: bool,
    /// A report is retried until the server accepts it.
    reports_again: bool,
}

fn ways(version: Version) -> Ways {
    Ways {
        namespaces: version >= Version::V0_25,
        keeps_failed: version >= Version::V0_24,
        reports_again: version >= Version::V0_24,
    }
}

/// The usual action, which runs [`RUN`].
fn action(machine: &Machine) -> Action<'_> {
    Action::new(machine).by_agent().script(RUN)
}

/// Starts the agent with this action.
fn serve(version: Version, action: &Action<'_>) -> Result<Agent> {
    Agent::start_version(action.machine(), &action.file()?, version)
}

/// Waits for the first final report, which must have this state.
fn reported(agent: &Agent, state: &str) -> Result<Report> {
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == state, "reported {}: {}", report.state, agent.log());
    Ok(report)
}

/// Waits until exactly these containers are there.
fn only(machine: &Machine, names: &[&str]) -> Result<()> {
    let there = || -> Result<Vec<String>> {
        let list = machine.list()?;
        let mut there: Vec<String> =
            list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        there.sort();
        Ok(there)
    };
    let only =
        until("the containers that are to be left", LONG, || Ok((there()? == names).then_some(())));
    only.with_context(|| {
        format!("expected {names:?}, there are {:?}: {}", there(), machine.container_logs())
    })
}

/// The containers that the agent keeps after this many failed actions.
fn kept(version: Version, machine: &Machine, failed: usize) -> Vec<&'static str> {
    let keeps = !machine.is_docker() && ways(version).keeps_failed;
    vec![ACTION; if keeps { failed } else { 0 }]
}

/// What an agent did with an action that timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeOver {
    /// It ended the action.
    Ended,
    /// The action still ran when the agent tried to delete its container, so the container is kept.
    /// On containerd an agent may mistake the end of its own wait for the action's end: it then
    /// ends nothing and reports FAILED (every release, about one in four). If it does end the
    /// action, it may not wait for the end.
    StillRunning,
}

/// Waits for the report of an action that timed out.
fn time_over(agent: &Agent) -> Result<TimeOver> {
    let report = agent.final_report(LIMIT)?;
    let still = agent.log().contains("task must be stopped before deletion: running");
    match report.state.as_str() {
        "TIMEOUT" | "FAILED" if still => Ok(TimeOver::StillRunning),
        "TIMEOUT" => Ok(TimeOver::Ended),
        other => bail!("reported {other}: {}", agent.log()),
    }
}

fn example_reboot(version: Version, mut machine: Machine) -> Result<()> {
    let example = paths::root().join("examples/reboot.yaml");
    let agent = Agent::start_version(&machine, &example, version)?;
    let report = reported(&agent, "SUCCESS")?;
    let end = machine.wait_for_end(LIMIT);
    let code = end.with_context(|| machine.container_logs() + &machine.logs())?;
    let ended = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    ensure!(code == REBOOTED, "the machine ended with {code}");
    // The wait is ten seconds from the action's end; the report comes a moment later.
    let waited = ended - report.time;
    ensure!(waited >= 9.5, "rebooted {waited:.2} s after SUCCESS");
    let states: Vec<String> = agent.reports()?.into_iter().map(|report| report.state).collect();
    ensure!(states == ["RUNNING", "SUCCESS"], "reports: {states:?}");
    let in_order = machine.is_docker() || machine.out().join("stopped-in-order").exists();
    ensure!(in_order, "systemd did not stop its units");
    Ok(())
}

fn benign_command_runs_once(version: Version, machine: &Machine) -> Result<()> {
    let script = format!("readlink /proc/self/ns/net > /out/network; {RUN}");
    let agent = serve(
        version,
        &Action::alpine(machine).by_agent().wait("2").network("host").script(&script),
    )?;
    let report = reported(&agent, "SUCCESS")?;
    only(machine, &[])?;
    ensure!(runs(machine) == 1, "it ran {} times: {}", runs(machine), machine.container_logs());
    let ran = fs::metadata(machine.out().join("runs"))?
        .modified()?
        .duration_since(UNIX_EPOCH)?
        .as_secs_f64();
    let waited = ran - report.time;
    // SUCCESS is reported a moment after the action's end.
    ensure!((1.5..10.0).contains(&waited), "ran {waited:.2} s after SUCCESS");
    let network = fs::read_to_string(machine.out().join("network"))?;
    let of_host = fs::read_link(format!("/proc/{}/ns/net", machine.init()))?;
    let is_host = Path::new(network.trim()) == of_host;
    ensure!(is_host == ways(version).namespaces, "the host's network: {is_host}");
    Ok(())
}

fn a_failed_action_runs_nothing(version: Version, machine: &Machine) -> Result<()> {
    let mut failed = 0;
    let mut fail =
        |variables: &[(&str, &str)], (code, words): (i32, &str), others: &[&str]| -> Result<()> {
            let action = variables
                .iter()
                .fold(action(machine), |action, (name, value)| action.env(name, value));
            let agent = serve(version, &action)?;
            reported(&agent, "FAILED")?;
            failed += 1;
            if machine.is_docker() {
                // An agent may lose an action's last output: it stops reading once the container
                // has ended.
                let ended = || Ok(Some(exit_codes(machine)?).filter(|codes| codes.len() == failed));
                let codes = until("the action's end among the events", LIMIT, ended)?;
                ensure!(codes.last() == Some(&Some(code)), "{words}: exit codes {codes:?}");
            } else {
                ensure!(agent.log().contains(words), "{words:?} is missing: {}", agent.log());
            }
            only(machine, &[kept(version, machine, failed), others.to_vec()].concat())
        };
    let unknown = [("IMAGE", "127.0.0.1:5999/none:1"), ("WAITDAEMON_PULL_TIMEOUT_SECONDS", "2")];
    fail(&unknown, (1, "cannot pull the image"), &[])?;
    if !kept(version, machine, 1).is_empty() {
        let (_, said) = machine.log_of(ACTION)?;
        ensure!(said.contains("cannot pull the image"), "nerdctl logs: {said}");
    }
    fail(
        &[("IMAGE", "alpine"), ("WAIT_SECONDS", "x")],
        (78, "WAIT_SECONDS is not a whole number"),
        &[],
    )?;
    // A foreign container has the user container's name: what was made before is removed.
    machine.engine(&["create", "--name", USER, "alpine", "touch", "/out/runs"])?;
    fail(&[("IMAGE", "alpine"), ("WAIT_SECONDS", "0")], (1, "the name is taken"), &[USER])?;
    ensure!(runs(machine) == 0, "it ran although the action failed");
    Ok(())
}

/// The exit codes of the action's containers, in order.
fn exit_codes(machine: &Machine) -> Result<Vec<Option<i32>>> {
    let ends = events_of(machine, "die", ACTION)?;
    Ok(ends.into_iter().map(|event| event.exit_code).collect())
}

/// The registry accepts the request and does not answer until the action is over. Then it answers,
/// and nothing is left that would go on.
fn timeout_during_a_pull(version: Version, machine: &Machine) -> Result<()> {
    let registry = Registry::start(machine)?;
    let way = registry.faulty(machine, ("*", "/manifests/", "all"), "hold")?;
    let agent =
        serve(version, &action(machine).timeout(8).env("IMAGE", "127.0.0.1:5002/ok:1").wait("0"))?;
    let end = time_over(&agent)?;
    ensure!(
        way.log()?.lines().any(|line| line == "held"),
        "the registry was not asked: {}",
        agent.log()
    );
    way.go()?;
    machine.engine(&["pull", "-q", "127.0.0.1:5002/ok:1"])?;
    // Waits for the end of what was left running.
    until("the action's end", LONG, || {
        let running = machine.engine(&["ps", "--format", "{{.Names}}"])?;
        Ok((!running.lines().any(|name| name == ACTION)).then_some(()))
    })?;
    let kept = if end == TimeOver::StillRunning { vec![ACTION] } else { kept(version, machine, 1) };
    only(machine, &kept).with_context(|| agent.log())?;
    ensure!(runs(machine) == 0, "it ran although the action timed out");
    if machine.is_docker() {
        for name in [WAITER, USER] {
            ensure!(
                count(machine, "create", name)? == 0,
                "{name} was created: {:?}",
                machine.events()?
            );
        }
    }
    Ok(())
}

/// The action is held once its waiter is armed, so that it times out. The waiter sees nothing of
/// that until the agent has reported and has deleted what it deletes.
fn timeout_after_arming(version: Version, machine: &Machine) -> Result<()> {
    if machine.is_docker() {
        timeout_on_docker(version, machine)
    } else {
        timeout_on_containerd(version, machine)
    }
}

/// The handoff has said that it is about to succeed, and hangs at that point.
fn timeout_on_docker(version: Version, machine: &Machine) -> Result<()> {
    // The handoff repeats its word every 3 s.
    let proxy = Proxy::start_at(machine, "POST", "{2}/kill", "all", "hold-after")?;
    let agent =
        serve(version, &proxy.action(machine).by_agent().timeout(12).wait("0").script(RUN))?;
    proxy.held().with_context(|| agent.log())?;
    // The agent's SIGTERM then ends nothing, so the agent kills.
    machine.signal(process(machine, ACTION)?, "STOP")?;
    let waiter = process(machine, WAITER)?;
    machine.signal(waiter, "STOP")?;
    ensure!(time_over(&agent)? == TimeOver::Ended, "{}", agent.log());
    machine.signal(waiter, "CONT")?;
    only(machine, &[])?;
    // The engine reports the end a little after the agent does.
    let codes = until("the action's end among the events", LIMIT, || {
        Ok(Some(exit_codes(machine)?).filter(|codes| !codes.is_empty()))
    })?;
    ensure!(codes == [Some(137)], "exit codes: {codes:?}");
    ensure!(runs(machine) == 0, "it ran although the action timed out");
    ensure!(count(machine, "start", USER)? == 0, "the user container was started");
    Ok(())
}

/// The handoff waits for the answer to the start of the waiter, which is already armed.
fn timeout_on_containerd(version: Version, machine: &Machine) -> Result<()> {
    let nerdctl = Calls::install(machine)?;
    nerdctl.rule(Rule::first("run --detach", "hold-after"))?;
    let agent =
        serve(version, &Action::alpine(machine).by_agent().timeout(12).wait("0").script(RUN))?;
    nerdctl.held().with_context(|| agent.log())?;
    until("the waiter to be armed", LIMIT, || {
        Ok(nerdctl.waiter_said(|line| line["message"] == "armed").then_some(()))
    })?;
    let (id, _) = nerdctl.running(ACTION)?;
    let (_, waiter) = nerdctl.running(WAITER)?;
    machine.signal(waiter, "STOP")?;
    let end = time_over(&agent)?;
    let kept = nerdctl
        .real(&["ps", "-a", "--no-trunc", "--format", "{{.ID}}"])?
        .lines()
        .any(|line| line == id);
    let keeps = ways(version).keeps_failed || end == TimeOver::StillRunning;
    ensure!(kept == keeps, "the agent kept its container: {kept}: {}", agent.log());
    // An action that still runs succeeds now.
    nerdctl.go()?;
    machine.signal(waiter, "CONT")?;
    nerdctl.nothing_left()?;
    ensure!(
        nerdctl.runs() == 0,
        "it ran although the action timed out: {}",
        machine.container_logs()
    );
    Ok(())
}

/// From the action's end until the user container has run, nothing listens at the server's address.
fn the_server_is_away_at_the_report(version: Version, machine: &Machine) -> Result<()> {
    let agent = serve(version, &Action::alpine(machine).by_agent().wait("2").script(RUN))?;
    until("the action to run", LIMIT, || Ok((!agent.reports()?.is_empty()).then_some(())))?;
    let refuse = |change: &str| -> Result<()> {
        let rule = format!(
            "iptables {change} OUTPUT -p tcp --dport 42113 -j REJECT --reject-with tcp-reset"
        );
        let said = output(machine.command("sh").args(["-c", &rule]))?;
        ensure!(said.status.success(), "{rule}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(())
    };
    refuse("-A")?;
    let ran = until("the run", LIMIT, || Ok((runs(machine) > 0).then_some(())));
    ran.with_context(|| format!("{}{}", agent.log(), machine.container_logs()))?;
    only(machine, &[])?;
    let states = || {
        Ok::<_, anyhow::Error>(
            agent.reports()?.into_iter().map(|report| report.state).collect::<Vec<_>>(),
        )
    };
    ensure!(states()? == ["RUNNING"], "reported in spite of all: {:?}", states()?);
    refuse("-D")?;
    if ways(version).reports_again {
        reported(&agent, "SUCCESS")?;
    } else {
        agent.asks_in_vain(LIMIT).with_context(|| agent.log())?;
    }
    ensure!(
        states()?.len() == 1 + usize::from(ways(version).reports_again),
        "reports: {:?}",
        states()?
    );
    ensure!(runs(machine) == 1, "it ran {} times", runs(machine));
    Ok(())
}
