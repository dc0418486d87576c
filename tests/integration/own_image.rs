//! IMAGE is waitdaemon itself, which would make container after container. This is detected before
//! anything is made, by the image's content or its program. If waitdaemon is hidden in another
//! image, it refuses to run as the user container.

use anyhow::{Context, Result, ensure};
use lab::image::{self, Entry};
use lab::machine::{Machine, State};
use lab::registry::Registry;
use lab::until::until;
use serde_json::{Value, json};

use crate::case;
use crate::cases::ON_MAIN;
use crate::world::{
    Action, LIMIT, RUN, Said, USER, WAITER, count, images, nothing_there, own_program, ran_once,
    waiter_log, waiter_says,
};

const WORDS: &str = "IMAGE is waitdaemon itself";

/// Images of the same program with another configuration, and so with other content: archive, name,
/// ENTRYPOINT, CMD.
const REPACKAGED: [(&str, &str, &[&str], &[&str]); 3] = [
    ("repackaged", "site/repackaged:2", &["/waitdaemon"], &[]),
    ("under-init", "site/under-init:2", &["/sbin/tini", "--", "/waitdaemon"], &[]),
    ("as-cmd", "site/as-cmd:2", &[], &["/waitdaemon", "reboot"]),
];
/// An image that starts it through an unknown program, as an init would.
const HIDDEN: (&str, &str) = ("hidden", "site/hidden:1");

/// An image made from ours that starts our program by other words, and has arguments.
const LAUNCHED: (&str, &str) = ("launched", "site/launched:1");

/// Makes the images of these cases, once for all of them.
pub fn make_images() -> Result<()> {
    for (file, name, entrypoint, cmd) in REPACKAGED {
        let config = json!({"Entrypoint": entrypoint, "Cmd": cmd, "Env": ["SITE=1"], "Labels": {"site": "1"}, "WorkingDir": "/tmp"});
        image::waitdaemon_with(&archive(file), name, &own_program(), None, &config)?;
    }
    let entries = [
        Entry::File("waitdaemon", 0o755, own_program()),
        Entry::Link("waiter".into(), "waitdaemon"),
        Entry::Folder("journal", 0o1777),
        Entry::Text("launch", 0o755, "#!/bin/sh\nexec \"$@\"\n".into()),
    ];
    image::busybox(
        &archive(LAUNCHED.0),
        LAUNCHED.1,
        &json!({"Entrypoint": ["/launch", "/waitdaemon"], "Cmd": ["false"]}),
        &entries,
    )?;
    image::busybox(
        &archive(HIDDEN.0),
        HIDDEN.1,
        &json!({"Entrypoint": ["/launch", "/waitdaemon"]}),
        &entries,
    )
}

fn archive(name: &str) -> std::path::PathBuf {
    images().join(format!("own-{name}.tar"))
}

/// The action's command with this image: a CMD counts only if the action has no command.
fn command_for(image: &str) -> &'static [&'static str] {
    if image.contains("as-cmd") { &[] } else { &["reboot"] }
}

fn refused(said: &Said) -> Result<()> {
    said.expect(1, "environment.IMAGE", WORDS)
}

fn never_made(machine: &Machine) -> Result<()> {
    nothing_there(machine)?;
    ensure!(
        !machine.is_docker() || count(machine, "create", USER)? == 0,
        "a user container was made"
    );
    Ok(())
}

case!(is_refused, ON_MAIN, |machine| {
    machine.engine(&["tag", "waitdaemon:dev", "mirror.example/tools/pause:3"])?;
    let mut names = vec![
        "waitdaemon:dev",
        "ghcr.io/waitdaemon/waitdaemon:latest",
        "mirror.example/tools/pause:3",
    ];
    if !machine.is_docker() {
        names.push("docker.io/library/waitdaemon:dev");
    }
    for (file, name, ..) in REPACKAGED {
        machine.load(&archive(file))?;
        names.push(name);
    }
    for image in names {
        for dry in ["true", "false"] {
            let action =
                Action::new(&machine).env("IMAGE", image).wait("0").env("WAITDAEMON_DRY_RUN", dry);
            let said = action.command(command_for(image)).run()?;
            refused(&said).with_context(|| format!("{image}, dry run {dry}"))?;
            never_made(&machine)?;
        }
    }
    Ok(())
});

case!(is_refused_once_it_is_pulled, ON_MAIN, |machine| {
    let _registry = Registry::start(&machine)?;
    let (file, name, ..) = REPACKAGED[0];
    machine.load(&archive(file))?;
    for (from, image) in
        [("waitdaemon:dev", "127.0.0.1:5000/same:1"), (name, "127.0.0.1:5000/repackaged:1")]
    {
        machine.engine(&["tag", from, image])?;
        machine.engine(&["push", image])?;
        machine.engine(&["rmi", image])?;
        if from == name {
            machine.engine(&["rmi", name])?;
        }
        let said =
            Action::new(&machine).env("IMAGE", image).wait("0").command(&["reboot"]).run()?;
        refused(&said).with_context(|| image.to_owned())?;
        ensure!(said.out.contains("\"message\":\"pulled\""), "{image} was not pulled: {said:?}");
        never_made(&machine)?;
    }
    Ok(())
});

case!(a_user_container_refuses, ON_MAIN, |machine: Shared| {
    for dry in ["true", "false"] {
        let action = Action::alpine(&machine).flags(&["--label", "waitdaemon.role=user"]);
        let said = action.env("WAITDAEMON_DRY_RUN", dry).command(&["true"]).run()?;
        refused(&said).with_context(|| format!("dry run {dry}"))?;
        never_made(&machine)?;
    }
    // Only the label makes the difference.
    Action::alpine(&machine)
        .flags(&["--label", "role=user"])
        .command(&["true"])
        .run_well()
        .map(drop)
});

// SUCCESS cannot be prevented; there is no second user container, and the waiter says why.
case!(hidden_in_another_image, ON_MAIN, |machine| {
    machine.load(&archive(HIDDEN.0))?;
    Action::new(&machine).env("IMAGE", HIDDEN.1).wait("0").command(&["reboot"]).run_well()?;
    waiter_says(&machine, "failed with exit code 1")?;
    let code = until("the waiter's end", LIMIT, || {
        Ok(machine
            .seen(WAITER)
            .filter(|seen| seen.state == State::Ended)
            .map(|seen| seen.exit_code))
    })?;
    ensure!(code == Some(2), "the waiter ended with {code:?}");
    says_why(&waiter_log(&machine))?;
    let there = machine.list()?;
    let mut names: Vec<&str> = there.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_unstable();
    ensure!(names == [USER, WAITER], "{there}");
    if machine.is_docker() {
        let made = machine.events()?.iter().filter(|event| event.action == "create").count();
        ensure!(made == 3, "{made} containers were made: {:#?}", machine.events());
    }
    Ok(())
});

/// Checks that the waiter's errors contain the user container's last words and its exit code.
fn says_why(lines: &[Value]) -> Result<()> {
    let errors: Vec<String> =
        lines.iter().filter(|line| line["level"] == "ERROR").map(Value::to_string).collect();
    ensure!(
        errors.iter().any(|line| line.contains(WORDS)),
        "the user container's words are missing: {errors:?}"
    );
    ensure!(
        errors.iter().any(|line| line.contains("failed with exit code 1")),
        "the end is missing: {errors:?}"
    );
    Ok(())
}

// The user's words go across, and those of the action's image do not.
case!(an_image_made_from_ours_hands_over, ON_MAIN, |machine| {
    machine.load(&archive(LAUNCHED.0))?;
    let action = || Action::alpine(&machine).image(LAUNCHED.1).wait("0");
    action().script(RUN).run_well()?;
    ran_once(&machine)?;
    crate::world::load(&machine, "entrypoint")?;
    let action = action().env("IMAGE", "entrypoint:1").env("WAITDAEMON_WATCH_SECONDS", "1");
    action.run_well()?;
    let user = machine.inspect(USER)?;
    let words = if machine.is_docker() { &user["Args"] } else { &user["Spec"]["process"]["args"] };
    ensure!(words.is_array() && !words.to_string().contains("false"), "it runs {words}");
    Ok(())
});

// Then the action's first word is our own program, which is not the user's.
case!(an_image_without_an_entrypoint_hands_over, ON_MAIN, |machine| {
    let (file, name, ..) = REPACKAGED[2];
    machine.load(&archive(file))?;
    let action = Action::alpine(&machine).image(name).wait("0");
    action.command(&["/waitdaemon", "sh", "-c", RUN]).run_well()?;
    ran_once(&machine)
});
