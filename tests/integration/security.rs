//! The waiter has only what it needs: the table of docs/security.md.

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, output};
use serde_json::{Value, json};

use crate::case;
use crate::cases::{ON_ALL, ON_DOCKER};
use crate::world::{
    Action, SOCKET, USER, WAITER, nothing_left, process, started_once_after, waits,
};

case!(the_waiter_has_the_least_it_needs, ON_ALL, |machine: Shared| {
    Action::alpine(&machine).wait("60").command(&["true"]).run_well()?;
    waits(&machine)?;
    let waiter = machine.inspect(WAITER)?;
    if machine.is_docker() {
        least_on_docker(&machine, &waiter)
    } else {
        least_on_containerd(&waiter)
    }
});

fn least_on_docker(machine: &Machine, waiter: &Value) -> Result<()> {
    let (host, config) = (&waiter["HostConfig"], &waiter["Config"]);
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    ensure!(
        host["CapDrop"] == json!(["ALL"]) && empty(&host["CapAdd"]) && host["Privileged"] == false,
        "{host}"
    );
    ensure!(
        host["NetworkMode"] == "none" && host["ReadonlyRootfs"] == true && host["PidMode"] == "",
        "{host}"
    );
    ensure!(host["SecurityOpt"] == json!(["no-new-privileges", "label=disable"]), "{host}");
    let mounts = waiter["Mounts"].as_array().into_iter().flatten();
    let mut places: Vec<&str> =
        mounts.clone().filter_map(|mount| mount["Destination"].as_str()).collect();
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

fn least_on_containerd(waiter: &Value) -> Result<()> {
    let spec = &waiter["Spec"];
    let capabilities = &spec["process"]["capabilities"];
    let mut bounding: Vec<&str> = capabilities["bounding"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    bounding.sort_unstable();
    ensure!(bounding == ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"], "{capabilities}");
    ensure!(
        capabilities["effective"].as_array().is_none_or(|all| all.len() == 3),
        "{capabilities}"
    );
    ensure!(
        spec["process"]["noNewPrivileges"] == true && spec["root"]["readonly"] == true,
        "{spec}"
    );
    ensure!(
        spec["linux"]["seccomp"].is_object() && spec["linux"]["maskedPaths"].is_array(),
        "{spec}"
    );
    let networks = waiter["Labels"]["nerdctl/networks"].as_str();
    ensure!(networks == Some("[\"none\"]"), "{networks:?}");
    let of_host = |mount: &Value| {
        mount["type"] == "bind"
            && !["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]
                .iter()
                .any(|file| mount["destination"] == *file)
    };
    let mounts: Vec<&Value> =
        spec["mounts"].as_array().into_iter().flatten().filter(|mount| of_host(mount)).collect();
    ensure!(mounts.is_empty(), "{mounts:?}");
    let variables = spec["process"]["env"].to_string();
    ensure!(!variables.contains("IMAGE") && !variables.contains("WAIT_SECONDS"), "{variables}");
    Ok(())
}

// A waiter that may have to end the machine has what reboot(2) requires, and no more, even if the
// action has another user.
case!(the_waiter_that_ends_the_machine, ON_ALL, |machine| {
    let own = |flags: &[&str]| {
        let action = Action::new(&machine).wait("600").command(&["reboot"]);
        let action = if flags.is_empty() { action } else { action.flags(flags) };
        action.run_well()?;
        waits(&machine)?;
        machine.inspect(WAITER)
    };
    let waiter = own(&[])?;
    if !machine.is_docker() {
        let bounding = &waiter["Spec"]["process"]["capabilities"]["bounding"];
        let mut names: Vec<&str> =
            bounding.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        names.sort_unstable();
        ensure!(
            names == ["CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"],
            "{names:?}"
        );
        machine.signal(process(&machine, WAITER)?, "TERM")?;
        return nothing_left(&machine);
    }
    let host = &waiter["HostConfig"];
    ensure!(host["CapAdd"].to_string().contains("SYS_BOOT") && host["PidMode"] == "host", "{host}");
    ensure!(
        host["CapAdd"].as_array().is_some_and(|all| all.len() == 1) && host["Privileged"] == false,
        "{host}"
    );
    machine.signal(process(&machine, WAITER)?, "TERM")?;
    nothing_left(&machine)?;
    let open = "chmod 666 $(readlink -f /var/run/docker.sock)";
    ensure!(machine.command_of_engine("sh")?.args(["-c", open]).status()?.success(), "{open}");
    let waiter = own(&["--user", "1000"])?;
    ensure!(waiter["Config"]["User"] == "0:0", "{}", waiter["Config"]);
    machine.signal(process(&machine, WAITER)?, "TERM")?;
    nothing_left(&machine)
});

// Mounts below the folder of the engine's socket do not reach the waiter.
case!(the_waiter_sees_no_mounts_below_the_sockets_folder, ON_DOCKER, |machine| {
    let script = "mkdir /run/below && mount -t tmpfs below /run/below";
    ensure!(machine.command_of_engine("sh")?.args(["-c", script]).status()?.success(), "{script}");
    for volume in [SOCKET, "/run:/var/run"] {
        Action::alpine(&machine)
            .volumes(vec![volume.to_owned()])
            .wait("60")
            .command(&["true"])
            .run_well()?;
        waits(&machine)?;
        let pid = machine.inspect(WAITER)?["State"]["Pid"].to_string();
        let mounts = output(machine.command("cat").arg(format!("/proc/{pid}/mountinfo")))?;
        let mounts = String::from_utf8_lossy(&mounts.stdout).into_owned();
        ensure!(mounts.contains("docker.sock") || mounts.contains("/var/run"), "{mounts}");
        ensure!(!mounts.contains("/below "), "{volume}: {mounts}");
        machine.engine(&["rm", "-f", WAITER, USER])?;
    }
    Ok(())
});

// No volume leads to the socket: the waiter has the host's PIDs, one capability and no mount.
case!(the_waiter_reaches_the_socket_through_pid_1, ON_DOCKER, |machine: Shared| {
    Action::alpine(&machine).without_socket().wait("2").command(&["true"]).run_well()?;
    let waiter = machine.inspect(WAITER)?;
    let host = &waiter["HostConfig"];
    ensure!(
        host["CapDrop"] == json!(["ALL"]) && host["CapAdd"].to_string().contains("SYS_PTRACE"),
        "{host}"
    );
    ensure!(
        host["CapAdd"].as_array().is_some_and(|all| all.len() == 1) && host["Privileged"] == false,
        "{host}"
    );
    ensure!(host["NetworkMode"] == "none" && host["PidMode"] == "host", "{host}");
    let mounts = waiter["Mounts"].as_array().context("no mounts")?;
    ensure!(mounts.len() == 1 && mounts[0]["Destination"] == "/journal", "{waiter}");
    started_once_after(&machine, 2.0)?;
    nothing_left(&machine)
});
