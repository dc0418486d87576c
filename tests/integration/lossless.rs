//! Lossless with the agent on containerd: what its containers have and nerdctl would set
//! differently.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::machine::{Variant, output};
use lab::system::System;

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_CAPTAINS, ON_DOCKER_NEW};
use crate::world::{
    ACTION, Action, RUN, USER, WAITER, machine_variant, nothing_left, nothing_there, ran_once,
};

// Volumes at paths where every container has its own mount, or where the agent adds one.
case!(volumes_on_usual_places, ON_CAPTAINS, |machine| {
    let out = machine.out().display().to_string();
    fs::create_dir_all(machine.out().join("run/inside"))?;
    let volumes = [
        "/dev:/dev".into(),
        format!("{out}/run:/run"),
        format!("{out}:/out"),
        format!("{out}/run:/ro:ro"),
        "/sys:/sys".into(),
        format!("{out}/./run/:/slash//"),
        format!("{out}:/z:z"),
    ];
    let script = "cat /proc/self/mountinfo > /out/mounts; ls -d /run/inside /ro/inside; touch /ro/x || touch /out/ran";
    Action::alpine(&machine).wait("0").volumes(volumes.into()).script(script).run_well()?;
    nothing_left(&machine)?;
    ensure!(
        machine.out().join("ran").exists(),
        "the read-only volume could be written, or nothing ran"
    );
    let mounts = fs::read_to_string(machine.out().join("mounts"))?;
    for target in ["/dev", "/run"] {
        let line =
            mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(target)).unwrap_or_default();
        ensure!(!line.contains("size=65536k"), "{target} is a new one, not the volume: {line}");
    }
    Ok(())
});

/// The path, the options and the propagation of a line of mountinfo, without the number of the peer
/// group.
fn shown(line: &str) -> String {
    let tagged = if line.contains(" master:") {
        "slave"
    } else if line.contains(" shared:") {
        "shared"
    } else {
        "private"
    };
    let mut fields = line.split(' ').skip(4).take(2).collect::<Vec<_>>();
    fields.push(tagged);
    fields.join(" ")
}

// The user container is compared with an action that runs the same image itself.
case!(what_the_agent_gives_arrives, ON_CAPTAINS, |machine| {
    let out = machine.out().display().to_string();
    // On a real CaptainOS systemd has made every mount shared.
    let shared =
        format!("mkdir -p {out}/s && mount -t tmpfs none {out}/s && mount --make-shared {out}/s");
    ensure!(machine.command("sh").args(["-c", &shared]).status()?.success());
    let seen = |image: &str, folder: &str| -> Result<(Vec<String>, String)> {
        let script = format!(
            "cat /proc/self/mountinfo > /out/{folder}.mounts; echo $HOSTNAME > /out/{folder}.name"
        );
        let volumes = [
            format!("{out}:/out"),
            format!("{out}/s:/ro:ro"),
            format!("{out}/s:/rw:rw"),
            "/tmp:/tmp:ro".into(),
        ];
        let action =
            Action::alpine(&machine).image(image).wait("0").env("HOSTNAME", "web-1.example.org");
        action.volumes(volumes.into()).script(&script).run_well()?;
        nothing_left(&machine)?;
        let text = fs::read_to_string(machine.out().join(format!("{folder}.mounts")))?;
        let of_interest = |line: &&str| {
            ["/run", "/ro", "/rw", "/tmp", "/out"]
                .contains(&line.split(' ').nth(4).unwrap_or_default())
        };
        let mut mounts: Vec<String> = text.lines().filter(of_interest).map(shown).collect();
        mounts.sort();
        Ok((mounts, fs::read_to_string(machine.out().join(format!("{folder}.name")))?))
    };
    let action = seen("alpine", "action")?;
    let user = seen("waitdaemon:dev", "user")?;
    ensure!(action == user, "the action has {action:?}, the user container {user:?}");
    ensure!(
        action.1 == "web-1.example.org\n" && action.0.iter().any(|mount| mount.ends_with("slave")),
        "{action:?}"
    );
    Ok(())
});

// A container made by hand with nerdctl, with every capability but not privileged.
case!(all_capabilities_are_not_privileged, ON_CAPTAIN, |machine: Shared| {
    let run = ["run", "--name", ACTION, "--pid", "host", "--cap-add", "ALL"];
    let variables = ["-e", "IMAGE=alpine", "-e", "WAIT_SECONDS=30"];
    machine.engine(&[&run[..], &variables[..], &["waitdaemon:dev", "true"]].concat())?;
    let user = machine.inspect(USER)?;
    let spec = &user["Spec"];
    ensure!(
        spec["process"]["capabilities"]["bounding"].as_array().is_some_and(|all| all.len() > 30),
        "{spec}"
    );
    let masked = spec["linux"]["maskedPaths"].as_array().is_some_and(|paths| !paths.is_empty());
    ensure!(masked, "it became privileged: {spec}");
    output(machine.engine_command().args(["stop", WAITER]))?;
    machine.engine(&["rm", "-f", ACTION])?;
    nothing_left(&machine)
});

// The engine may refuse the API version that shows who chose a MAC address: the action's is carried
// over all the same.
case!(an_engine_with_a_raised_minimum_api, ON_DOCKER_NEW, |system: System| {
    let machine = machine_variant(system, Variant::NewApiAlone)?;
    let mac = "02:42:00:00:00:09";
    let script = format!("{RUN}; cat /sys/class/net/eth0/address > /out/mac");
    Action::alpine(&machine).flags(&["--mac-address", mac]).wait("0").script(&script).run_well()?;
    ran_once(&machine)?;
    let own = fs::read_to_string(machine.out().join("mac"))?;
    ensure!(own.trim() == mac, "it has {own}");
    Ok(())
});

// nerdctl 2.2 keeps all volumes in one label of at most 4096 bytes, and the error is its own
// message. From 2.3.2 on it uses as many labels as it needs.
case!(many_volumes, ON_CAPTAINS, |machine: Shared| {
    const COUNT: usize = 60;
    let volumes: Vec<String> = (0..COUNT).map(|n| format!("/tmp:/volume-{n}")).collect();
    let volumes =
        volumes.into_iter().chain([format!("{}:/out", machine.out().display())]).collect();
    let action = Action::alpine(&machine)
        .wait("0")
        .volumes(volumes)
        .script("ls -d /volume-* > /out/volumes");
    if machine.system() == System::CaptainNext {
        action.run_well()?;
        nothing_left(&machine)?;
        let seen = fs::read_to_string(machine.out().join("volumes")).context("it did not run")?;
        ensure!(seen.lines().count() == COUNT, "{seen}");
        return Ok(());
    }
    let said = action.run()?;
    said.expect(1, "volumes", "label")?;
    ensure!(said.err.contains("cannot create the user container"), "{said:?}");
    nothing_there(&machine)
});
