//! What is released: an archive with the images of both architectures, and the program for arm64.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::captain::Captain;
use lab::image::{Entry, busybox};
use lab::machine::{Engine, Machine, output};
use lab::nest::Nest;
use lab::paths;
use lab::registry::Registry;
use lab::release::{Part, Release, write};
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::captain;
use crate::world::{ACTION, LIMIT, SOCKET, USER, WAITER, await_event, machine, nothing_left, own_program};

/// Where the image is pulled from.
const PULLED: &str = "127.0.0.1:5000/waitdaemon:1.2.3";
/// What it is called in the archive.
const REPOSITORY: &str = "ghcr.io/waitdaemon/waitdaemon";

pub fn cases() -> Vec<crate::Case> {
    crate::cases![the_archive_goes_through_a_registry, arm64_hands_over]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![("captain::release::the_archive_is_loaded_and_pulled", captain_takes_the_archive)]
}

fn arm64_program() -> PathBuf {
    paths::root().join("target/aarch64-unknown-linux-musl/release/waitdaemon")
}

/// An archive as a release makes it.
fn archive(path: &Path) -> Result<String> {
    let release = Release {
        repository: REPOSITORY.into(),
        version: "1.2.3".into(),
        revision: "0123456789abcdef0123456789abcdef01234567".into(),
        created: "2026-01-02T03:04:05Z".into(),
    };
    let part = |architecture: &str, program| Part { architecture: architecture.into(), program, nerdctl: None };
    write(path, &release, &[part("amd64", own_program()), part("arm64", arm64_program())])
}

/// Copies the archive into the machine's registry, as the release workflow does; returns the index there.
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
    let platforms: Vec<_> = index["manifests"].as_array().into_iter().flatten().map(|one| &one["platform"]).collect();
    let expected = ["amd64", "arm64"].map(|architecture| json!({"architecture": architecture, "os": "linux"}));
    ensure!(platforms.iter().copied().eq(&expected), "{index}");
    ensure!(index["annotations"]["org.opencontainers.image.version"] == "1.2.3", "{index}");
    Ok(())
}

/// The same programs give the same bytes; the engine takes the image of its own architecture, and it works.
fn the_archive_goes_through_a_registry(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let _registry = Registry::start(&machine, || machine.docker_command())?;
    let (one, other) = (machine.out().join("one.tar"), machine.out().join("other.tar"));
    let digest = archive(&one)?;
    ensure!(digest == archive(&other)? && std::fs::read(&one)? == std::fs::read(&other)?, "two archives differ");
    is_as_released(&push(&machine, &one)?)?;
    machine.docker(&["rmi", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    machine.docker(&["pull", "-q", PULLED])?;
    let pulled = machine.docker(&["image", "inspect", PULLED])?;
    ensure!(pulled.contains(&digest), "the registry has another index than {digest}: {pulled}");
    hands_over(&machine, PULLED)
}

/// The reboot action with another image, and a command that only prints.
fn hands_over(machine: &Machine, image: &str) -> Result<()> {
    let mut run = machine.docker_command();
    run.args([
        "run",
        "--name",
        ACTION,
        "--pid=host",
        "-v",
        SOCKET,
        "-e",
        "IMAGE=alpine",
        "-e",
        "WAIT_SECONDS=0",
        image,
        "true",
    ]);
    let said = output(&mut run)?;
    ensure!(said.status.success(), "{said:?}");
    machine.docker(&["rm", "-f", ACTION])?;
    let end = await_event(machine, "die", USER)?;
    ensure!(end.exit_code == Some(0), "the user container ended with {:?}", end.exit_code);
    nothing_left(machine)
}

/// The program for arm64, under qemu's emulation of that processor: settings, dry run, handoff and waiter.
fn arm64_hands_over(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let emulator = Path::new("/usr/bin/qemu-aarch64-static");
    ensure!(emulator.exists(), "{} is missing; run `make setup`", emulator.display());
    // The kernel here runs no program for arm64 by itself; a script with the program's name does.
    let script = |name: &str| format!("#!/bin/sh\nexec /qemu -0 {name} /arm64 \"$@\"\n");
    let entries = [
        Entry::File("qemu", 0o755, emulator.into()),
        Entry::File("arm64", 0o755, arm64_program()),
        Entry::Text("waitdaemon", 0o755, script("/waitdaemon")),
        Entry::Text("waiter", 0o755, script("/waiter")),
    ];
    let tar = machine.out().join("arm64.tar");
    busybox(&tar, "waitdaemon:arm64", &json!({"Entrypoint": ["/waitdaemon"]}), &entries)?;
    machine.load(&tar)?;
    let dry = |variables: &[&str]| -> Result<(i32, String)> {
        let mut run = machine.docker_command();
        run.args(["run", "--rm", "--name", ACTION, "--pid=host", "-v", SOCKET, "-e", "WAITDAEMON_DRY_RUN=true"]);
        run.args(variables.iter().flat_map(|variable| ["-e", variable]));
        let said = output(run.args(["waitdaemon:arm64", "true"]))?;
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        Ok((said.status.code().unwrap_or(-1), text))
    };
    let (code, said) = dry(&["WAIT_SECONDS=soon"])?;
    ensure!(code == 78 && said.contains("IMAGE is not set") && said.contains("WAIT_SECONDS is not"), "{code}: {said}");
    let (code, said) = dry(&["IMAGE=alpine"])?;
    ensure!(code == 0 && said.contains("\"proof\":\"the engine gave back a line"), "{code}: {said}");
    hands_over(&machine, "waitdaemon:arm64")
}

fn captain_takes_the_archive() -> Result<()> {
    let captain = captain()?;
    let _registry = Registry::start(&captain, || captain.nerdctl_command())?;
    captain.nerdctl(&["rmi", "waitdaemon:dev"])?;
    let path = captain.out().join("release.tar");
    archive(&path)?;
    captain.load(&path)?;
    captain_hands_over(&captain, &format!("{REPOSITORY}:1.2.3"))?;

    is_as_released(&push(&captain, &path)?)?;
    captain.nerdctl(&["pull", "-q", PULLED])?;
    captain_hands_over(&captain, PULLED)
}

fn captain_hands_over(captain: &Captain, image: &str) -> Result<()> {
    let out = format!("{}:/out", captain.out().display());
    let flags =
        ["--name", ACTION, "--privileged", "--pid=host", "-v", &out, "-e", "IMAGE=alpine", "-e", "WAIT_SECONDS=0"];
    // Without --rm, which takes the exit code away with the container: then nothing tells that the action succeeded.
    captain.nerdctl(&[&["run"], &flags[..], &[image, "touch", "/out/ran"]].concat())?;
    let ran = captain.out().join("ran");
    until("the user container's work", LIMIT, || Ok(ran.exists().then_some(())))
        .with_context(|| captain.container_logs())?;
    std::fs::remove_file(ran)?;
    let gone = || Ok((![WAITER, USER].iter().any(|name| captain.id_of(name).is_some())).then_some(()));
    until("the removal of both containers", LIMIT, gone)?;
    captain.nerdctl(&["rm", ACTION]).map(drop)
}
