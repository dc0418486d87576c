//! The waiter goes on where it was, whatever happens to it and its engine, and after SUCCESS only a final answer stops it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::machine::{Engine, Machine};
use lab::nest::Nest;
use lab::until::until;
use serde_json::json;

use crate::captain::{actions, captain, log as captain_log, nothing_left as captain_nothing_left, own_volumes};
use crate::faults::captain::{Bench, NO_FAULT, Rule};
use crate::faults::docker::Proxy;
use crate::world::{
    ACTION, Action, LIMIT, USER, WAITER, await_event, count, log, machine, nothing_left, started_once_after,
};

/// What a waiter notes, in its order.
pub const LINES: [&str; 6] = ["armed", "word", "succeeded", "starting", "started", "done"];
/// What the user container's shell runs.
const RUN: &str = "echo run >> /out/runs";
/// The reports of an agent that cannot delete its container come late.
const LATE: Duration = Duration::from_secs(150);

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        an_engine_is_stopped_and_ends_its_containers,
        an_engine_is_killed_and_ends_its_containers,
        the_engine_has_forgotten_the_action,
        nothing_tells_how_the_action_ended,
        a_start_is_refused_five_times,
        the_log_servers_name_does_not_resolve,
        killed_at_each_line_of_the_journal,
        a_user_container_that_the_engine_ended_is_said,
        the_journal_works_without_root,
        nothing_of_the_journal_is_left,
    ]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::remembers::a_network_that_fails_once", a_network_that_fails_once),
        ("captain::remembers::the_agent_cannot_delete", the_agent_cannot_delete),
        ("captain::remembers::the_agent_is_slow_before_its_report", the_agent_is_slow_before_its_report),
        ("captain::remembers::a_failed_action_that_was_deleted", a_failed_action_that_was_deleted),
        ("captain::remembers::a_power_off_does_not_wait", a_power_off_does_not_wait),
        ("captain::remembers::killed_when_it_succeeded", || killed_at(&captain()?, true, "succeeded")),
    ]
}

/// The long ones.
pub fn captain_soak() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::remembers::killed_at_each_line_of_the_journal", || killed_at_each_line_on_captain(true)),
        ("captain::remembers::killed_at_each_line_own_nerdctl", || killed_at_each_line_on_captain(false)),
    ]
}

/// How often it ran, by the file that it writes to.
fn runs(nest: &Nest) -> usize {
    fs::read_to_string(nest.out().join("runs")).unwrap_or_default().lines().count()
}

/// Seconds since 1970 at which it ran last.
fn ran_at(nest: &Nest) -> Result<f64> {
    let ran = fs::metadata(nest.out().join("runs")).context("it never ran")?;
    Ok(ran.modified()?.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

fn now() -> Result<f64> {
    Ok(UNIX_EPOCH.elapsed()?.as_secs_f64())
}

fn writes<'a>(machine: &'a Machine, wait: &str) -> Action<'a> {
    let out = format!("{}:/out", machine.out().display());
    Action::new(machine)
        .flags(&["-v", &out])
        .env("IMAGE", "alpine")
        .env("WAIT_SECONDS", wait)
        .command(&["sh", "-c", RUN])
}

fn an_engine_is_stopped_and_ends_its_containers(engine: Engine) -> Result<()> {
    ends_its_containers(engine, "TERM")
}

fn an_engine_is_killed_and_ends_its_containers(engine: Engine) -> Result<()> {
    ends_its_containers(engine, "KILL")
}

/// Without live-restore, as HookOS ships: the wait goes on, not anew.
fn ends_its_containers(engine: Engine, signal: &str) -> Result<()> {
    const WAIT: f64 = 12.0;
    let machine = machine(engine)?;
    writes(&machine, "12").run_well()?;
    machine.docker(&["rm", "-f", ACTION])?;
    let ended = now()?;
    machine.kill_engine(signal)?;
    machine.start_engine()?;
    let back = now()?;
    ensure!(runs(&machine) == 0, "it ran before its time");
    nothing_left(&machine).with_context(|| machine.logs())?;
    ensure!(runs(&machine) == 1, "it ran {} times", runs(&machine));
    let (waited, since) = (ran_at(&machine)? - ended, ran_at(&machine)? - back);
    ensure!(waited >= WAIT - 0.7, "it ran {waited:.2} s after the action's end");
    // Docker itself may take a while to start it again.
    ensure!(since < WAIT || waited < WAIT + 3.0, "the wait began anew: {since:.2} s after the engine was back");
    Ok(())
}

/// The action is removed, and 256 events later the waiter is killed.
fn the_engine_has_forgotten_the_action(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    writes(&machine, "6").run_well()?;
    forget_the_action(&machine)?;
    kill_waiter(&machine)?;
    nothing_left(&machine)?;
    ensure!(runs(&machine) == 1, "it ran {} times", runs(&machine));
    Ok(())
}

/// The same, and the journal has lost all but its first line: nothing runs, and what explains that stays.
fn nothing_tells_how_the_action_ended(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    writes(&machine, "60").run_well()?;
    forget_the_action(&machine)?;
    let journal = journal_of(&machine)?;
    let text = fs::read_to_string(&journal)?;
    fs::write(&journal, text.lines().take(1).map(|line| format!("{line}\n")).collect::<String>())?;
    kill_waiter(&machine)?;
    let error = until("the waiter's error", LIMIT, || {
        Ok(log(&machine, WAITER)?.1.into_iter().find(|line| line["level"] == "ERROR"))
    })?;
    ensure!(error["message"].to_string().contains("cannot know how the action ended"), "{error}");
    until("the waiter's end with 2", LIMIT, || {
        let state = &machine.inspect(WAITER)?["State"];
        Ok((state["Status"] == "exited" && state["ExitCode"] == 2).then_some(()))
    })?;
    ensure!(runs(&machine) == 0 && machine.inspect(USER).is_err(), "the user container is still there, or ran");
    Ok(())
}

fn forget_the_action(machine: &Machine) -> Result<()> {
    machine.docker(&["rm", "-f", ACTION])?;
    for number in 0..130 {
        let name = format!("filler-{number}");
        let (made, _) = machine.ask("POST", "/volumes/create", Some(&json!({"Name": name})))?;
        let (removed, _) = machine.ask("DELETE", &format!("/volumes/{name}"), None)?;
        ensure!((made, removed) == (201, 204), "no event: {made} {removed}");
    }
    Ok(())
}

fn kill_waiter(machine: &Machine) -> Result<()> {
    let died = count(machine, "die", WAITER)?;
    let pid = machine.inspect(WAITER)?["State"]["Pid"].as_i64().filter(|pid| *pid > 1).context("it does not run")?;
    machine.signal(pid, "KILL")?;
    until("the waiter's end", LIMIT, || Ok((count(machine, "die", WAITER)? > died).then_some(())))
}

fn a_start_is_refused_five_times(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let proxy = Proxy::start_at(&machine, "POST", "{3}/start", "1,2,3,4,5", "500")?;
    proxy.action(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["sleep", "20"]).run_well()?;
    await_event(&machine, "start", USER)?;
    let (_, said) = log(&machine, WAITER)?;
    let refusals = said.iter().filter(|line| line.to_string().contains("fault-proxy says 500")).count();
    ensure!(refusals == 1, "the same refusal is said once: {said:?}");
    machine.docker(&["kill", USER])?;
    until("five refusals", LIMIT, || {
        Ok((proxy.log().lines().filter(|line| *line == "fault").count() == 5).then_some(()))
    })?;
    ensure!(count(&machine, "start", USER)? == 1, "it started more than once");
    Ok(())
}

/// The name resolves at the handoff, not at the start, and again later.
fn the_log_servers_name_does_not_resolve(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let hosts = |line: &str| -> Result<()> {
        let script = "grep -v logs.lab /etc/hosts > /run/hosts; echo \"$1\" >> /run/hosts; cat /run/hosts > /etc/hosts";
        ensure!(machine.command("sh").args(["-c", script, "sh", line]).status()?.success(), "cannot write /etc/hosts");
        Ok(())
    };
    hosts("127.0.0.1 logs.lab")?;
    let driver = ["--log-driver", "syslog", "--log-opt", "syslog-address=udp://logs.lab:514"];
    // Longer than the engine remembers names (Go, 5 s).
    let probe =
        |name: &str| machine.docker(&[&["run", "--rm", "--name", name], &driver[..], &["alpine", "true"]].concat());
    until("the name to be known", LIMIT, || Ok(probe("probe").is_ok().then_some(())))?;
    writes(&machine, "8").flags(&driver).run_well()?;
    hosts("# nobody")?;
    let engine_log = machine.folder().join("dockerd.log");
    let refused = || Ok(fs::read_to_string(&engine_log)?.contains("logs.lab").then_some(()));
    until("a start that is refused", LIMIT, refused)?;
    ensure!(runs(&machine) == 0, "it ran although its log driver cannot be set up");
    // The waiter's own lines take the same way; the console has them as well.
    let said = |line: &str| {
        line.contains(&format!("waitdaemon {ACTION}: starting a container failed")) && line.contains("logs.lab")
    };
    until("the refusal in the kernel's log", LIMIT, || Ok(kernel_log()?.lines().any(said).then_some(())))?;
    hosts("127.0.0.1 logs.lab")?;
    nothing_left(&machine)?;
    ensure!(runs(&machine) == 1, "it ran {} times", runs(&machine));
    Ok(())
}

/// What the kernel's log has now.
fn kernel_log() -> Result<String> {
    let said = lab::nest::output(&mut Command::new("dmesg"))?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Without root: in our image the journal's folder is anybody's.
fn the_journal_works_without_root(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    ensure!(machine.command("chmod").args(["666", "/run/docker.sock"]).status()?.success(), "cannot open the socket");
    let action = Action::new(&machine).flags(&["--user", "1000:1000"]).env("IMAGE", "alpine").env("WAIT_SECONDS", "4");
    action.command(&["true"]).run_well()?;
    let journal = journal_of(&machine)?;
    ensure!(fs::read_to_string(&journal)?.starts_with("armed "), "{journal:?}");
    kill_waiter(&machine)?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 1);
    Ok(())
}

fn nothing_of_the_journal_is_left(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "1").command(&["true"]).run_well()?;
    let (_, volumes) = machine.ask("GET", "/volumes", None)?;
    ensure!(volumes["Volumes"].as_array().is_some_and(|all| all.len() == 1), "one volume, the waiter's: {volumes}");
    started_once_after(&machine, 1.0)?;
    nothing_left(&machine)?;
    let (_, volumes) = machine.ask("GET", "/volumes", None)?;
    ensure!(volumes["Volumes"].as_array().is_none_or(Vec::is_empty), "left: {volumes}");
    Ok(())
}

/// The engine ends the user container, too, which ran: that is a failure, and it is said.
fn a_user_container_that_the_engine_ended_is_said(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["sleep", "1000"]).run_well()?;
    await_event(&machine, "start", USER)?;
    machine.kill_engine("TERM")?;
    machine.start_engine()?;
    let error = until("the waiter's error", LIMIT, || {
        Ok(log(&machine, WAITER)?.1.into_iter().find(|line| line["level"] == "ERROR"))
    })?;
    ensure!(error["message"].to_string().contains("the user container failed with exit code"), "{error}");
    until("the waiter's end", LIMIT, || Ok((machine.inspect(WAITER)?["State"]["Status"] == "exited").then_some(())))?;
    ensure!(machine.inspect(USER)?["State"]["Status"] == "exited", "it was started again");
    ensure!(machine.inspect(WAITER)?["State"]["ExitCode"] == 2, "the waiter's exit code");
    Ok(())
}

/// Where the waiter's journal is, as we reach it.
fn journal_of(machine: &Machine) -> Result<PathBuf> {
    let mounts = machine.inspect(WAITER)?["Mounts"].clone();
    let mut mounts = mounts.as_array().into_iter().flatten();
    let mount = mounts.find(|mount| mount["Destination"] == "/journal").context("no volume for the journal")?;
    let source = mount["Source"].as_str().context("no source")?;
    Ok(PathBuf::from(format!("/proc/{}/root{source}/waitdaemon-journal", machine.init())))
}

/// Waits until a journal has this line.
fn noted(journal: &Path, line: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let text = fs::read_to_string(journal).unwrap_or_default();
        if text.lines().any(|found| found.split(' ').next() == Some(line)) {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "{line} is not noted: {text:?}");
        std::thread::yield_now();
    }
}

/// Killed as soon as each line can be seen: it runs once, and nothing is left.
fn killed_at_each_line_of_the_journal(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for line in LINES {
        let _ = fs::remove_file(machine.out().join("runs"));
        let killed = || -> Result<()> {
            writes(&machine, "1").start()?;
            until("the waiter", LIMIT, || Ok(machine.inspect(WAITER).is_ok().then_some(())))?;
            let journal = journal_of(&machine)?;
            let pid = until("the waiter's process", LIMIT, || {
                Ok(machine.inspect(WAITER)?["State"]["Pid"].as_i64().filter(|pid| *pid > 1))
            })?;
            noted(&journal, line)?;
            // Of the last line it may be gone already.
            let _ = machine.signal(pid, "KILL");
            let end = until("the action's end", LIMIT, || {
                Ok(Some(machine.inspect(ACTION)?["State"].clone()).filter(|state| state["Status"] == "exited"))
            })?;
            machine.docker(&["rm", "-f", ACTION])?;
            nothing_left(&machine)?;
            let (code, runs) = (end["ExitCode"].as_i64(), runs(&machine));
            // Before the word a handoff may see that its waiter is gone, and fails.
            let failed = line == "armed" && code == Some(1) && runs == 0;
            ensure!(failed || code == Some(0) && runs == 1, "exit code {code:?}, it ran {runs} times");
            Ok(())
        };
        killed().with_context(|| format!("killed at {line}"))?;
    }
    Ok(())
}

fn served(captain: &Captain, wait: &str, own_nerdctl: bool) -> Result<Agent> {
    let mut volumes = vec![format!("{}:/out", captain.out().display())];
    let mut environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": wait});
    let mut image = "waitdaemon:dev";
    if own_nerdctl {
        volumes = own_volumes(captain);
        environment["NERDCTL_HOST"] = "false".into();
        image = "waitdaemon:dev-nerdctl";
    }
    let action = json!({"image": image, "volumes": volumes, "command": ["sh", "-c", RUN], "environment": environment});
    Agent::start(captain, Runtime::Containerd, &actions(captain, action)?)
}

/// The waiter's process and its journal, as we reach them, once both are there.
fn waiter_on(captain: &Captain) -> Result<(i64, PathBuf)> {
    until("the waiter", LIMIT, || {
        let Ok(seen) = captain.inspect(WAITER) else { return Ok(None) };
        let pid = seen["Process"]["Pid"].as_i64().filter(|pid| *pid > 1);
        let folder = seen["Labels"]["nerdctl/state-dir"].as_str();
        let journal = |folder: &str| format!("/proc/{}/root{folder}/waitdaemon-journal", captain.init()).into();
        Ok(pid.zip(folder.map(journal)))
    })
}

fn killed_at_each_line_on_captain(in_host: bool) -> Result<()> {
    let captain = captain()?;
    if !in_host {
        captain.load(&lab::paths::root().join("dist/waitdaemon-nerdctl.tar"))?;
    }
    for line in LINES {
        killed_at(&captain, in_host, line).with_context(|| format!("killed at {line}"))?;
    }
    Ok(())
}

fn killed_at(captain: &Captain, in_host: bool, line: &str) -> Result<()> {
    let _ = fs::remove_file(captain.out().join("runs"));
    let agent = served(captain, "1", !in_host)?;
    let (pid, journal) = waiter_on(captain)?;
    noted(&journal, line)?;
    let _ = captain.signal(pid, "KILL");
    let report = agent.final_report(LIMIT)?;
    let (failed, ran) = (line == "armed" && report.state == "FAILED", report.state == "SUCCESS");
    ensure!(failed || ran, "reported {}: {}", report.state, agent.log());
    if failed {
        let _ = captain.nerdctl(&["rm", "-f", ACTION]);
    }
    captain_nothing_left(captain).with_context(|| agent.log())?;
    ensure!(runs(captain) == usize::from(ran), "{}: it ran {} times", report.state, runs(captain));
    Ok(())
}

/// Puts a program before the CNI plugin that makes the bridge; `$real` is the plugin.
fn before_the_bridge(captain: &Captain, script: &str) -> Result<()> {
    let whole = format!("#!/bin/sh\nreal=/opt/cni/bin/bridge.lab\n{script}\nexec $real\n");
    fs::write(captain.out().join("bridge"), whole)?;
    let install = "mv /opt/cni/bin/bridge /opt/cni/bin/bridge.lab && cp \"$1\" /opt/cni/bin/bridge && chmod 755 /opt/cni/bin/bridge";
    let from = captain.out().join("bridge");
    let done = captain.command("sh").args(["-c", install, "sh"]).arg(from).status()?;
    ensure!(done.success(), "cannot put a program before the bridge");
    Ok(())
}

/// The user container's first network fails, as one without a free address does.
fn a_network_that_fails_once() -> Result<()> {
    let captain = captain()?;
    let agent = served(&captain, "3", false)?;
    ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
    // From now on only the user container gets one.
    before_the_bridge(
        &captain,
        r#"if [ "$CNI_COMMAND" = ADD ] && mkdir /run/failed-once 2> /dev/null; then
  echo '{"cniVersion": "1.0.0", "code": 999, "msg": "failed to allocate for range 0: no IP addresses available in range set: 10.4.0.1-10.4.0.254"}'
  exit 1
fi"#,
    )?;
    captain_nothing_left(&captain).with_context(|| format!("{:?}", captain_log(&captain)))?;
    let failed = captain.command("test").args(["-d", "/run/failed-once"]).status()?.success();
    ensure!(failed, "no network failed");
    ensure!(runs(&captain) == 1, "it ran {} times", runs(&captain));
    drop(agent);
    Ok(())
}

/// containerd is stopped when the agent has seen the action's end and removes its network, until the agent has reported:
/// it could not delete the container, and reports SUCCESS all the same.
fn the_agent_cannot_delete() -> Result<()> {
    let bench = Bench::new()?;
    let there = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", bench.captain.init()));
    let wait = r#"if [ "$CNI_COMMAND" = DEL ] && mkdir /run/deleting 2> /dev/null; then
  while [ ! -e /run/delete ]; do sleep 0.05; done
fi"#;
    before_the_bridge(&bench.captain, wait)?;
    let agent = bench.served(NO_FAULT)?;
    until("the agent to remove the network", LIMIT, || Ok(there("/run/deleting").exists().then_some(())))?;
    bench.systemctl(&["kill", "--kill-whom=main", "--signal=STOP"])?;
    fs::write(there("/run/delete"), "")?;
    let report = agent.final_report(LIMIT);
    bench.systemctl(&["kill", "--kill-whom=main", "--signal=CONT"])?;
    let report = report?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    let mut said = Vec::new();
    let ran = until("the run", LATE, || {
        let now = captain_log(&bench.captain);
        said = if now.is_empty() { std::mem::take(&mut said) } else { now };
        Ok((bench.runs() > 0).then_some(()))
    });
    ran.with_context(|| format!("{said:?}"))?;
    bench.nothing_left()?;
    ensure!(bench.runs() == 1, "it ran {} times", bench.runs());
    ensure!(
        agent.log().contains("failed to delete container"),
        "the agent could delete its container: {}",
        agent.log()
    );
    Ok(())
}

/// The agent takes 6 s to remove the action's network, and reports then: WAIT_SECONDS count from there.
fn the_agent_is_slow_before_its_report() -> Result<()> {
    let captain = captain()?;
    // The first removal is the action's; nerdctl removes before it adds, too.
    before_the_bridge(&captain, r#"if [ "$CNI_COMMAND" = DEL ] && mkdir /run/slow 2> /dev/null; then sleep 6; fi"#)?;
    let agent = served(&captain, "2", false)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    captain_nothing_left(&captain)?;
    let waited = ran_at(&captain)? - report.time;
    ensure!((1.0..30.0).contains(&waited), "it ran {waited:.2} s after the report");
    Ok(())
}

/// The agent of Tinkerbell v0.23 deletes the container of an action that failed, too: that it is gone is no evidence.
fn a_failed_action_that_was_deleted() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.served(Rule::first("run --detach", "hold-after"))?;
    bench.held()?;
    until("the waiter to be armed", LIMIT, || Ok(bench.waiter_said(|line| line["message"] == "armed").then_some(())))?;
    let ((id, action), (_, waiter)) = (bench.running(ACTION)?, bench.running(WAITER)?);
    // The waiter sees nothing in between.
    bench.captain.signal(waiter, "STOP")?;
    bench.captain.signal(action, "KILL")?;
    ensure!(agent.final_report(LIMIT)?.state == "FAILED", "{}", agent.log());
    // nerdctl cannot: "cannot determine networking options from nil spec.Annotations" (2.2.1).
    let socket = format!("/proc/{}/root/run/containerd/containerd.sock", bench.captain.init());
    let delete = ["--address", &socket, "--namespace", "tinkerbell", "containers", "delete", &id];
    let deleted = lab::nest::output(Command::new("ctr").args(delete))?;
    ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    bench.captain.signal(waiter, "CONT")?;
    bench.nothing_left()?;
    ensure!(bench.runs() == 0, "it ran although the action was killed");
    drop(agent);
    Ok(())
}

/// A machine that is switched off during the wait goes down as fast as one without a waiter, which takes 0.3 s.
fn a_power_off_does_not_wait() -> Result<()> {
    let mut captain = captain()?;
    let agent = served(&captain, "600", false)?;
    ensure!(agent.final_report(LIMIT)?.state == "SUCCESS", "{}", agent.log());
    drop(agent);
    until("the waiter to wait", LIMIT, || {
        Ok(captain_log(&captain).iter().any(|line| line["wait_seconds"].is_number()).then_some(()))
    })?;
    let begin = Instant::now();
    let _ = lab::nest::output(captain.command("systemctl").arg("poweroff"))?;
    captain.wait_for_end(LIMIT).with_context(|| captain.logs())?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(4), "the machine took {took:?} to go down");
    Ok(())
}
