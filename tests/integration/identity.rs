//! Which container are we? Right, or a failure; never another one.

use anyhow::{Context, Result, ensure};
use lab::machine::{Engine, Machine, Variant};
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
        matrix_as_usual,
        matrix_on_cgroup_v2,
        matrix_with_user_namespaces,
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
    ensure!(
        said.status.code() == Some(1) && text.contains("none of the containers of Docker Engine at"),
        "{}: {text}",
        said.status
    );
    nothing_there(&machine)
}

/// What moves, hides or fakes the usual traces, and what they are combined to.
const MATRIX: [&[&str]; 22] = [
    &[],
    &["--network", "host"],
    &["--network", "none"],
    &["--network", "front"],
    &["--network", "container:decoy"],
    &["--uts", "host"],
    &["--pid", "host"],
    &["--pid", "container:decoy"],
    &["--ipc", "container:decoy"],
    &["--cgroupns", "private"],
    &["--cgroupns", "host"],
    &["--hostname", "decoy"],
    &["--read-only"],
    &["--userns", "host"],
    &["--userns", "host", "--privileged", "--pid", "host"],
    &["--userns", "host", "--network", "host", "--uts", "host", "--pid", "host", "--cgroupns", "private"],
    &["--network", "container:decoy", "--pid", "container:decoy", "--cgroupns", "private"],
    &["--network", "container:decoy", "--pid", "host", "--cgroupns", "private", "--log-driver", "none"],
    &["--network", "host", "--uts", "host", "--cgroupns", "private", "--read-only"],
    &["--hostname", "DECOY-ID", "--cgroupns", "private", "--network", "none"],
    &["--hostname", "DECOY-ID", "--cgroupns", "private", "--network", "none", "--log-driver", "none", "HIDE"],
    &["--cgroup-parent", "/CGROUP/DECOY-ID", "HIDE"],
];

fn matrix_as_usual(engine: Engine) -> Result<()> {
    matrix(engine, Variant::Usual)
}

fn matrix_on_cgroup_v2(engine: Engine) -> Result<()> {
    matrix(engine, Variant::CgroupV2)
}

fn matrix_with_user_namespaces(engine: Engine) -> Result<()> {
    matrix(engine, Variant::UserNamespaces)
}

/// Each combination: right, or a clear failure; never another container. What the engine itself refuses is none.
fn matrix(engine: Engine, variant: Variant) -> Result<()> {
    let machine = crate::world::machine_variant(engine, variant)?;
    machine.docker(&["network", "create", "front"])?;
    let run = ["run", "-d", "--name", "decoy", "--ipc", "shareable", "-e", "MARK=decoy", "alpine", "sleep", "1000"];
    let decoy = machine.docker(&run)?;
    ensure!(machine.command("chmod").args(["666", "/run/docker.sock"]).status()?.success(), "chmod");
    let (mut right, mut refused) = (0, 0);
    for flags in MATRIX {
        let hide = [
            "-v",
            "/etc/os-release:/etc/hostname",
            "-v",
            "/etc/os-release:/etc/hosts",
            "-v",
            "/etc/os-release:/etc/resolv.conf",
        ];
        let flags = flags.iter().flat_map(|flag| if *flag == "HIDE" { hide.to_vec() } else { vec![*flag] });
        let flags: Vec<String> =
            flags.map(|flag| flag.replace("DECOY-ID", &decoy[..12]).replace("CGROUP", machine.cgroup())).collect();
        let mut run = machine.docker_command();
        run.args([
            "run",
            "--name",
            ACTION,
            "-v",
            SOCKET,
            "-e",
            "IMAGE=alpine",
            "-e",
            "WAIT_SECONDS=60",
            "-e",
            "MARK=mine",
        ]);
        let said = lab::nest::output(run.args(&flags).args(["waitdaemon:dev", "true"]))?;
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        match said.status.code() {
            Some(0) => {
                let user = machine.inspect(USER)?;
                let environment = user["Config"]["Env"].to_string();
                ensure!(environment.contains("\"MARK=mine\""), "{flags:?}: a copy of another container: {user}");
                right += 1;
            }
            // The docker command's own code for what the engine does not take.
            Some(125) => refused += 1,
            _ => anyhow::bail!("{flags:?}: {text}"),
        }
        for name in [crate::world::WAITER, USER, ACTION] {
            lab::nest::output(machine.docker_command().args(["rm", "-f", name]))?;
        }
    }
    // With user namespaces the engine refuses to share some of the host's or another container's.
    let expected = if variant == Variant::UserNamespaces { 4 } else { 0 };
    ensure!(refused == expected, "the engine refused {refused} combinations, not {expected}");
    ensure!(right + refused == MATRIX.len(), "{right} right");
    Ok(())
}
