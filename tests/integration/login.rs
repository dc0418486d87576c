//! A registry with a login: the login reaches the engine with the pull, and appears nowhere else.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::machine::Machine;
use lab::registry::{PASSWORD, Registry, USERNAME};

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_VERSIONS};
use crate::world::{Action, USER, WAITER, nothing_left, nothing_there, waiter_log};

/// The image in the registry that requires a login.
const IMAGE: &str = "127.0.0.1:5003/ok:1";
const FIELD: &str = "environment.WAITDAEMON_REGISTRY_PASSWORD_FILE";
/// Prints the user container's environment.
const ENVIRONMENT: &str = "env > /out/environment";

/// An action whose password file contains this text.
fn with_password<'a>(machine: &'a Machine, password: &str) -> Result<Action<'a>> {
    let folder = machine.folder().join("secret");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("password"), password)?;
    Ok(Action::new(machine)
        .volume(&format!("{}:/secret:ro", folder.display()))
        .env("IMAGE", IMAGE)
        .env("WAITDAEMON_LOG", "debug")
        .env("WAITDAEMON_REGISTRY_USERNAME", USERNAME)
        .env("WAITDAEMON_REGISTRY_PASSWORD_FILE", "/secret/password"))
}

/// Moves the machine's `alpine` into a registry that is only reachable with a login.
fn lock(machine: &Machine) -> Result<Registry> {
    let mut registry = Registry::start(machine)?;
    registry.with_login(machine)?;
    machine.engine(&["rmi", "alpine"])?;
    Ok(registry)
}

/// True if a text contains the login in one of its forms.
fn shows(text: &str) -> bool {
    // The password, and how it appears in the header and in the configuration: base64 at each of
    // three offsets.
    [PASSWORD, "czNjcmV0", "MzY3Jld", "zM2NyZX"].iter().any(|form| text.contains(form))
        || text.contains("REGISTRY_USER")
}

/// Checks that the action ran and nothing of the login is left.
fn ran_without_a_trace(machine: &Machine) -> Result<()> {
    nothing_left(machine)?;
    let environment =
        fs::read_to_string(machine.out().join("environment")).context("it did not run")?;
    ensure!(!shows(&environment), "the user container has it: {environment}");
    ensure!(!shows(&format!("{:?}", waiter_log(machine))), "the log shows it");
    let run = machine.command("sh").args(["-c", "ls -d /run/waitdaemon-* 2>&1"]).output()?;
    ensure!(!run.status.success(), "left: {}", String::from_utf8_lossy(&run.stdout));
    Ok(())
}

/// Checks that neither container shows the login while both wait.
fn neither_shows_it(machine: &Machine) -> Result<()> {
    for name in [USER, WAITER] {
        let document = machine.inspect(name)?.to_string();
        ensure!(document.contains(IMAGE) || name == WAITER, "{document}");
        ensure!(!shows(&document), "{name} shows the login: {document}");
    }
    let log = waiter_log(machine);
    ensure!(
        !log.is_empty() && !shows(&format!("{log:?}")),
        "the waiter's log shows it, or nothing: {log:?}"
    );
    Ok(())
}

case!(the_login_is_for_the_pull_alone, ON_VERSIONS, |machine| {
    let _registry = lock(&machine)?;
    let dry = with_password(&machine, PASSWORD)?
        .env("WAITDAEMON_DRY_RUN", "true")
        .command(&["true"])
        .run()?;
    ensure!(dry.code == 0, "the registry is not asked with the login: {dry:?}");
    // A handoff that was killed during a pull left this.
    if !machine.is_docker() {
        let left =
            "mkdir /run/waitdaemon-login-left && touch /run/waitdaemon-login-left/config.json";
        ensure!(machine.command("sh").args(["-c", left]).status()?.success());
    }
    let action = with_password(&machine, &format!("{PASSWORD}\n"))?.wait("5").script(ENVIRONMENT);
    let said = action.run_well()?;
    ensure!(!shows(&format!("{said:?}")), "the log shows the login: {said:?}");
    neither_shows_it(&machine)?;
    ran_without_a_trace(&machine)
});

case!(a_wrong_login_is_reported, ON_VERSIONS, |machine| {
    let _registry = lock(&machine)?;
    let said = with_password(&machine, "wrong")?.run()?;
    said.expect(1, "environment.IMAGE", "cannot pull")?;
    ensure!(!said.err.contains("trying again") && !said.err.contains("\"wrong\""), "{said:?}");
    nothing_there(&machine)?;
    let without = Action::new(&machine).env("IMAGE", IMAGE).run()?;
    without.expect(1, "environment.IMAGE", "WAITDAEMON_REGISTRY_USERNAME")?;
    let missing =
        Action::new(&machine).env("IMAGE", IMAGE).env("WAITDAEMON_REGISTRY_USERNAME", USERNAME);
    let missing = missing.env("WAITDAEMON_REGISTRY_PASSWORD_FILE", "/secret/none").run()?;
    missing.expect(78, FIELD, "cannot read")?;
    let half = Action::new(&machine)
        .env("IMAGE", IMAGE)
        .env("WAITDAEMON_REGISTRY_USERNAME", USERNAME)
        .run()?;
    half.expect(78, FIELD, "not set")?;
    nothing_there(&machine)
});

// As Tinkerbell passes it.
case!(of_the_command_line, ON_CAPTAIN, |machine| {
    let _registry = lock(&machine)?;
    let login = |registry: &str| {
        format!(
            "quiet docker_registry={registry} registry_username={USERNAME} registry_password={PASSWORD}\n"
        )
    };
    let action = || Action::new(&machine).env("IMAGE", IMAGE).wait("5").script(ENVIRONMENT);
    // This registry does not get another registry's login.
    machine.set_command_line(&login("127.0.0.1:5004"))?;
    action().run()?.expect(1, "environment.IMAGE", "cannot pull")?;
    machine.set_command_line(&login("127.0.0.1:5003"))?;
    let said = action().run_well()?;
    ensure!(!shows(&said.all()), "the agent's log shows it: {said:?}");
    neither_shows_it(&machine)?;
    ran_without_a_trace(&machine)
});

// The machine's own hosts.toml says where a registry really is (containerd, docs/hosts.md).
case!(hosts_file_of_the_machine, ON_CAPTAIN, |machine| {
    let _registry = lock(&machine)?;
    let write = "mkdir -p /etc/containerd/certs.d/fleet.example && \
                 echo '[host.\"http://127.0.0.1:5000\"]' > /etc/containerd/certs.d/fleet.example/hosts.toml";
    ensure!(
        machine.command("sh").args(["-c", write]).status()?.success(),
        "cannot write hosts.toml"
    );
    Action::new(&machine)
        .env("IMAGE", "fleet.example/ok:1")
        .wait("0")
        .script(ENVIRONMENT)
        .run_well()?;
    ran_without_a_trace(&machine)
});
