//! Bad input: each gets its exit code and a line that names the template field, and leaves nothing.

use std::fs;
use std::os::unix::net::UnixListener;

use anyhow::{Result, ensure};
use lab::machine::{Engine, output};
use lab::registry::Registry;
use serde_json::json;

use crate::captain::{captain, containers, reported};
use crate::world::{ACTION, Action, Said, USER, machine, nothing_left, nothing_there, started_once_after};

const INVALID: i32 = 78;
const NO_ENGINE: i32 = 12;
const FAILED: i32 = 1;

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        wait_seconds_is_no_number_of_seconds,
        image_is_not_set,
        image_is_malformed,
        image_is_a_name_that_the_engine_does_not_take,
        image_is_not_in_the_registry,
        registry_refuses_the_connection,
        pull_fails_inside_its_stream,
        pull_takes_too_long,
        several_problems_at_once,
        socket_is_not_mounted,
        socket_is_a_directory,
        nobody_listens_on_the_socket,
        dockerd_is_dead,
        nerdctl_is_not_there,
        name_is_taken_by_a_foreign_container,
        docker_host_with_tls,
        hostile_values_are_only_data,
    ]
}

fn wait_seconds_is_no_number_of_seconds(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for value in ["abc", "-1", "1.5", " 5", "86401", "123456789012345678901234567890"] {
        let said = Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", value).run()?;
        said.expect(INVALID, "environment.WAIT_SECONDS", "whole number")?;
        ensure!(said.err.contains(&format!("\"value\":\"{value}\"")), "the value is not shown: {said:?}");
    }
    nothing_there(&machine)
}

fn image_is_not_set(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).run()?;
    said.expect(INVALID, "environment.IMAGE", "IMAGE is not set")?;
    nothing_there(&machine)
}

fn image_is_malformed(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for image in ["--privileged", "../x", "Alpine", "a b", "alpine:", "alpine\n"] {
        let said = Action::new(&machine).env("IMAGE", image).run()?;
        said.expect(INVALID, "environment.IMAGE", "set IMAGE to")?;
    }
    nothing_there(&machine)
}

/// Our parser takes these names, which have the form that the distribution project gave them later; the engine has the
/// last word. An older one says that it is no name, a newer one that there is no such registry or repository.
const STRANGE_NAMES: [&str; 3] =
    ["UPPER/x", "Registry/x:1", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"];

fn image_is_a_name_that_the_engine_does_not_take(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for image in STRANGE_NAMES {
        for dry in ["true", "false"] {
            let action = Action::new(&machine).env("IMAGE", image).env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "3");
            let said = action.env("WAITDAEMON_DRY_RUN", dry).command(&["true"]).run()?;
            said.expect(FAILED, "environment.IMAGE", image)?;
            nothing_there(&machine)?;
            // The engine's own words that this is no name have a fix of their own.
            let about = said.about("environment.IMAGE")?;
            let refused = ["invalid reference format", "repository name must be lowercase"];
            let refused = refused.iter().any(|words| about.contains(words));
            ensure!(refused == about.contains("use lower-case letters"), "{about}");
            ensure!(refused || engine != Engine::Debian || !image.contains('/'), "20.10 takes the name: {about}");
        }
    }
    Ok(())
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![("captain::bad_input::image_is_a_name_that_the_engine_does_not_take", captain_does_not_take_the_name)]
}

fn captain_does_not_take_the_name() -> Result<()> {
    let captain = captain()?;
    for image in STRANGE_NAMES {
        for dry in ["true", "false"] {
            let environment =
                json!({"IMAGE": image, "WAITDAEMON_PULL_TIMEOUT_SECONDS": "3", "WAITDAEMON_DRY_RUN": dry});
            let agent = reported(&captain, json!({"command": ["true"], "environment": environment}), "FAILED")?;
            let text = agent.log();
            let field =
                |line: &&str| line.contains("environment.IMAGE") && line.contains(image) && line.contains("fix");
            ensure!(text.lines().any(|line| field(&line)), "{image}, dry run {dry}: {text}");
            let left = containers(&captain)?;
            ensure!(!left.contains(&format!("{ACTION}-")), "{image}: containers are left: {left}");
        }
    }
    Ok(())
}

fn several_problems_at_once(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).env("WAIT_SECONDS", "x").env("CONTAINER_RUNTIME", "podman").run()?;
    for field in ["environment.IMAGE", "environment.WAIT_SECONDS", "environment.CONTAINER_RUNTIME"] {
        said.about(field)?;
    }
    ensure!(said.code == INVALID && said.err.lines().count() == 3, "{said:?}");
    nothing_there(&machine)
}

/// As long as the kernel takes a variable and an argument (128 KiB with its end, execve(2)), and what looks like a flag.
fn hostile_values_are_only_data(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let long = "x".repeat(131_060);
    let script = "printf '%s\\n' ${#BIG} ${#1} \"$2\" \"$FLAG\" > /out/seen";
    let out = format!("{}:/out", machine.out().display());
    let action = Action::new(&machine).flags(&["-v", &out]).env("IMAGE", "alpine").env("WAIT_SECONDS", "0");
    let action = action.env("BIG", &long).env("FLAG", "--privileged\n--name=x");
    action.command(&["sh", "-c", script, "name", &long, "../../version"]).run_well()?;
    nothing_left(&machine)?;
    let seen = fs::read_to_string(machine.out().join("seen"))?;
    ensure!(seen == "131060\n131060\n../../version\n--privileged\n--name=x\n", "{seen:?}");
    Ok(())
}

fn docker_host_with_tls(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).env("IMAGE", "alpine").env("DOCKER_HOST", "https://10.0.0.1:2376").run()?;
    said.expect(INVALID, "environment.DOCKER_HOST", "without TLS")?;
    nothing_there(&machine)
}

fn socket_is_not_mounted(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).with_own_pids().without_socket().env("IMAGE", "alpine").run()?;
    said.expect(NO_ENGINE, "volumes", "/var/run/docker.sock:/var/run/docker.sock")?;
    ensure!(said.about("volumes")?.contains("is not mounted"), "{said:?}");
    nothing_there(&machine)
}

fn socket_is_a_directory(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let folder = format!("{}:/var/run/docker.sock", machine.out().display());
    let said =
        Action::new(&machine).with_own_pids().without_socket().flags(&["-v", &folder]).env("IMAGE", "alpine").run()?;
    said.expect(NO_ENGINE, "volumes", "is a directory")?;
    ensure!(!said.err.contains("trying again"), "a folder never becomes a socket: {said:?}");
    nothing_there(&machine)
}

fn nobody_listens_on_the_socket(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    // What a dead dockerd leaves: a socket that nobody listens on. Its path is short enough for one.
    let folder = std::env::temp_dir().join(format!("waitdaemon-{}", machine.init()));
    fs::create_dir_all(&folder)?;
    let path = folder.join("docker.sock");
    drop(UnixListener::bind(&path)?);
    let mount = format!("{}:/var/run/docker.sock", path.display());
    let said = Action::new(&machine).without_socket().flags(&["-v", &mount]).env("IMAGE", "alpine").run();
    fs::remove_dir_all(&folder)?;
    said?.expect(NO_ENGINE, "volumes", "nothing is listening on the Docker socket")?;
    nothing_there(&machine)
}

/// Without dockerd no container starts; the program itself in the machine sees what a container would.
fn dockerd_is_dead(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    machine.kill_engine("KILL")?;
    let program = lab::paths::root().join("target/x86_64-unknown-linux-musl/release/waitdaemon");
    let run = output(machine.command(program).env_clear().env("IMAGE", "alpine"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let said = Said { code: run.status.code().unwrap_or(-1), out: text(run.stdout), err: text(run.stderr) };
    said.expect(NO_ENGINE, "volumes", "nothing is listening on the Docker socket")
}

fn nerdctl_is_not_there(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said = Action::new(&machine).env("IMAGE", "alpine").env("CONTAINER_RUNTIME", "nerdctl").run()?;
    said.expect(NO_ENGINE, "environment.CONTAINER_RUNTIME", "CaptainOS")?;
    nothing_there(&machine)
}

fn name_is_taken_by_a_foreign_container(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    machine.docker(&["create", "--name", USER, "alpine", "true"])?;
    let said = Action::new(&machine).env("IMAGE", "alpine").run()?;
    ensure!(said.code == FAILED && said.err.contains(USER) && said.err.contains("did not create"), "{said:?}");
    let left = machine.containers()?;
    ensure!(left.len() == 1 && left[0]["Name"] == format!("/{USER}"), "the foreign container must stay: {left:?}");
    Ok(())
}

fn image_is_not_in_the_registry(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let _registry = Registry::start(&machine, || machine.docker_command())?;
    // What is there is pulled and runs; so the refusals below are about the image, not the registry.
    let there = Action::new(&machine).env("IMAGE", "127.0.0.1:5000/ok:1").env("WAIT_SECONDS", "0").command(&["true"]);
    there.run_well()?;
    started_once_after(&machine, 0.0)?;
    nothing_left(&machine)?;
    for image in ["127.0.0.1:5000/none:1", "127.0.0.1:5000/ok:2"] {
        let said = Action::new(&machine).env("IMAGE", image).run()?;
        said.expect(FAILED, "environment.IMAGE", "manifest unknown")?;
        nothing_there(&machine)?;
    }
    Ok(())
}

fn registry_refuses_the_connection(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let said =
        Action::new(&machine).env("IMAGE", "127.0.0.1:5999/any:1").env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "2").run()?;
    said.expect(FAILED, "environment.IMAGE", "refused")?;
    nothing_there(&machine)
}

fn pull_fails_inside_its_stream(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let registry = Registry::start(&machine, || machine.docker_command())?;
    registry.spoil_layers()?;
    machine.docker(&["rmi", "-f", "alpine"])?;
    let said = Action::new(&machine).env("IMAGE", "127.0.0.1:5000/ok:1").run()?;
    drop(registry);
    said.expect(FAILED, "environment.IMAGE", "cannot pull")?;
    ensure!(said.out.contains("pulling it"), "the pull did not begin: {said:?}");
    nothing_there(&machine)
}

fn pull_takes_too_long(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let mut registry = Registry::start(&machine, || machine.docker_command())?;
    registry.slow_link(&machine, 50_000)?;
    machine.docker(&["rmi", "-f", "alpine"])?;
    let action = Action::new(&machine).env("IMAGE", "127.0.0.1:5001/ok:1").env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "7");
    let said = action.run()?;
    said.expect(FAILED, "environment.WAITDAEMON_PULL_TIMEOUT_SECONDS", "within 7 s")?;
    ensure!(said.out.contains("still pulling") && said.out.contains("bytes_known"), "no progress: {said:?}");
    nothing_there(&machine)
}
