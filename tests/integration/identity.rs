//! Which container are we? Right, or a failure; never another one.

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine};
use serde_json::Value;

use crate::world::{ACTION, Action, SOCKET, USER, load, machine, nothing_left, nothing_there, started_once_after};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        network_host,
        network_none,
        custom_hostname,
        uts_host,
        private_pid,
        read_only_root,
        unprivileged,
        no_log_driver,
        terminal,
        hostname_is_another_containers_name,
        network_of_another_container,
        every_trace_hidden,
        another_container_repeats_the_log,
        another_container_with_our_command_line,
        not_a_container_of_this_engine,
    ]
}

/// Runs the action with these flags and checks that the user container is a copy of this very one.
fn copied(engine: Engine, flags: &[&str], prepare: impl Fn(&Machine) -> Result<()>) -> Result<Value> {
    let machine = machine(engine)?;
    prepare(&machine)?;
    let action =
        Action::new(&machine).flags(flags).env("IMAGE", "alpine").env("WAIT_SECONDS", "30").env("MARK", "mine");
    action.run_well()?;
    let user = machine.inspect(USER)?;
    let environment = user["Config"]["Env"].as_array().context("no environment")?;
    ensure!(environment.iter().any(|entry| entry == "MARK=mine"), "a copy of another container: {user}");
    ensure!(user["Config"]["Labels"]["waitdaemon.action"] == ACTION);
    Ok(user)
}

fn simply(_: &Machine) -> Result<()> {
    Ok(())
}

fn network_host(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--network", "host"], simply)?;
    ensure!(user["HostConfig"]["NetworkMode"] == "host");
    Ok(())
}

fn network_none(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--network", "none"], simply)?;
    ensure!(user["HostConfig"]["NetworkMode"] == "none");
    Ok(())
}

fn custom_hostname(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--hostname", "web"], simply)?;
    ensure!(user["Config"]["Hostname"] == "web");
    Ok(())
}

fn uts_host(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--uts", "host"], simply)?;
    ensure!(user["HostConfig"]["UTSMode"] == "host");
    Ok(())
}

fn private_pid(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let run =
        ["run", "--name", ACTION, "-v", SOCKET, "-e", "IMAGE=alpine", "-e", "WAIT_SECONDS=0", "waitdaemon:dev", "true"];
    machine.docker(&run)?;
    started_once_after(&machine, 0.0)?;
    machine.docker(&["rm", ACTION])?;
    nothing_left(&machine)
}

fn read_only_root(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--read-only"], simply)?;
    ensure!(user["HostConfig"]["ReadonlyRootfs"] == true);
    Ok(())
}

fn unprivileged(engine: Engine) -> Result<()> {
    let user =
        copied(engine, &["--privileged=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"], simply)?;
    ensure!(user["HostConfig"]["CapDrop"][0] == "ALL" && user["HostConfig"]["Privileged"] == false);
    Ok(())
}

fn no_log_driver(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--log-driver", "none"], simply)?;
    ensure!(user["HostConfig"]["LogConfig"]["Type"] == "none");
    Ok(())
}

fn terminal(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--tty"], simply)?;
    ensure!(user["Config"]["Tty"] == true);
    Ok(())
}

/// The Go waitdaemon starts a copy of the other container here.
fn hostname_is_another_containers_name(engine: Engine) -> Result<()> {
    copied(engine, &["--hostname", "decoy"], |machine| {
        machine.docker(&["run", "-d", "--name", "decoy", "-e", "MARK=decoy", "alpine", "sleep", "1000"]).map(drop)
    })?;
    Ok(())
}

/// mountinfo then names the other container only.
fn network_of_another_container(engine: Engine) -> Result<()> {
    let user = copied(engine, &["--network", "container:decoy"], |machine| {
        machine.docker(&["run", "-d", "--name", "decoy", "-e", "MARK=decoy", "alpine", "sleep", "1000"]).map(drop)
    })?;
    let mode = user["HostConfig"]["NetworkMode"].as_str().unwrap_or_default();
    ensure!(mode.starts_with("container:"), "{mode}");
    Ok(())
}

/// No file of the engine's is mounted and the hostname says nothing; on cgroup v1 the cgroup is left.
fn every_trace_hidden(engine: Engine) -> Result<()> {
    let hide = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].map(|path| format!("/etc/os-release:{path}"));
    let flags = ["--hostname", "x", "--cgroupns", "private", "-v", &hide[0], "-v", &hide[1], "-v", &hide[2]];
    copied(engine, &flags, simply)?;
    Ok(())
}

/// A container that prints everything that our log says, and lends us its network: it is the only
/// candidate and echoes the mark, but it does not run our command line.
fn another_container_repeats_the_log(engine: Engine) -> Result<()> {
    copied(engine, &["--network", "container:decoy", "--cgroupns", "private"], |machine| {
        let logs = format!("{}:/logs", machine.out().with_file_name("docker/containers").display());
        let script = "while :; do cat /logs/*/*-json.log 2>/dev/null | grep handoff; usleep 20000; done";
        machine
            .docker(&[
                "run",
                "-d",
                "--name",
                "decoy",
                "-v",
                &logs,
                "-e",
                "MARK=decoy",
                "--log-driver",
                "none",
                "alpine",
                "sh",
                "-c",
                script,
            ])
            .map(drop)
    })?;
    Ok(())
}

/// It lends us its network, so mountinfo names it, and its command line is ours to the letter; but
/// what we say does not come from it.
fn another_container_with_our_command_line(engine: Engine) -> Result<()> {
    copied(engine, &["--network", "container:decoy"], |machine| {
        load(machine, "decoy")?;
        machine.docker(&["run", "-d", "--name", "decoy", "-e", "MARK=decoy", "decoy:1"]).map(drop)
    })?;
    Ok(())
}

/// A process that reaches the engine but is none of its containers: the machine itself.
fn not_a_container_of_this_engine(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let program = lab::paths::root().join("target/x86_64-unknown-linux-musl/release/waitdaemon");
    let said = lab::machine::output(machine.command(program).env_clear().env("IMAGE", "alpine"))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(1) && text.contains("none of the containers"), "{}: {text}", said.status);
    nothing_there(&machine)
}
