//! `make demo` as people run it: as root up to the reboot, and without root on an existing Docker.

use std::process::Command;

use anyhow::{Result, ensure};
use lab::machine::{Machine, output};
use lab::paths;
use lab::registry::Registry;

use crate::case;
use crate::cases::ON_DOCKER_OLD;
use crate::world::nothing_there;

fn program() -> std::path::PathBuf {
    paths::root().join("target/debug/demo")
}

/// The demo, ended if it hangs.
fn limited() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "180"]).arg(program());
    command
}

/// Asserts that the text contains these words in this order.
fn in_order(text: &str, words: &[&str]) -> Result<()> {
    let mut rest = text;
    for word in words {
        let Some(at) = rest.find(word) else {
            anyhow::bail!("{word:?} is missing or too early in:\n{text}")
        };
        rest = &rest[at..];
    }
    Ok(())
}

// As root: up to the reboot of a throw-away machine.
case!(reboots_a_machine, || {
    let said = output(limited().env("DEMO_WAIT", "1"))?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    let steps = [
        "action container started",
        "waiter armed",
        "SUCCESS",
        "waiting 1 s",
        "user container started",
        "rebooted",
    ];
    in_order(&text, &steps)
});

// As on CaptainOS, where systemd has to be asked.
case!(reboots_captainos, || {
    let said = output(limited().env("DEMO_WAIT", "1").env("ENGINE", "nerdctl"))?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    in_order(
        &text,
        &[
            "starts the action",
            "reported SUCCESS",
            "user container started",
            "asks systemd",
            "rebooted in order",
        ],
    )
});

// `make push` as the README shows it, to a registry in a machine.
case!(push_reaches_a_registry, ON_DOCKER_OLD, |machine| {
    let _registry = Registry::start(&machine)?;
    let mut push = Command::new("make");
    push.args(["-s", "-C"]).arg(paths::root()).args([
        "push",
        "PUSH_TO=127.0.0.1:5000/mine",
        "TAG=1",
    ]);
    let said = output(push.env("DOCKER_HOST", format!("unix://{}", machine.socket().display())))?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    machine.engine(&["rmi", "-f", "127.0.0.1:5000/mine:1"])?;
    machine.engine(&["pull", "-q", "127.0.0.1:5000/mine:1"]).map(drop)
});

// Without root it only prints, and leaves neither a container nor an image.
case!(prints_without_root, ON_DOCKER_OLD, |system: System| {
    let machine = Machine::boot(system)?;
    ensure!(machine.command("chmod").args(["666", "/run/docker.sock"]).status()?.success());
    let mut run = machine.command("setpriv");
    run.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program());
    let said = output(run.env("DEMO_WAIT", "1").env("HOME", "/nonexistent"))?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    in_order(&text, &["Without root", "SUCCESS", "user container started", "ended with 0"])?;
    nothing_there(&machine)?;
    let images = machine.engine(&["images", "-q"])?;
    ensure!(images.is_empty(), "images are left: {images}");
    Ok(())
});
