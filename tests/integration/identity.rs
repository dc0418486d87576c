//! Which container are we? The answer is right or a failure, never another container.

use anyhow::{Context, Result, bail, ensure};
use lab::machine::{Machine, Variant, output};
use lab::system::System;
use serde_json::Value;

use crate::case;
use crate::cases::{ON_CONTAINERD, ON_DOCKER, ON_DOCKER_MAIN, Systems};
use crate::fidelity::INSIDE;
use crate::world::{
    ACTION, Action, SOCKET, USER, WAITER, load, machine_variant, nothing_left, nothing_there,
    own_image_with_nerdctl, own_program, started_once_after,
};

/// With the cgroups of this machine; HookOS always has cgroup v2 only.
const ON_CGROUP_V1: Systems = Systems::on(&[System::DockerOld, System::DockerNew]);

/// Runs the action with these flags and checks that the user container is a copy of this action's
/// own.
fn copied(machine: &Machine, flags: &[&str]) -> Result<Value> {
    Action::alpine(machine).flags(flags).wait("30").env("MARK", "mine").run_well()?;
    let user = machine.inspect(USER)?;
    let environment = user["Config"]["Env"].as_array().context("no environment")?;
    ensure!(
        environment.iter().any(|entry| entry == "MARK=mine"),
        "a copy of another container: {user}"
    );
    ensure!(user["Config"]["Labels"]["waitdaemon.action"] == ACTION);
    Ok(user)
}

/// Starts another container that runs this; returns its ID.
fn decoy(machine: &Machine, flags: &[&str], run: &[&str]) -> Result<String> {
    machine.engine(&[&["run", "-d", "--name", "decoy", "-e", "MARK=decoy"], flags, run].concat())
}

case!(network_host, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--network", "host"])?;
    ensure!(user["HostConfig"]["NetworkMode"] == "host");
    Ok(())
});

case!(network_none, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--network", "none"])?;
    ensure!(user["HostConfig"]["NetworkMode"] == "none");
    Ok(())
});

case!(custom_hostname, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--hostname", "web"])?;
    ensure!(user["Config"]["Hostname"] == "web");
    Ok(())
});

case!(uts_host, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--uts", "host"])?;
    ensure!(user["HostConfig"]["UTSMode"] == "host");
    Ok(())
});

case!(private_pid, ON_DOCKER_MAIN, |machine: Shared| {
    let action = Action::alpine(&machine).with_own_pids().flags(&["--privileged=false"]).wait("0");
    action.command(&["true"]).run_well()?;
    started_once_after(&machine, 0.0)?;
    nothing_left(&machine)
});

case!(read_only_root, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--read-only"])?;
    ensure!(user["HostConfig"]["ReadonlyRootfs"] == true);
    Ok(())
});

case!(unprivileged, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(
        &machine,
        &["--privileged=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"],
    )?;
    ensure!(user["HostConfig"]["CapDrop"][0] == "ALL" && user["HostConfig"]["Privileged"] == false);
    Ok(())
});

case!(no_log_driver, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--log-driver", "none"])?;
    ensure!(user["HostConfig"]["LogConfig"]["Type"] == "none");
    Ok(())
});

case!(terminal, ON_DOCKER_MAIN, |machine: Shared| {
    let user = copied(&machine, &["--tty"])?;
    ensure!(user["Config"]["Tty"] == true);
    Ok(())
});

// The Go waitdaemon starts a copy of the other container here.
case!(hostname_is_another_containers_name, ON_DOCKER_MAIN, |machine: Shared| {
    decoy(&machine, &[], &["alpine", "sleep", "1000"])?;
    copied(&machine, &["--hostname", "decoy"]).map(drop)
});

// mountinfo then names only the other container.
case!(network_of_another_container, ON_DOCKER_MAIN, |machine: Shared| {
    decoy(&machine, &[], &["alpine", "sleep", "1000"])?;
    let user = copied(&machine, &["--network", "container:decoy"])?;
    let mode = user["HostConfig"]["NetworkMode"].as_str().unwrap_or_default();
    ensure!(mode.starts_with("container:"), "{mode}");
    Ok(())
});

// No file of the engine is mounted and the hostname does not help; on cgroup v1 the cgroup remains.
case!(every_trace_hidden, ON_DOCKER_MAIN, |machine: Shared| {
    let hide = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]
        .map(|path| format!("/etc/os-release:{path}"));
    let flags = [
        "--hostname",
        "x",
        "--cgroupns",
        "private",
        "-v",
        &hide[0],
        "-v",
        &hide[1],
        "-v",
        &hide[2],
    ];
    copied(&machine, &flags)?;
    Ok(())
});

// The other container prints everything that our log says and lends us its network. It is the only
// candidate and echoes the mark, but it does not run our command line.
case!(another_container_repeats_the_log, ON_DOCKER_MAIN, |machine: Shared| {
    let (logs, file) = if machine.system() == System::HookOS {
        (machine.syslog_file(), "/logs")
    } else {
        (machine.folder().join("docker/containers"), "/logs/*/*-json.log")
    };
    let script = format!("while :; do cat {file} 2> /dev/null | grep handoff; usleep 20000; done");
    let volume = format!("{}:/logs", logs.display());
    decoy(&machine, &["-v", &volume, "--log-driver", "none"], &["alpine", "sh", "-c", &script])?;
    copied(&machine, &["--network", "container:decoy", "--cgroupns", "private"]).map(drop)
});

// The other container lends us its network, so mountinfo names it, and its command line is exactly
// ours. But our output does not come from it.
case!(another_container_with_our_command_line, ON_DOCKER_MAIN, |machine| {
    load(&machine, "decoy")?;
    decoy(&machine, &[], &["decoy:1"])?;
    copied(&machine, &["--network", "container:decoy"]).map(drop)
});

// A process that reaches the engine without being one of its containers: the machine itself.
case!(not_a_container_of_this_engine, ON_DOCKER_MAIN, |machine: Shared| {
    let socket = format!("unix://{}", machine.run_path("docker.sock"));
    let mut program = machine.command(own_program());
    let said = output(program.env_clear().env("IMAGE", "alpine").env("DOCKER_HOST", &socket))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(
        said.status.code() == Some(1)
            && text.contains("this container is not among those of Docker Engine at"),
        "{}: {text}",
        said.status
    );
    nothing_there(&machine)
});

/// Combinations of what moves, hides or fakes the usual traces.
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
    &[
        "--userns",
        "host",
        "--network",
        "host",
        "--uts",
        "host",
        "--pid",
        "host",
        "--cgroupns",
        "private",
    ],
    &["--network", "container:decoy", "--pid", "container:decoy", "--cgroupns", "private"],
    &[
        "--network",
        "container:decoy",
        "--pid",
        "host",
        "--cgroupns",
        "private",
        "--log-driver",
        "none",
    ],
    &["--network", "host", "--uts", "host", "--cgroupns", "private", "--read-only"],
    &["--hostname", "DECOY-ID", "--cgroupns", "private", "--network", "none"],
    &[
        "--hostname",
        "DECOY-ID",
        "--cgroupns",
        "private",
        "--network",
        "none",
        "--log-driver",
        "none",
        "HIDE",
    ],
    &["--cgroup-parent", "/CGROUP/DECOY-ID", "HIDE"],
];

// HookOS is on cgroup v2 anyhow.
case!(matrix_as_usual, ON_DOCKER, |system: System| matrix(system, Variant::Usual));

case!(matrix_on_cgroup_v2, ON_CGROUP_V1, |system: System| matrix(system, Variant::CgroupV2));

case!(matrix_with_user_namespaces, ON_DOCKER, |system: System| matrix(
    system,
    Variant::UserNamespaces
));

/// Checks each combination: the right container or a clear failure, never another container.
/// Combinations that the engine itself refuses do not count.
fn matrix(system: System, variant: Variant) -> Result<()> {
    let machine = machine_variant(system, variant)?;
    machine.engine(&["network", "create", "front"])?;
    let decoy = decoy(&machine, &["--ipc", "shareable"], &["alpine", "sleep", "1000"])?;
    let socket = machine.run_path("docker.sock");
    ensure!(machine.command("chmod").args(["666", &socket]).status()?.success(), "chmod");
    let (mut right, mut refused) = (0, 0);
    for flags in MATRIX {
        let hide = ["hostname", "hosts", "resolv.conf"]
            .map(|file| format!("--volume=/etc/os-release:/etc/{file}"));
        let flags = flags.iter().flat_map(|flag| {
            if *flag == "HIDE" { hide.to_vec() } else { vec![(*flag).to_owned()] }
        });
        let flags: Vec<String> = flags
            .map(|flag| flag.replace("DECOY-ID", &decoy[..12]).replace("CGROUP", machine.cgroup()))
            .collect();
        let mut run = machine.engine_command();
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
        ]);
        let said =
            output(run.args(["-e", "MARK=mine"]).args(&flags).args(["waitdaemon:dev", "true"]))?;
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        match said.status.code() {
            Some(0) => {
                let user = machine.inspect(USER)?;
                let environment = user["Config"]["Env"].to_string();
                ensure!(
                    environment.contains("\"MARK=mine\""),
                    "{flags:?}: a copy of another container: {user}"
                );
                right += 1;
            }
            // The docker command's own code for a request that the engine refuses.
            Some(125) => refused += 1,
            _ => bail!("{flags:?}: {text}"),
        }
        clear(&machine)?;
    }
    // With user namespaces the engine refuses to share some of the host's or another container's.
    let expected = if variant == Variant::UserNamespaces { 4 } else { 0 };
    ensure!(refused == expected, "the engine refused {refused} combinations, not {expected}");
    ensure!(right + refused == MATRIX.len(), "{right} right");
    Ok(())
}

fn clear(machine: &Machine) -> Result<()> {
    for name in [WAITER, USER, ACTION] {
        output(machine.engine_command().args(["rm", "-f", name]))?;
    }
    Ok(())
}

/// The outcome of a combination.
#[derive(PartialEq)]
enum Is {
    Right,
    /// The handoff fails: nothing proves which container it is.
    Unproved,
}

/// What moves, hides or fakes the usual traces, with the host's nerdctl (`HOST`) or one inside the
/// container (`OWN`).
const MATRIX_OF_NERDCTL: [(&[&str], Is); 18] = [
    (&["HOST"], Is::Right),
    (&["HOST", "--network=host"], Is::Right),
    (&["HOST", "--network=none"], Is::Right),
    (&["HOST", "--network=container:decoy"], Is::Right),
    (&["HOST", "--uts=host"], Is::Right),
    (&["HOST", "--network=host", "--hostname=decoy"], Is::Right),
    (&["HOST", "--cgroupns=private"], Is::Right),
    (&["HOST", "--cgroupns=host"], Is::Right),
    (&["HOST", "--hostname=DECOY-ID"], Is::Right),
    (&["HOST", "--read-only", "--log-driver=none"], Is::Right),
    (
        &["HOST", "--ipc=container:decoy", "--network=container:decoy", "--cgroupns=private"],
        Is::Right,
    ),
    (&["OWN", "--cgroupns=host"], Is::Right),
    (&["OWN", "--cgroupns=private"], Is::Right),
    (&["OWN", "--cgroupns=private", "--hostname=DECOY-ID"], Is::Right),
    (
        &["OWN", "--cgroupns=private", "--pid=container:decoy", "--network=container:decoy"],
        Is::Right,
    ),
    (&["OWN", "--cgroupns=private", "--network=host", "--hostname=decoy"], Is::Right),
    (&["OWN", "--cgroupns=host", "--network=host", "--log-driver=none"], Is::Right),
    (
        &["OWN", "--cgroupns=private", "--network=container:decoy", "--log-driver=none"],
        Is::Unproved,
    ),
];

case!(matrix_of_nerdctl, ON_CONTAINERD, |machine| {
    machine.load(&own_image_with_nerdctl())?;
    load(&machine, "decoy")?;
    // Its command line is that of waitdaemon without arguments.
    let decoy = decoy(&machine, &["--ipc=shareable", "--privileged"], &["decoy:1"])?;
    for (flags, expected) in &MATRIX_OF_NERDCTL {
        let (image, needed) = match flags[0] {
            "HOST" => ("waitdaemon:dev", vec!["--privileged", "--pid=host"]),
            _ => ("waitdaemon:dev-nerdctl", INSIDE.to_vec()),
        };
        let flags: Vec<String> =
            flags[1..].iter().map(|flag| flag.replace("DECOY-ID", &decoy[..12])).collect();
        let mut run = machine.engine_command();
        run.args(["run", "-d", &format!("--name={ACTION}")]).args(&needed).args(&flags);
        run.args(["--env=IMAGE=alpine", "--env=WAIT_SECONDS=60", "--env=MARK=mine", image]);
        let started = output(&mut run)?;
        ensure!(
            started.status.success(),
            "{flags:?}: {}",
            String::from_utf8_lossy(&started.stderr)
        );
        let code = machine.engine(&["wait", ACTION])?;
        match (code.as_str(), expected) {
            ("0", Is::Right) => {
                let user = machine.inspect(USER)?;
                let environment = user["Spec"]["process"]["env"].to_string();
                ensure!(
                    environment.contains("\"MARK=mine\""),
                    "{flags:?}: a copy of another container: {user}"
                );
            }
            ("1", Is::Unproved) => {
                ensure!(!machine.has(USER), "{flags:?}: a user container is left")
            }
            _ => bail!("{flags:?}: exit code {code}: {:?}", machine.log_of(ACTION)),
        }
        clear(&machine)?;
    }
    Ok(())
});
