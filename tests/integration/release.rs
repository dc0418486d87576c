//! What is released: an archive with the images of both architectures, and the program for the one
//! that this machine is not.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lab::image::{Architecture, Entry, busybox};
use lab::machine::{Machine, output};
use lab::nest::Nest;
use lab::paths;
use lab::registry::Registry;
use packaging::release::{Part, Release, write};
use serde_json::{Value, json};

use crate::case;
use crate::cases::{ON_ALL, ON_CAPTAINS, ON_DOCKER_MAIN};
use crate::world::{Action, RUN, own_program, ran_once};

/// The reference from which the image is pulled.
const PULLED: &str = "127.0.0.1:5000/waitdaemon:1.2.3";
/// The image's repository in the archive.
const REPOSITORY: &str = "ghcr.io/waitdaemon/waitdaemon";

fn program(architecture: Architecture) -> PathBuf {
    if architecture == Architecture::NATIVE {
        own_program()
    } else {
        paths::program_for(architecture)
    }
}

/// Makes an archive as a release does.
fn archive(path: &Path) -> Result<String> {
    let release = Release {
        repository: REPOSITORY.into(),
        version: "1.2.3".into(),
        revision: "0123456789abcdef0123456789abcdef01234567".into(),
        created: "2026-01-02T03:04:05Z".into(),
    };
    let parts = Architecture::ALL.map(|architecture| Part {
        architecture: architecture.name().into(),
        program: program(architecture),
        nerdctl: None,
    });
    write(path, &release, &parts)
}

/// Copies the archive into the machine's registry as the release workflow does; returns the index
/// there.
fn push(nest: &Nest, archive: &Path) -> Result<Value> {
    let skopeo = |arguments: &[&str]| -> Result<Vec<u8>> {
        let said = output(nest.network_command("skopeo").arg("--insecure-policy").args(arguments))?;
        ensure!(said.status.success(), "skopeo: {}", String::from_utf8_lossy(&said.stderr));
        Ok(said.stdout)
    };
    let (from, to) = (format!("oci-archive:{}", archive.display()), format!("docker://{PULLED}"));
    skopeo(&["copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false", &from, &to])?;
    Ok(serde_json::from_slice(&skopeo(&["inspect", "--raw", "--tls-verify=false", &to])?)?)
}

fn is_as_released(index: &Value) -> Result<()> {
    let platforms: Vec<_> =
        index["manifests"].as_array().into_iter().flatten().map(|one| &one["platform"]).collect();
    let expected = Architecture::ALL.map(|one| json!({"architecture": one.name(), "os": "linux"}));
    ensure!(platforms.iter().copied().eq(&expected), "{index}");
    ensure!(index["annotations"]["org.opencontainers.image.version"] == "1.2.3", "{index}");
    Ok(())
}

// The same programs give the same bytes. The engine picks the image of its own architecture, and it
// works.
case!(the_archive_goes_through_a_registry, ON_ALL, |machine| {
    let _registry = Registry::start(&machine)?;
    let (one, other) = (machine.out().join("one.tar"), machine.out().join("other.tar"));
    let digest = archive(&one)?;
    ensure!(
        digest == archive(&other)? && std::fs::read(&one)? == std::fs::read(&other)?,
        "two archives differ"
    );
    is_as_released(&push(&machine, &one)?)?;
    machine.engine(&["rmi", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    machine.engine(&["pull", "-q", PULLED])?;
    let pulled = machine.engine(&["image", "inspect", PULLED])?;
    ensure!(pulled.contains(&digest), "the registry has another index than {digest}: {pulled}");
    hands_over(&machine, PULLED)
});

// containerd loads the archive itself.
case!(the_archive_is_loaded, ON_CAPTAINS, |machine| {
    machine.engine(&["rmi", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    let path = machine.out().join("release.tar");
    archive(&path)?;
    machine.load(&path)?;
    hands_over(&machine, &format!("{REPOSITORY}:1.2.3"))
});

/// Runs a harmless action with another image, by hand.
fn hands_over(machine: &Machine, image: &str) -> Result<()> {
    Action::alpine(machine).by_hand().image(image).wait("0").script(RUN).run_well()?;
    ran_once(machine)
}

// The program for the other architecture, under qemu's emulation of that processor: settings, dry
// run, handoff and waiter.
case!(other_architecture_hands_over, ON_DOCKER_MAIN, |machine| {
    let other = Architecture::NATIVE.other();
    let emulator = PathBuf::from(format!("/usr/bin/qemu-{}-static", other.machine()));
    ensure!(emulator.exists(), "{} is missing; run `make setup`", emulator.display());
    // The kernel here cannot run such programs directly; a script with the program's name does.
    let script = |name: &str| format!("#!/bin/sh\nexec /qemu -0 {name} /program \"$@\"\n");
    let entries = [
        Entry::File("qemu", 0o755, emulator),
        Entry::File("program", 0o755, program(other)),
        Entry::Text("waitdaemon", 0o755, script("/waitdaemon")),
        Entry::Text("waiter", 0o755, script("/waiter")),
    ];
    let tar = machine.out().join("other.tar");
    busybox(&tar, "waitdaemon:other", &json!({"Entrypoint": ["/waitdaemon"]}), &entries)?;
    machine.load(&tar)?;
    let dry = || {
        Action::new(&machine)
            .image("waitdaemon:other")
            .env("WAITDAEMON_DRY_RUN", "true")
            .command(&["true"])
    };
    let said = dry().wait("soon").run()?;
    let words = ["IMAGE is not set", "WAIT_SECONDS is not"];
    ensure!(said.code == 78 && words.iter().all(|words| said.all().contains(words)), "{said:?}");
    let said = dry().env("IMAGE", "alpine").run()?;
    ensure!(
        said.code == 0 && said.all().contains("\"proof\":\"the engine returned a line"),
        "{said:?}"
    );
    hands_over(&machine, "waitdaemon:other")
});
