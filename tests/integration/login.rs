//! A registry with a login: it reaches the engine with the pull, and nothing else.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::captain::Captain;
use lab::machine::{Engine, Machine};
use lab::registry::{PASSWORD, Registry, USERNAME};
use lab::until::until;
use serde_json::json;

use crate::captain::{captain, log, reported};
use crate::world::{Action, LIMIT, USER, WAITER, count, machine, nothing_left, nothing_there};

/// The image in the registry that wants a login.
const IMAGE: &str = "127.0.0.1:5003/ok:1";
const FIELD: &str = "environment.WAITDAEMON_REGISTRY_PASSWORD_FILE";

pub fn cases() -> Vec<crate::Case> {
    crate::cases![the_login_is_for_the_pull_alone, a_wrong_login_is_told]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::login_of_the_command_line", of_the_command_line),
        ("captain::login_of_the_environment", of_the_environment),
        ("captain::hosts_file_of_the_machine", hosts_file_of_the_machine),
    ]
}

/// An action whose password's file has this text.
fn with_password<'a>(machine: &'a Machine, password: &str) -> Result<Action<'a>> {
    fs::write(machine.out().join("password"), password)?;
    Ok(Action::new(machine)
        .flags(&["-v", &format!("{}:/secret:ro", machine.out().display())])
        .env("IMAGE", IMAGE)
        .env("WAITDAEMON_LOG", "debug")
        .env("WAITDAEMON_REGISTRY_USERNAME", USERNAME)
        .env("WAITDAEMON_REGISTRY_PASSWORD_FILE", "/secret/password"))
}

/// A machine whose `alpine` is in the registry with a login alone.
fn locked(engine: Engine) -> Result<(Machine, Registry)> {
    let machine = machine(engine)?;
    let mut registry = Registry::start(&machine, || machine.docker_command())?;
    registry.with_login(&machine)?;
    machine.docker(&["rmi", "alpine"])?;
    Ok((machine, registry))
}

/// True where a text has the login in one of its forms.
fn shows(text: &str) -> bool {
    // The password, and the header's and the configuration's forms of it: base64 at each of three places.
    [PASSWORD, "czNjcmV0", "MzY3Jld", "zM2NyZX"].iter().any(|form| text.contains(form))
        || text.contains("REGISTRY_USER")
}

fn the_login_is_for_the_pull_alone(engine: Engine) -> Result<()> {
    let (machine, _registry) = locked(engine)?;
    let dry = with_password(&machine, PASSWORD)?.env("WAITDAEMON_DRY_RUN", "true").command(&["true"]).run()?;
    ensure!(dry.code == 0, "the registry is not asked with the login: {dry:?}");
    let said =
        with_password(&machine, &format!("{PASSWORD}\n"))?.env("WAIT_SECONDS", "3").command(&["true"]).run_well()?;
    for (what, text) in [
        ("the log", format!("{said:?}")),
        ("the user container", machine.inspect(USER)?.to_string()),
        ("the waiter", machine.inspect(WAITER)?.to_string()),
    ] {
        ensure!(!shows(&text), "{what} shows the login: {text}");
    }
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 1, "it must run exactly once");
    Ok(())
}

fn a_wrong_login_is_told(engine: Engine) -> Result<()> {
    let (machine, _registry) = locked(engine)?;
    let said = with_password(&machine, "wrong")?.run()?;
    said.expect(1, "environment.IMAGE", "cannot pull")?;
    ensure!(!said.err.contains("trying again") && !said.err.contains("\"wrong\""), "{said:?}");
    nothing_there(&machine)?;
    let without = Action::new(&machine).env("IMAGE", IMAGE).run()?;
    without.expect(1, "environment.IMAGE", "WAITDAEMON_REGISTRY_USERNAME")?;
    let missing = with_password(&machine, "x")?.env("WAITDAEMON_REGISTRY_PASSWORD_FILE", "/secret/none").run()?;
    missing.expect(78, FIELD, "cannot read")?;
    let half = Action::new(&machine).env("IMAGE", IMAGE).env("WAITDAEMON_REGISTRY_USERNAME", USERNAME).run()?;
    half.expect(78, FIELD, "not set")?;
    nothing_there(&machine)
}

/// A machine like CaptainOS, and the registry.
fn locked_captain() -> Result<(Captain, Registry)> {
    let captain = captain()?;
    let mut registry = Registry::start(&captain, || captain.nerdctl_command())?;
    registry.with_login(&captain)?;
    captain.nerdctl(&["rmi", "alpine"])?;
    Ok((captain, registry))
}

/// The action ran, and nothing of the login is left.
fn ran_without_a_trace(captain: &Captain) -> Result<()> {
    // The agent keeps its own container of the action that failed.
    until("no container of ours", LIMIT, || {
        Ok([WAITER, USER].iter().all(|name| captain.id_of(name).is_none()).then_some(()))
    })?;
    let environment = fs::read_to_string(captain.out().join("environment")).context("it did not run")?;
    ensure!(!shows(&environment), "the user container has it: {environment}");
    ensure!(!shows(&format!("{:?}", log(captain))), "the log shows it");
    let run = captain.command("sh").args(["-c", "ls -d /run/waitdaemon-* 2>&1"]).output()?;
    ensure!(!run.status.success(), "left: {}", String::from_utf8_lossy(&run.stdout));
    Ok(())
}

fn of_the_command_line() -> Result<()> {
    let (captain, _registry) = locked_captain()?;
    let login = |registry: &str| {
        format!("quiet docker_registry={registry} registry_username={USERNAME} registry_password={PASSWORD}\n")
    };
    let action = json!({
        "command": ["sh", "-c", "env > /out/environment"], "environment": {"IMAGE": IMAGE, "WAIT_SECONDS": "5"},
    });
    // Another registry's login is not given to this one.
    captain.set_command_line(&login("127.0.0.1:5004"))?;
    let agent = reported(&captain, action.clone(), "FAILED")?;
    ensure!(agent.log().contains("cannot pull"), "{}", agent.log());
    drop(agent);
    captain.nerdctl(&["rm", "-f", crate::world::ACTION])?;
    captain.set_command_line(&login("127.0.0.1:5003"))?;
    let agent = reported(&captain, action, "SUCCESS")?;
    ensure!(!shows(&agent.log()), "the agent's log shows it: {}", agent.log());
    // While both wait.
    for name in [USER, WAITER] {
        let inspected = captain.nerdctl(&["inspect", "--mode", "native", name])?;
        ensure!(inspected.contains(IMAGE) || name == WAITER, "{inspected}");
        ensure!(!shows(&inspected), "{name} shows it: {inspected}");
    }
    ensure!(
        !log(&captain).is_empty() && !shows(&format!("{:?}", log(&captain))),
        "the waiter's log shows it, or nothing"
    );
    ran_without_a_trace(&captain)
}

fn of_the_environment() -> Result<()> {
    let (captain, _registry) = locked_captain()?;
    let secret = captain.folder().join("secret");
    fs::create_dir_all(&secret)?;
    fs::write(secret.join("password"), PASSWORD)?;
    let action = json!({
        "command": ["sh", "-c", "env > /out/environment"],
        "volumes": [format!("{}:/out", captain.out().display()), format!("{}:/secret:ro", secret.display())],
        "environment": {
            "IMAGE": IMAGE, "WAIT_SECONDS": "0", "WAITDAEMON_REGISTRY_USERNAME": USERNAME,
            "WAITDAEMON_REGISTRY_PASSWORD_FILE": "/secret/password",
        },
    });
    // One that was killed in mid-pull left this.
    captain.command("mkdir").arg("/run/waitdaemon-login-left").status()?;
    captain.command("touch").arg("/run/waitdaemon-login-left/config.json").status()?;
    let agent = reported(&captain, action, "SUCCESS")?;
    ensure!(!shows(&agent.log().replace("WAITDAEMON_REGISTRY_USER", "")), "the agent's log shows it: {}", agent.log());
    ran_without_a_trace(&captain)
}

/// Where a registry really is says the machine's own hosts.toml (containerd, docs/hosts.md).
fn hosts_file_of_the_machine() -> Result<()> {
    let (captain, _registry) = locked_captain()?;
    let write = "mkdir -p /etc/containerd/certs.d/fleet.example && \
                 echo '[host.\"http://127.0.0.1:5000\"]' > /etc/containerd/certs.d/fleet.example/hosts.toml";
    ensure!(captain.command("sh").args(["-c", write]).status()?.success(), "cannot write hosts.toml");
    let action = json!({
        "command": ["sh", "-c", "env > /out/environment"],
        "environment": {"IMAGE": "fleet.example/ok:1", "WAIT_SECONDS": "0"},
    });
    drop(reported(&captain, action, "SUCCESS")?);
    ran_without_a_trace(&captain)
}
