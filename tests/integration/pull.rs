//! Pulling IMAGE from a real registry over a way with a fault: what is temporary is tried again, what is a refusal
//! is not, and nothing that does not succeed leaves anything.

use std::fs;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::machine::Engine;
use lab::registry::Registry;
use lab::until::until;
use serde_json::json;

use crate::world::{ACTION, Action, LIMIT, USER, WAITER, count, machine, nothing_left, nothing_there};
use crate::world::{images, own_image};

/// The registry's image over the way with a fault.
const IMAGE: &str = "127.0.0.1:5002/ok:1";
/// A name for the registry that no resolver knows.
const NAMED: &str = "registry.lab:5000/ok:1";

/// A fault of a registry: the request (method, a part of the path, which of those that fit), and what happens.
type Fault = ((&'static str, &'static str, &'static str), &'static str);

/// What may be over a little later. A manifest is asked for twice: HEAD, and GET where that fails.
const STUMBLES: [Fault; 6] = [
    (("*", "/manifests/", "1,2"), "429"),
    (("*", "/manifests/", "1,2"), "503"),
    (("*", "/manifests/", "1,2"), "refuse"),
    (("GET", "/blobs/", "1"), "500"),
    (("GET", "/blobs/", "2"), "refuse"),
    (("GET", "/blobs/", "2"), "half"),
];
/// What is the registry's last word.
const REFUSALS: [Fault; 2] = [(("*", "/manifests/", "all"), "401"), (("*", "/manifests/", "all"), "403")];

pub fn cases() -> Vec<crate::Case> {
    crate::cases![a_registry_that_stumbles, a_registry_that_refuses, a_registry_whose_name_comes_late]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::pull::a_registry_that_stumbles", captain_and_a_registry_that_stumbles),
        ("captain::pull::a_registry_that_refuses", captain_and_a_registry_that_refuses),
    ]
}

fn a_registry_that_stumbles(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let registry = Registry::start(&machine, || machine.docker_command())?;
    machine.docker(&["rmi", "alpine"])?;
    for (number, (request, fault)) in STUMBLES.into_iter().enumerate() {
        let way = registry.faulty(&machine, request, fault)?;
        let said = Action::new(&machine).env("IMAGE", IMAGE).env("WAIT_SECONDS", "0").command(&["true"]).run_well()?;
        happened(&way.log()?).with_context(|| format!("{fault}: {said:?}"))?;
        nothing_left(&machine)?;
        ensure!(count(&machine, "start", USER)? == number + 1, "{fault}: it must run exactly once");
        machine.docker(&["rmi", IMAGE])?;
        // The engine itself asks five times for a layer, and once for a manifest.
        let retried = said.err.contains("pulling the image failed, trying again");
        ensure!(retried || request.1 == "/blobs/", "{fault}: not a word of a retry: {said:?}");
    }
    Ok(())
}

fn a_registry_that_refuses(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let registry = Registry::start(&machine, || machine.docker_command())?;
    for (request, fault) in REFUSALS {
        let way = registry.faulty(&machine, request, fault)?;
        let said = Action::new(&machine).env("IMAGE", IMAGE).run()?;
        said.expect(1, "environment.IMAGE", "cannot pull")?;
        happened(&way.log()?).with_context(|| format!("{fault}: {said:?}"))?;
        ensure!(!said.err.contains("trying again"), "{fault}: {said:?}");
        nothing_there(&machine)?;
    }
    Ok(())
}

/// The machine's resolver learns the name while the pull is tried.
fn a_registry_whose_name_comes_late(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let _registry = Registry::start(&machine, || machine.docker_command())?;
    machine.docker(&["rmi", "alpine"])?;
    Action::new(&machine).env("IMAGE", NAMED).env("WAIT_SECONDS", "0").command(&["true"]).start()?;
    until("a second try", LIMIT, || {
        let (_, err) = crate::world::log(&machine, ACTION)?;
        Ok(err.iter().any(|line| line["message"] == "pulling the image failed, trying again").then_some(()))
    })?;
    let mut hosts = fs::OpenOptions::new().append(true).open(format!("/proc/{}/root/etc/hosts", machine.init()))?;
    writeln!(hosts, "127.0.0.1 registry.lab")?;
    until("the action's success", LIMIT, || {
        Ok((machine.inspect(ACTION)?["State"]["Status"] == "exited").then_some(()))
    })?;
    ensure!(machine.inspect(ACTION)?["State"]["ExitCode"] == 0, "{:?}", crate::world::log(&machine, ACTION)?);
    machine.docker(&["rm", ACTION])?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 1, "it must run exactly once");
    Ok(())
}

fn captain_and_a_registry_that_stumbles() -> Result<()> {
    let (captain, registry) = captain()?;
    for (request, fault) in STUMBLES {
        let way = registry.faulty(&captain, request, fault)?;
        let agent = served(&captain)?;
        let report = agent.final_report(LIMIT)?;
        ensure!(report.state == "SUCCESS", "{fault}: reported {}: {}", report.state, agent.log());
        happened(&way.log()?).with_context(|| format!("{fault}: {}", agent.log()))?;
        until("no container", LIMIT, || Ok(ours(&captain)?.is_empty().then_some(())))?;
        let runs = captain.out().join("runs");
        let ran = fs::read_to_string(&runs).unwrap_or_default();
        ensure!(ran == "run\n", "{fault}: it ran {ran:?}");
        fs::remove_file(runs)?;
        captain.nerdctl(&["rmi", IMAGE])?;
    }
    Ok(())
}

fn captain_and_a_registry_that_refuses() -> Result<()> {
    let (captain, registry) = captain()?;
    for (request, fault) in REFUSALS {
        let way = registry.faulty(&captain, request, fault)?;
        let agent = served(&captain)?;
        let report = agent.final_report(LIMIT)?;
        let text = agent.log();
        ensure!(report.state == "FAILED" && text.contains("cannot pull"), "{fault}: reported {}: {text}", report.state);
        happened(&way.log()?).with_context(|| format!("{fault}: {text}"))?;
        ensure!(!text.contains("trying again"), "{fault}: {text}");
        ensure!(ours(&captain)?.is_empty(), "{fault}: left: {}", ours(&captain)?);
        drop(agent);
        captain.nerdctl(&["rm", "-f", ACTION])?;
    }
    Ok(())
}

fn captain() -> Result<(Captain, Registry)> {
    let captain = Captain::boot()?;
    captain.load(&own_image())?;
    captain.load(&images().join("alpine.tar"))?;
    let registry = Registry::start(&captain, || captain.nerdctl_command())?;
    captain.nerdctl(&["rmi", "alpine"])?;
    Ok((captain, registry))
}

fn served(captain: &Captain) -> Result<Agent> {
    let action = json!([{
        "name": "last", "image": "waitdaemon:dev", "timeout": 90, "pid": "host",
        "volumes": [format!("{}:/out", captain.out().display())],
        "command": ["sh", "-c", "echo run >> /out/runs"],
        "environment": {"IMAGE": IMAGE, "WAIT_SECONDS": "0"},
    }]);
    let file = captain.out().join("actions.yaml");
    fs::write(&file, action.to_string())?;
    Agent::start(captain, Runtime::Containerd, &file)
}

/// The waiter and the user container, where they are there.
fn ours(captain: &Captain) -> Result<String> {
    let all =
        until("a list of containers", LIMIT, || Ok(captain.nerdctl(&["ps", "-a", "--format", "{{.Names}}"]).ok()))?;
    Ok(all.lines().filter(|name| [WAITER, USER].contains(name)).collect())
}

fn happened(log: &str) -> Result<()> {
    ensure!(log.lines().any(|line| line == "fault"), "the fault did not happen: {log}");
    Ok(())
}
