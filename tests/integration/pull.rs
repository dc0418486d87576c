//! A pull is retried after a failure that may be transient, and never after the registry's final
//! answer.

use std::fs;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, State, output};
use lab::registry::Registry;
use lab::system::System;
use lab::until::until;

use crate::case;
use crate::cases::{ON_DOCKER, ON_VERSIONS};
use crate::world::{ACTION, Action, LIMIT, RUN, log, nothing_there, ran_once};

/// The registry's image, reached through the proxy that injects a fault.
const IMAGE: &str = "127.0.0.1:5002/ok:1";
/// A name for the registry that no resolver knows.
const NAMED: &str = "registry.lab:5000/ok:1";

/// A fault of a registry: the request (method, a part of the path, which of the matching ones), and
/// what happens.
type Fault = ((&'static str, &'static str, &'static str), &'static str);

/// Faults that may soon be over. A manifest is requested twice: HEAD, and GET if that fails.
const STUMBLES: [Fault; 6] = [
    (("*", "/manifests/", "1,2"), "429"),
    (("*", "/manifests/", "1,2"), "503"),
    (("*", "/manifests/", "1,2"), "refuse"),
    (("GET", "/blobs/", "1"), "500"),
    (("GET", "/blobs/", "2"), "refuse"),
    (("GET", "/blobs/", "2"), "half"),
];
/// Faults that are the registry's final answer.
const REFUSALS: [Fault; 2] =
    [(("*", "/manifests/", "all"), "401"), (("*", "/manifests/", "all"), "403")];

case!(a_registry_that_stumbles, ON_VERSIONS, |machine| {
    let registry = Registry::start(&machine)?;
    machine.engine(&["rmi", "alpine"])?;
    forget_what_was_imported(&machine)?;
    for (request, fault) in STUMBLES {
        let way = registry.faulty(&machine, request, fault)?;
        let said = Action::new(&machine).env("IMAGE", IMAGE).wait("0").script(RUN).run_well()?;
        happened(&way.log()?).with_context(|| format!("{fault}: {said:?}"))?;
        ran_once(&machine).with_context(|| fault.to_owned())?;
        fs::remove_file(machine.out().join("runs"))?;
        machine.engine(&["rmi", IMAGE])?;
        // Docker itself requests a layer five times and a manifest once; containerd often retries
        // both.
        let retried = said.err.contains("pulling the image failed, trying again");
        let engine_asks_again = request.1 == "/blobs/"
            || ![System::HookOS, System::DockerOld].contains(&machine.system());
        ensure!(retried || engine_asks_again, "{fault}: not a word of a retry: {said:?}");
    }
    Ok(())
});

case!(a_registry_that_refuses, ON_VERSIONS, |machine| {
    let registry = Registry::start(&machine)?;
    for (request, fault) in REFUSALS {
        let way = registry.faulty(&machine, request, fault)?;
        let said = Action::new(&machine).env("IMAGE", IMAGE).run()?;
        said.expect(1, "environment.IMAGE", "cannot pull")?;
        happened(&way.log()?).with_context(|| format!("{fault}: {said:?}"))?;
        ensure!(!said.all().contains("trying again"), "{fault}: {said:?}");
        nothing_there(&machine)?;
    }
    Ok(())
});

// The machine's resolver learns the name while the pull is being retried.
case!(a_registry_whose_name_comes_late, ON_DOCKER, |machine| {
    let _registry = Registry::start(&machine)?;
    machine.engine(&["rmi", "alpine"])?;
    let action = Action::new(&machine).env("IMAGE", NAMED).wait("0").script(RUN).start()?;
    until("a second try", LIMIT, || {
        let (_, err) = log(&machine, ACTION)?;
        Ok(err
            .iter()
            .any(|line| line["message"] == "pulling the image failed, trying again")
            .then_some(()))
    })?;
    let mut hosts = fs::OpenOptions::new()
        .append(true)
        .open(format!("/proc/{}/root/etc/hosts", machine.init()))?;
    writeln!(hosts, "127.0.0.1 registry.lab")?;
    until("the action's success", LIMIT, || {
        Ok(machine.seen(ACTION).is_some_and(|seen| seen.state == State::Ended).then_some(()))
    })?;
    let said = action.end()?;
    ensure!(said.code == 0, "{said:?}");
    ran_once(&machine)
});

/// Removes the images that `nerdctl load` of 2.3 names after the import and that keep every layer.
fn forget_what_was_imported(machine: &Machine) -> Result<()> {
    if machine.system() != System::CaptainNext {
        return Ok(());
    }
    let socket = format!("/proc/{}/root/run/containerd/containerd.sock", machine.init());
    let ctr = |words: &[&str]| -> Result<String> {
        let said = output(
            Command::new("ctr")
                .args(["--address", &socket, "--namespace", "tinkerbell"])
                .args(words),
        )?;
        ensure!(said.status.success(), "ctr {words:?}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout)?)
    };
    for name in
        ctr(&["images", "list", "--quiet"])?.lines().filter(|name| name.starts_with("import@"))
    {
        ctr(&["images", "remove", "--sync", name])?;
    }
    Ok(())
}

fn happened(log: &str) -> Result<()> {
    ensure!(log.lines().any(|line| line == "fault"), "the fault did not happen: {log}");
    Ok(())
}
