//! The user container runs if and only if the action succeeded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine, Variant, output};
use lab::until::until;
use serde_json::{Value, json};

use crate::faults::docker::Proxy;
use crate::world::{
    ACTION, Action, LIMIT, SOCKET, USER, WAITER, await_event, count, exit_code, load, log, machine, machine_variant,
    nothing_left, started_once_after,
};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        success_runs_it_after_the_wait,
        a_tag_that_moves_changes_nothing,
        action_killed_after_the_waiter_is_armed,
        action_removed_before_the_waiter_is_armed,
        a_waiter_that_cannot_be_armed_clears_up,
        stop_of_the_waiter_cancels,
        interrupt_of_the_waiter_cancels,
        waiter_started_by_hand_refuses,
        engine_restarts_during_the_wait,
        the_waiter_has_the_least_it_needs,
        the_waiter_reaches_the_socket_through_pid_1,
        the_wait_ends_on_time,
    ]
}

fn success_runs_it_after_the_wait(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "2").command(&["true"]).run_well()?;
    ensure!(said.err.is_empty(), "warnings: {said:?}");
    started_once_after(&machine, 2.0)?;
    nothing_left(&machine)
}

/// While the waiter waits, IMAGE's tag is given to another image and waitdaemon's own is removed.
fn a_tag_that_moves_changes_nothing(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    load(&machine, "cmd")?;
    let script = ["sh", "-c", "echo right"];
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "3").command(&script).run_well()?;
    let verified = machine.inspect(USER)?["Image"].clone();
    machine.docker(&["tag", "with-cmd:1", "alpine:latest"])?;
    machine.docker(&["tag", "with-cmd:1", "waitdaemon:dev"])?;
    let moved = machine.docker(&["image", "inspect", "-f", "{{.Id}}", "alpine"])?;
    ensure!(verified != moved, "the tag did not move");
    ensure!(machine.inspect(USER)?["Image"] == verified, "the user container's image moved");
    started_once_after(&machine, 3.0)?;
    ensure!(exit_code(&machine, USER)? == 0);
    nothing_left(&machine)
}

/// The action is killed between "armed" and its own exit: the engine's answer to the waiter's start is held.
fn action_killed_after_the_waiter_is_armed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let proxy = Proxy::start(&machine, ("POST", "/start", 1), "hold-after")?;
    proxy.action(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).start()?;
    proxy.held()?;
    until("the waiter to be armed", LIMIT, || Ok(is_armed(&machine)?.then_some(())))?;
    let pid = machine.inspect(ACTION)?["State"]["Pid"].as_i64().unwrap_or_default();
    ensure!(pid > 1, "the action has ended");
    machine.signal(pid, "KILL")?;
    ensure!(await_event(&machine, "die", ACTION)?.exit_code == Some(137));
    machine.docker(&["rm", "-f", ACTION])?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 0, "the user container ran although the action was killed");
    Ok(())
}

/// The agent may remove an action by force. A waiter that was started and then finds no action clears
/// all away: its first request is held meanwhile.
fn action_removed_before_the_waiter_is_armed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let proxy = Proxy::start(&machine, ("POST", "/wait", 1), "hold")?;
    proxy.action(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).start()?;
    proxy.held()?;
    machine.docker(&["rm", "-f", ACTION])?;
    ensure!(await_event(&machine, "die", ACTION)?.exit_code == Some(137));
    proxy.go()?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 0, "the user container ran although the action was removed");
    Ok(())
}

/// Action and user container are removed by somebody while the waiter's question for the latter is held.
fn a_waiter_that_cannot_be_armed_clears_up(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let proxy = Proxy::start(&machine, ("GET", "a0-user/json", 1), "hold")?;
    proxy.action(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "0").command(&["true"]).start()?;
    proxy.held()?;
    machine.docker(&["rm", "-f", ACTION, USER])?;
    proxy.go()?;
    nothing_left(&machine)
}

fn is_armed(machine: &Machine) -> Result<bool> {
    Ok(log(machine, WAITER)?.0.iter().any(|line| line["message"] == "armed"))
}

fn stop_of_the_waiter_cancels(engine: Engine) -> Result<()> {
    cancels(engine, &["stop", WAITER])
}

fn interrupt_of_the_waiter_cancels(engine: Engine) -> Result<()> {
    cancels(engine, &["kill", "--signal", "INT", WAITER])
}

/// Within 2 s nothing is left; a wait of 4 s would have been over soon after.
fn cancels(engine: Engine, how: &[&str]) -> Result<()> {
    let machine = machine(engine)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "4").command(&["true"]).run_well()?;
    let begin = Instant::now();
    // The waiter may be gone before docker stop looks at it again, so docker's own word does not count.
    output(machine.docker_command().args(how))?;
    nothing_left(&machine)?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    ensure!(count(&machine, "start", USER)? == 0, "the user container ran");
    Ok(())
}

/// The table of docs/security.md.
fn the_waiter_has_the_least_it_needs(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "60").command(&["true"]).run_well()?;
    let waiter = machine.inspect(WAITER)?;
    let (host, config) = (&waiter["HostConfig"], &waiter["Config"]);
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    ensure!(host["CapDrop"] == json!(["ALL"]) && empty(&host["CapAdd"]) && host["Privileged"] == false, "{host}");
    ensure!(host["NetworkMode"] == "none" && host["ReadonlyRootfs"] == true && host["PidMode"] == "", "{host}");
    ensure!(host["SecurityOpt"] == json!(["no-new-privileges", "label=disable"]), "{host}");
    let mounts = waiter["Mounts"].as_array().into_iter().flatten();
    let mut places: Vec<&str> = mounts.clone().filter_map(|mount| mount["Destination"].as_str()).collect();
    places.sort_unstable();
    ensure!(places == ["/journal", "/run/engine", "/var/run/docker.sock"], "{waiter}");
    let written = |mount: &&Value| mount["RW"] == true;
    ensure!(mounts.filter(written).all(|mount| mount["Destination"] == "/journal"), "{waiter}");
    ensure!(!config["Env"].to_string().contains("IMAGE"), "{config}");
    let script = "readlink /proc/1/ns/net /proc/$1/ns/net; sed -n 's/^ *\\([^ ]*\\):.*/\\1/p' /proc/$1/net/dev";
    let pid = waiter["State"]["Pid"].to_string();
    let said = output(machine.command("sh").args(["-c", script, "sh", &pid]))?;
    let text = String::from_utf8(said.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(
        matches!(lines[..], [of_init, own, "lo"] if of_init != own),
        "a network namespace of its own, with nothing but lo: {text}"
    );
    Ok(())
}

/// No volume leads to the socket: the waiter has the host's PIDs and one capability, and no mount.
fn the_waiter_reaches_the_socket_through_pid_1(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = Action::new(&machine).without_socket().env("IMAGE", "alpine").env("WAIT_SECONDS", "2");
    action.command(&["true"]).run_well()?;
    let waiter = machine.inspect(WAITER)?;
    let host = &waiter["HostConfig"];
    ensure!(host["CapDrop"] == json!(["ALL"]) && host["CapAdd"].to_string().contains("SYS_PTRACE"), "{host}");
    ensure!(host["CapAdd"].as_array().is_some_and(|all| all.len() == 1) && host["Privileged"] == false, "{host}");
    ensure!(host["NetworkMode"] == "none" && host["PidMode"] == "host", "{host}");
    let mounts = waiter["Mounts"].as_array().context("no mounts")?;
    ensure!(mounts.len() == 1 && mounts[0]["Destination"] == "/journal", "{waiter}");
    started_once_after(&machine, 2.0)?;
    nothing_left(&machine)
}

/// Within 0.1 s of WAIT_SECONDS and what a start takes: the best of some tries, for the machine is busy.
fn the_wait_ends_on_time(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let mut all = Vec::new();
    for _ in 0..8 {
        machine.docker(&[
            "create",
            "--name",
            "plain",
            "--network",
            "bridge",
            "--privileged",
            "--pid",
            "host",
            "alpine",
            "true",
        ])?;
        let begin = Instant::now();
        machine.docker(&["start", "plain"])?;
        let start = begin.elapsed().as_secs_f64();
        machine.docker(&["rm", "-f", "plain"])?;
        let (deaths, starts) = (times(&machine, "die", ACTION)?.len(), times(&machine, "start", USER)?.len());
        Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", "1").command(&["true"]).run_well()?;
        nothing_left(&machine)?;
        let (died, started) = (times(&machine, "die", ACTION)?[deaths], times(&machine, "start", USER)?[starts]);
        let late = started - died - 1.0 - start;
        all.push(format!("{late:.3}"));
        ensure!(started - died >= 1.0, "started before the wait was over");
        if late <= 0.1 {
            return Ok(());
        }
    }
    anyhow::bail!("later than WAIT_SECONDS and a start, in seconds: {}", all.join(", "))
}

fn times(machine: &Machine, action: &str, name: &str) -> Result<Vec<f64>> {
    let events = machine.events()?.into_iter();
    Ok(events.filter(|event| event.action == action && event.name == name).map(|event| event.time).collect())
}

/// Where containers outlive a restart of the engine, so does the wait; the engine makes a new socket.
fn engine_restarts_during_the_wait(engine: Engine) -> Result<()> {
    let machine = machine_variant(engine, Variant::LiveRestore)?;
    let command = ["sh", "-c", "echo run >> /out/runs"];
    let out = format!("{}:/out", machine.out().display());
    let action = Action::new(&machine).flags(&["-v", &out]).env("IMAGE", "alpine").env("WAIT_SECONDS", "4");
    action.command(&command).run_well()?;
    machine.kill_engine("TERM")?;
    machine.start_engine()?;
    ensure!(!machine.out().join("runs").exists(), "the wait was over before the engine was back");
    nothing_left(&machine)?;
    ensure!(std::fs::read_to_string(machine.out().join("runs"))? == "run\n", "it must run exactly once");
    Ok(())
}

fn waiter_started_by_hand_refuses(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let run = ["run", "--rm", "-v", SOCKET, "--entrypoint", "/waiter", "waitdaemon:dev", "reboot"];
    let said = output(machine.docker_command().args(run))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(2) && text.contains("not by hand"), "{}: {text}", said.status);
    nothing_left(&machine)
}
