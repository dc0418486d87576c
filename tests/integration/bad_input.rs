//! Bad input: each kind gets its exit code and a line that names the template field, and leaves
//! nothing.

use std::fs;
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, output};
use lab::registry::Registry;
use lab::system::System;

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_DOCKER_MAIN, ON_MAIN, ON_VERSIONS};
use crate::world::{
    Action, RUN, Said, USER, WAITER, load, nothing_left, nothing_there, own_program, ran_once,
};

const INVALID: i32 = 78;
const NO_ENGINE: i32 = 12;
const FAILED: i32 = 1;
case!(wait_seconds_is_not_a_number, ON_MAIN, |machine: Shared| {
    for value in ["abc", "-1", "1.5", " 5", "86401", "123456789012345678901234567890"] {
        let said = Action::alpine(&machine).wait(value).run()?;
        said.expect(INVALID, "environment.WAIT_SECONDS", "whole number")?;
        ensure!(
            said.err.contains(&format!("\"value\":\"{value}\"")),
            "the value is not shown: {said:?}"
        );
    }
    nothing_there(&machine)
});

case!(image_is_not_set, ON_MAIN, |machine: Shared| {
    let said = Action::new(&machine).run()?;
    said.expect(INVALID, "environment.IMAGE", "IMAGE is not set")?;
    nothing_there(&machine)
});

case!(image_is_malformed, ON_MAIN, |machine: Shared| {
    for image in
        ["--privileged", "../x", "Alpine", "a b", "alpine:", "alpine\n", "alpine\n--privileged"]
    {
        let said = Action::new(&machine).env("IMAGE", image).run()?;
        said.expect(INVALID, "environment.IMAGE", "set IMAGE to")?;
    }
    nothing_there(&machine)
});

/// Our parser accepts these names, which have the form that the distribution project gave them
/// later. The engine decides: an older one says that the name is invalid, a newer one that there is
/// no such registry or repository.
const STRANGE_NAMES: [&str; 3] =
    ["UPPER/x", "Registry/x:1", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"];

case!(image_is_a_name_that_the_engine_does_not_take, ON_VERSIONS, |machine: Shared| {
    for image in STRANGE_NAMES {
        for dry in ["true", "false"] {
            let action = Action::new(&machine)
                .env("IMAGE", image)
                .env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "3");
            let said = action.env("WAITDAEMON_DRY_RUN", dry).command(&["true"]).run()?;
            said.expect(FAILED, "environment.IMAGE", image)?;
            nothing_there(&machine)?;
            if machine.is_docker() {
                // The engine's own message that the name is invalid has a fix of its own.
                let about = said.about("environment.IMAGE")?;
                let refused = ["invalid reference format", "repository name must be lowercase"];
                let refused = refused.iter().any(|words| about.contains(words));
                ensure!(refused == about.contains("use lower-case letters"), "{about}");
                let is_old = machine.system() == System::DockerOld;
                ensure!(
                    refused || !is_old || !image.contains('/'),
                    "20.10 takes the name: {about}"
                );
            }
        }
    }
    Ok(())
});

case!(several_problems_at_once, ON_MAIN, |machine: Shared| {
    let said = Action::new(&machine).wait("x").env("CONTAINER_RUNTIME", "podman").run()?;
    for field in ["environment.IMAGE", "environment.WAIT_SECONDS", "environment.CONTAINER_RUNTIME"]
    {
        said.about(field)?;
    }
    ensure!(said.code == INVALID && said.err.lines().count() == 3, "{said:?}");
    nothing_there(&machine)
});

// Values as long as the kernel accepts for a variable and an argument (128 KiB with its end,
// execve(2)), and values that look like flags.
case!(hostile_values_are_only_data, ON_MAIN, |machine: Shared| {
    let long = "x".repeat(131_060);
    let script = "printf '%s\\n' ${#BIG} ${#1} \"$2\" \"$FLAG\" > /out/seen";
    let action =
        Action::alpine(&machine).wait("0").env("BIG", &long).env("FLAG", "--privileged\n--name=x");
    let said = action
        .command(&["sh", "-c", script, "name", &long, "--volume=/../version:/host"])
        .run_well()?;
    nothing_left(&machine)?;
    let seen =
        fs::read_to_string(machine.out().join("seen")).with_context(|| format!("{said:?}"))?;
    ensure!(
        seen == "131060\n131060\n--volume=/../version:/host\n--privileged\n--name=x\n",
        "{seen:?}"
    );
    Ok(())
});

case!(docker_host_with_tls, ON_DOCKER_MAIN, |machine: Shared| {
    let said = Action::alpine(&machine).env("DOCKER_HOST", "https://10.0.0.1:2376").run()?;
    said.expect(INVALID, "environment.DOCKER_HOST", "without TLS")?;
    nothing_there(&machine)
});

case!(tls_beside_a_plain_docker_host, ON_DOCKER_MAIN, |machine: Shared| {
    for (name, value) in
        [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/certs"), ("DOCKER_TLS", "true")]
    {
        let action =
            Action::alpine(&machine).env("DOCKER_HOST", "tcp://127.0.0.1:2376").env(name, value);
        action.run()?.expect(INVALID, &format!("environment.{name}"), "TLS")?;
    }
    nothing_there(&machine)
});

// The file has no end, or nobody writes to it: the action must not hang.
case!(the_password_is_not_in_a_file, ON_MAIN, |machine| {
    let folder = machine.folder().join("secret");
    fs::create_dir_all(&folder)?;
    let made = output(std::process::Command::new("mkfifo").arg(folder.join("fifo")))?;
    ensure!(made.status.success(), "mkfifo: {made:?}");
    fs::write(folder.join("empty"), "\n")?;
    for (file, words) in [
        ("/secret/fifo", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("/secret/empty", "it is empty"),
    ] {
        let action = Action::alpine(&machine)
            .volume(&format!("{}:/secret:ro", folder.display()))
            .timeout(30);
        let action = action
            .env("WAITDAEMON_REGISTRY_USERNAME", "fleet")
            .env("WAITDAEMON_REGISTRY_PASSWORD_FILE", file);
        action.run()?.expect(INVALID, "environment.WAITDAEMON_REGISTRY_PASSWORD_FILE", words)?;
    }
    nothing_there(&machine)
});

case!(socket_is_not_mounted, ON_DOCKER_MAIN, |machine: Shared| {
    let said = Action::alpine(&machine).with_own_pids().without_socket().run()?;
    said.expect(NO_ENGINE, "volumes", "/var/run/docker.sock:/var/run/docker.sock")?;
    ensure!(said.about("volumes")?.contains("is not mounted"), "{said:?}");
    nothing_there(&machine)
});

case!(socket_is_a_directory, ON_DOCKER_MAIN, |machine: Shared| {
    let folder = format!("{}:/var/run/docker.sock", machine.out().display());
    let said = Action::alpine(&machine).with_own_pids().without_socket().volume(&folder).run()?;
    said.expect(NO_ENGINE, "volumes", "is a directory")?;
    ensure!(!said.err.contains("trying again"), "a folder never becomes a socket: {said:?}");
    nothing_there(&machine)
});

case!(nothing_listens_on_the_socket, ON_DOCKER_MAIN, |machine: Shared| {
    // A dead dockerd leaves a socket on which nothing listens. The path here is short enough for a
    // socket.
    let folder = std::env::temp_dir().join(format!("waitdaemon-{}", machine.init()));
    fs::create_dir_all(&folder)?;
    let path = folder.join("docker.sock");
    drop(UnixListener::bind(&path)?);
    let mount = format!("{}:/var/run/docker.sock", path.display());
    let said = Action::alpine(&machine).without_socket().volume(&mount).run();
    fs::remove_dir_all(&folder)?;
    said?.expect(NO_ENGINE, "volumes", "nothing is listening on the Docker socket")?;
    nothing_there(&machine)
});

/// What the program says when it runs in the machine itself, outside any container.
fn outside(machine: &Machine) -> Result<Said> {
    // In its own mount namespace it sees what a container would see; on HookOS, through the volume.
    let see = match machine.system() {
        System::HookOS => {
            "touch /run/docker.sock && mount --bind /run/docker/docker.sock /run/docker.sock"
        }
        _ => ":",
    };
    let mut run = machine.command("unshare");
    let script = format!("{see} && exec env -i IMAGE=alpine \"$0\"");
    let run = output(run.args(["-m", "sh", "-c", &script]).arg(own_program()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said {
        code: run.status.code().unwrap_or(-1),
        out: text(run.stdout),
        err: text(run.stderr),
        report: None,
    })
}

// No container starts without dockerd, so the program runs in the machine itself, where it sees
// what a container would see.
case!(dockerd_is_dead, ON_DOCKER_MAIN, |machine| {
    machine.kill_engine("KILL")?;
    outside(&machine)?.expect(NO_ENGINE, "volumes", "nothing is listening on the Docker socket")
});

case!(containerd_is_stopped, ON_CAPTAIN, |machine| {
    ensure!(machine.command("systemctl").args(["stop", "containerd"]).status()?.success());
    let said = outside(&machine)?;
    ensure!(said.code == NO_ENGINE, "{said:?}");
    for words in ["no answer from containerd by the host's nerdctl", "is not mounted"] {
        ensure!(said.err.contains(words), "{words:?} is missing: {said:?}");
    }
    Ok(())
});

case!(nerdctl_is_not_there, ON_DOCKER_MAIN, |machine: Shared| {
    let said = Action::alpine(&machine).env("CONTAINER_RUNTIME", "nerdctl").run()?;
    said.expect(NO_ENGINE, "environment.CONTAINER_RUNTIME", "CaptainOS")?;
    nothing_there(&machine)
});

case!(nerdctl_is_missing, ON_CAPTAIN, |machine| {
    ensure!(machine.command("mv").args(["/usr/local/bin/nerdctl", "/opt/"]).status()?.success());
    let said = Action::alpine(&machine).run()?;
    ensure!(said.code != 0 && said.all().contains("the host has no nerdctl"), "{said:?}");
    Ok(())
});

// The failures that only containerd's side can have.
case!(access_to_nerdctl_is_missing, ON_CAPTAIN, |machine: Shared| {
    let alpine = || Action::alpine(&machine);
    let said = alpine().with_own_pids().run()?;
    ensure!(said.code != 0 && said.all().contains("add to the action:  pid: host"), "{said:?}");
    let said = alpine().env("CONTAINER_RUNTIME", "docker").run()?;
    ensure!(said.code != 0 && said.all().contains("is not mounted"), "{said:?}");
    alpine().env("NERDCTL_NAMESPACE", "--help").run()?.expect(
        INVALID,
        "environment.NERDCTL_NAMESPACE",
        "NERDCTL_NAMESPACE",
    )?;
    // Where it is not known, it may be Docker that runs it and could not be reached.
    let said = alpine().env("NERDCTL_NAMESPACE", "elsewhere").run()?;
    said.expect(FAILED, "environment.NERDCTL_NAMESPACE", "is not among those of containerd")?;
    for words in ["Docker is not used", "is not mounted"] {
        ensure!(said.err.contains(words), "{words:?} is missing: {said:?}");
    }
    nothing_there(&machine)
});

case!(name_is_taken_by_a_foreign_container, ON_MAIN, |machine: Shared| {
    machine.engine(&["create", "--name", USER, "alpine", "true"])?;
    let foreign = machine.seen(USER).context("no foreign container")?;
    let said = Action::alpine(&machine).run()?;
    ensure!(
        said.code == FAILED && said.err.contains(USER) && said.err.contains("did not create"),
        "{said:?}"
    );
    ensure!(
        machine.seen(USER) == Some(foreign),
        "the foreign container must stay: {}",
        machine.list()?
    );
    ensure!(!machine.has(WAITER), "a waiter is left: {}", machine.list()?);
    Ok(())
});

case!(image_is_not_in_the_registry, ON_MAIN, |machine| {
    let _registry = Registry::start(&machine)?;
    // An image that exists is pulled and runs, so the refusals below are about the image, not the
    // registry.
    Action::new(&machine).env("IMAGE", "127.0.0.1:5000/ok:1").wait("0").script(RUN).run_well()?;
    ran_once(&machine)?;
    for image in ["127.0.0.1:5000/none:1", "127.0.0.1:5000/ok:2"] {
        let said = Action::new(&machine).env("IMAGE", image).run()?;
        // The containerd image store and nerdctl say "not found".
        let unknown = said.err.contains("manifest unknown") || said.err.contains("not found");
        said.expect(FAILED, "environment.IMAGE", "cannot pull the image")?;
        ensure!(unknown, "{said:?}");
        nothing_there(&machine)?;
    }
    Ok(())
});

case!(registry_refuses_the_connection, ON_MAIN, |machine: Shared| {
    let action = Action::new(&machine).env("IMAGE", "127.0.0.1:5999/any:1");
    let said = action.env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "2").run()?;
    said.expect(FAILED, "environment.IMAGE", "refused")?;
    nothing_there(&machine)
});

// To containerd a truncated layer is a broken connection, which may be transient: it is tried until
// the time is over.
case!(pull_fails_inside_its_stream, ON_DOCKER_MAIN, |machine| {
    let registry = Registry::start(&machine)?;
    registry.spoil_layers()?;
    machine.engine(&["rmi", "-f", "alpine"])?;
    let action = Action::new(&machine).env("IMAGE", "127.0.0.1:5000/ok:1");
    let said = action.env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "10").run()?;
    drop(registry);
    said.expect(FAILED, "environment.IMAGE", "cannot pull")?;
    ensure!(said.out.contains("pulling it"), "the pull did not begin: {said:?}");
    nothing_there(&machine)
});

case!(pull_takes_too_long, ON_MAIN, |machine| {
    let mut registry = Registry::start(&machine)?;
    registry.slow_link(&machine, 50_000)?;
    machine.engine(&["rmi", "-f", "alpine"])?;
    let action = Action::new(&machine)
        .env("IMAGE", "127.0.0.1:5001/ok:1")
        .env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "7");
    let said = action.run()?;
    ensure!(said.code == FAILED && said.err.contains("within 7 s"), "{said:?}");
    let progress = if machine.is_docker() { "bytes_known" } else { "still pulling" };
    ensure!(
        said.out.contains("still pulling") && said.out.contains(progress),
        "no progress: {said:?}"
    );
    nothing_there(&machine)
});

// A request gets no answer at all, not even a refusal.
case!(registry_does_not_answer, ON_CAPTAIN, |machine| {
    let rule = ["-A", "INPUT", "-i", "lo", "-p", "tcp", "--dport", "5998", "-j", "DROP"];
    ensure!(machine.command("iptables").args(rule).status()?.success());
    let action = Action::new(&machine).env("IMAGE", "127.0.0.1:5998/any:1");
    let said = action.env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "6").run()?;
    ensure!(said.code == FAILED && said.err.contains("was not pulled within 6 s"), "{said:?}");
    ensure!(said.out.contains("still pulling"), "no progress: {said:?}");
    nothing_there(&machine)
});

// Neither the action nor the image says what to run.
case!(there_is_nothing_to_run, ON_MAIN, |machine| {
    load(&machine, "neither")?;
    let said = Action::new(&machine).env("IMAGE", "neither:1").run()?;
    ensure!(said.code == FAILED && said.err.contains("says what to run"), "{said:?}");
    nothing_there(&machine)
});
