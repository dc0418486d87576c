//! After SUCCESS only a final answer stops the start: anything that may be transient is retried.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use lab::machine::{Machine, output};
use lab::until::until;

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_DOCKER_MAIN};
use crate::faults::docker::Proxy;
use crate::remembers::writes;
use crate::world::{
    ACTION, LIMIT, USER, WAITER, await_event, count, log, nothing_left, ran_once, runs,
};

case!(a_start_is_refused_five_times, ON_DOCKER_MAIN, |machine: Shared| {
    let proxy = Proxy::start_at(&machine, "POST", "{3}/start", "1,2,3,4,5", "500")?;
    proxy.action(&machine).wait("0").command(&["sleep", "20"]).run_well()?;
    await_event(&machine, "start", USER)?;
    let (_, said) = log(&machine, WAITER)?;
    let refusals =
        said.iter().filter(|line| line.to_string().contains("fault-proxy says 500")).count();
    ensure!(refusals == 1, "the same refusal is said once: {said:?}");
    machine.engine(&["kill", USER])?;
    until("five refusals", LIMIT, || {
        Ok((proxy.log().lines().filter(|line| *line == "fault").count() == 5).then_some(()))
    })?;
    ensure!(count(&machine, "start", USER)? == 1, "it started more than once");
    Ok(())
});

// The name resolves at the handoff, not at the start, and then again later.
case!(the_log_servers_name_does_not_resolve, ON_DOCKER_MAIN, |machine| {
    let hosts = |line: &str| -> Result<()> {
        let script = "grep -v logs.lab /etc/hosts > /run/hosts; echo \"$1\" >> /run/hosts; cat /run/hosts > /etc/hosts";
        ensure!(
            machine.command("sh").args(["-c", script, "sh", line]).status()?.success(),
            "cannot write /etc/hosts"
        );
        Ok(())
    };
    hosts("127.0.0.1 logs.lab")?;
    let driver = ["--log-driver", "syslog", "--log-opt", "syslog-address=udp://logs.lab:514"];
    // Longer than the engine caches names (Go, 5 s).
    let probe = |name: &str| {
        machine
            .engine(&[&["run", "--rm", "--name", name], &driver[..], &["alpine", "true"]].concat())
    };
    until("the name to be known", LIMIT, || Ok(probe("probe").is_ok().then_some(())))?;
    writes(&machine, "8").flags(&driver).run_well()?;
    hosts("# nobody")?;
    let engine_log = machine.folder().join("dockerd.log");
    let refused = || Ok(fs::read_to_string(&engine_log)?.contains("logs.lab").then_some(()));
    until("a start that is refused", LIMIT, refused)?;
    ensure!(runs(&machine) == 0, "it ran although its log driver cannot be set up");
    // The waiter's own lines take the same path; the console gets them as well.
    let said = |line: &str| {
        line.contains(&format!("waitdaemon {ACTION}: starting a container failed"))
            && line.contains("logs.lab")
    };
    until("the refusal in the kernel's log", LIMIT, || {
        Ok(kernel_log()?.lines().any(said).then_some(()))
    })?;
    hosts("127.0.0.1 logs.lab")?;
    nothing_left(&machine)?;
    ensure!(runs(&machine) == 1, "it ran {} times", runs(&machine));
    Ok(())
});

/// What the kernel's log contains now.
fn kernel_log() -> Result<String> {
    let said = output(&mut Command::new("dmesg"))?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Puts a script in front of the CNI plugin that makes the bridge; in it, `$real` is the plugin.
pub fn before_the_bridge(machine: &Machine, script: &str) -> Result<()> {
    let whole = format!("#!/bin/sh\nreal=/opt/cni/bin/bridge.lab\n{script}\nexec $real\n");
    fs::write(machine.out().join("bridge"), whole)?;
    let install = "mv /opt/cni/bin/bridge /opt/cni/bin/bridge.lab && cp \"$1\" /opt/cni/bin/bridge && chmod 755 /opt/cni/bin/bridge";
    let from = machine.out().join("bridge");
    let done = machine.command("sh").args(["-c", install, "sh"]).arg(from).status()?;
    ensure!(done.success(), "cannot put a program before the bridge");
    Ok(())
}

// The user container's first network fails, as it does when no address is free.
case!(a_network_that_fails_once, ON_CAPTAIN, |machine| {
    writes(&machine, "3").run_well()?;
    // From now on only the user container gets a network.
    before_the_bridge(
        &machine,
        r#"if [ "$CNI_COMMAND" = ADD ] && mkdir /run/failed-once 2> /dev/null; then
  echo '{"cniVersion": "1.0.0", "code": 999, "msg": "failed to allocate for range 0: no IP addresses available in range set: 10.4.0.1-10.4.0.254"}'
  exit 1
fi"#,
    )?;
    ran_once(&machine)?;
    let failed = machine.command("test").args(["-d", "/run/failed-once"]).status()?.success();
    ensure!(failed, "no network failed");
    Ok(())
});
