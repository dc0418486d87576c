//! IMAGE is waitdaemon itself: it would make container after container. Known before anything is made, by its content or
//! its program; and if it is hidden in another image, the user container that is waitdaemon refuses.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::image::{self, Entry};
use lab::machine::{Engine, output};
use lab::registry::Registry;
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::{captain, containers, log as captain_log, reported};
use crate::world::{
    ACTION, Action, LIMIT, Said, USER, WAITER, await_event, count, images, log, machine, nothing_there, own_program,
};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![is_refused, is_refused_once_it_is_pulled, a_user_container_refuses, hidden_in_another_image]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::own_image::is_refused", captain_is_refused),
        ("captain::own_image::is_refused_once_it_is_pulled", captain_is_refused_once_it_is_pulled),
        ("captain::own_image::a_user_container_refuses", captain_a_user_container_refuses),
        ("captain::own_image::hidden_in_another_image", captain_hidden_in_another_image),
    ]
}

const WORDS: &str = "IMAGE is waitdaemon itself";

/// The same program with another configuration, so of another content: archive, name, ENTRYPOINT, CMD.
const REPACKAGED: [(&str, &str, &[&str], &[&str]); 3] = [
    ("repackaged", "site/repackaged:2", &["/waitdaemon"], &[]),
    ("under-init", "site/under-init:2", &["/sbin/tini", "--", "/waitdaemon"], &[]),
    ("as-cmd", "site/as-cmd:2", &[], &["/waitdaemon", "reboot"]),
];
/// Started by a program that nobody knows, as an init would.
const HIDDEN: (&str, &str) = ("hidden", "site/hidden:1");

/// Makes the images of these cases, once for all of them.
pub fn make_images() -> Result<()> {
    for (file, name, entrypoint, cmd) in REPACKAGED {
        let config = json!({"Entrypoint": entrypoint, "Cmd": cmd, "Env": ["SITE=1"], "Labels": {"site": "1"}, "WorkingDir": "/tmp"});
        image::waitdaemon_with(&archive(file), name, &own_program(), None, &config)?;
    }
    let entries = [
        Entry::File("waitdaemon", 0o755, own_program()),
        Entry::Text("launch", 0o755, "#!/bin/sh\nexec \"$@\"\n".into()),
    ];
    image::busybox(&archive(HIDDEN.0), HIDDEN.1, &json!({"Entrypoint": ["/launch", "/waitdaemon"]}), &entries)
}

fn archive(name: &str) -> std::path::PathBuf {
    images().join(format!("own-{name}.tar"))
}

/// A CMD counts only if the action has no command.
fn command_for(image: &str) -> &'static [&'static str] {
    if image.contains("as-cmd") { &[] } else { &["reboot"] }
}

fn refused(said: &Said) -> Result<()> {
    said.expect(1, "environment.IMAGE", WORDS)
}

fn is_refused(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    machine.docker(&["tag", "waitdaemon:dev", "mirror.example/tools/pause:3"])?;
    let mut names = vec!["waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest", "mirror.example/tools/pause:3"];
    for (file, name, ..) in REPACKAGED {
        machine.load(&archive(file))?;
        names.push(name);
    }
    for image in names {
        for dry in ["true", "false"] {
            let action = Action::new(&machine).env("IMAGE", image).env("WAIT_SECONDS", "0");
            let said = action.env("WAITDAEMON_DRY_RUN", dry).command(command_for(image)).run()?;
            refused(&said).with_context(|| format!("{image}, dry run {dry}"))?;
            nothing_there(&machine)?;
        }
    }
    ensure!(count(&machine, "create", USER)? == 0, "a user container was made");
    Ok(())
}

fn is_refused_once_it_is_pulled(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let _registry = Registry::start(&machine, || machine.docker_command())?;
    let (file, name, ..) = REPACKAGED[0];
    machine.load(&archive(file))?;
    for (from, image) in [("waitdaemon:dev", "127.0.0.1:5000/same:1"), (name, "127.0.0.1:5000/repackaged:1")] {
        machine.docker(&["tag", from, image])?;
        machine.docker(&["push", image])?;
        machine.docker(&["rmi", image])?;
        if from == name {
            machine.docker(&["rmi", name])?;
        }
        let said = Action::new(&machine).env("IMAGE", image).env("WAIT_SECONDS", "0").command(&["reboot"]).run()?;
        refused(&said).with_context(|| image.to_owned())?;
        ensure!(said.out.contains("\"message\":\"pulled\""), "{image} was not pulled: {said:?}");
        nothing_there(&machine)?;
    }
    ensure!(count(&machine, "create", USER)? == 0, "a user container was made");
    Ok(())
}

fn a_user_container_refuses(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    for dry in ["true", "false"] {
        let action = Action::new(&machine).flags(&["--label", "waitdaemon.role=user"]).env("IMAGE", "alpine");
        let said = action.env("WAITDAEMON_DRY_RUN", dry).command(&["true"]).run()?;
        refused(&said).with_context(|| format!("dry run {dry}"))?;
        nothing_there(&machine)?;
    }
    // The label alone makes the difference.
    Action::new(&machine)
        .flags(&["--label", "role=user"])
        .env("IMAGE", "alpine")
        .command(&["true"])
        .run_well()
        .map(drop)
}

/// SUCCESS cannot be helped; there is no second user container, and the waiter says why.
fn hidden_in_another_image(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    machine.load(&archive(HIDDEN.0))?;
    Action::new(&machine).env("IMAGE", HIDDEN.1).env("WAIT_SECONDS", "0").command(&["reboot"]).run_well()?;
    let end = await_event(&machine, "die", WAITER)?;
    let (_, said) = log(&machine, WAITER)?;
    ensure!(end.exit_code == Some(2), "the waiter ended with {end:?}: {said:?}");
    says_why(&said)?;
    let made = machine.events()?.iter().filter(|event| event.action == "create").count();
    ensure!(made == 3, "{made} containers were made: {:#?}", machine.events());
    Ok(())
}

/// The waiter's errors hold the user container's last words and its exit code.
fn says_why(lines: &[Value]) -> Result<()> {
    let errors: Vec<String> = lines.iter().filter(|line| line["level"] == "ERROR").map(Value::to_string).collect();
    ensure!(errors.iter().any(|line| line.contains(WORDS)), "the user container's words are missing: {errors:?}");
    ensure!(errors.iter().any(|line| line.contains("failed with exit code 1")), "the end is missing: {errors:?}");
    Ok(())
}

/// The agent reports FAILED; its log, and that nothing of ours is left.
fn agent_refused(captain: &Captain, image: &str, dry: &str) -> Result<String> {
    let environment = json!({"IMAGE": image, "WAIT_SECONDS": "0", "WAITDAEMON_DRY_RUN": dry});
    let agent = reported(captain, json!({"command": command_for(image), "environment": environment}), "FAILED")?;
    let text = agent.log();
    let line = text.lines().find(|line| line.contains(WORDS) && line.contains("environment.IMAGE"));
    line.with_context(|| format!("{image}, dry run {dry}: {text}"))?;
    let left = containers(captain)?;
    ensure!(!left.contains(&format!("{ACTION}-")), "{image}: containers are left: {left}");
    Ok(text)
}

fn captain_is_refused() -> Result<()> {
    let captain = captain()?;
    captain.nerdctl(&["tag", "waitdaemon:dev", "mirror.example/tools/pause:3"])?;
    let mut names = vec!["waitdaemon:dev", "docker.io/library/waitdaemon:dev", "mirror.example/tools/pause:3"];
    for (file, name, ..) in REPACKAGED {
        captain.load(&archive(file))?;
        names.push(name);
    }
    for image in names {
        for dry in ["true", "false"] {
            agent_refused(&captain, image, dry)?;
        }
    }
    Ok(())
}

fn captain_is_refused_once_it_is_pulled() -> Result<()> {
    let captain = captain()?;
    let _registry = Registry::start(&captain, || captain.nerdctl_command())?;
    let (file, name, ..) = REPACKAGED[0];
    captain.load(&archive(file))?;
    for (from, image) in [("waitdaemon:dev", "127.0.0.1:5000/same:1"), (name, "127.0.0.1:5000/repackaged:1")] {
        captain.nerdctl(&["tag", from, image])?;
        captain.nerdctl(&["push", image])?;
        captain.nerdctl(&["rmi", image])?;
        if from == name {
            captain.nerdctl(&["rmi", name])?;
        }
        let text = agent_refused(&captain, image, "false")?;
        ensure!(text.contains("\"message\":\"pulled\""), "{image} was not pulled: {text}");
    }
    Ok(())
}

fn captain_a_user_container_refuses() -> Result<()> {
    let captain = captain()?;
    for dry in ["true", "false"] {
        let mut run = captain.nerdctl_command();
        run.args(["run", "--rm", "--name", ACTION, "--pid=host", "--privileged", "--label", "waitdaemon.role=user"]);
        run.args(["-e", "IMAGE=alpine", "-e", &format!("WAITDAEMON_DRY_RUN={dry}"), "waitdaemon:dev", "true"]);
        let said = output(&mut run)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = said.status.code().unwrap_or(-1);
        refused(&Said { code, out: text(&said.stdout), err: text(&said.stderr) })
            .with_context(|| format!("dry run {dry}"))?;
        let left = containers(&captain)?;
        ensure!(left.is_empty(), "containers are left: {left}");
    }
    Ok(())
}

fn captain_hidden_in_another_image() -> Result<()> {
    let captain = captain()?;
    captain.load(&archive(HIDDEN.0))?;
    let file = captain.out().join("actions.yaml");
    let environment = json!({"IMAGE": HIDDEN.1, "WAIT_SECONDS": "0"});
    let action = json!([{"name": "last", "image": "waitdaemon:dev", "timeout": 90, "pid": "host",
                         "command": ["reboot"], "environment": environment}]);
    fs::write(&file, action.to_string())?;
    let agent = Agent::start(&captain, Runtime::Containerd, &file)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    let why = until("the waiter's words", LIMIT, || Ok(says_why(&captain_log(&captain)).is_ok().then_some(())));
    why.with_context(|| captain.container_logs())?;
    let there = containers(&captain)?;
    let mut names: Vec<&str> = there.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_unstable();
    ensure!(names == [USER, WAITER], "{there}");
    Ok(())
}
