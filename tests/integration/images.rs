//! IMAGE is the image of that name and no other, and it fits this machine; otherwise the action
//! fails before SUCCESS.

use anyhow::{Context, Result, ensure};
use lab::image::{self, Architecture, Entry};
use lab::machine::Machine;
use lab::registry::Registry;
use serde_json::json;

use crate::case;
use crate::cases::{ON_ALL, ON_CONTAINERD, ON_MAIN};
use crate::world::{Action, RUN, images, nothing_there, ran_once};

/// An architecture whose images this machine cannot run.
const OTHER: Architecture = Architecture::NATIVE.other();

/// Loads an image for another architecture, under the name `other:1`.
fn load_other(machine: &Machine) -> Result<()> {
    let path = images().join(format!("other-{}-{}.tar", std::process::id(), machine.init()));
    let entries = [Entry::Text("run", 0o755, "not a program of this machine".into())];
    image::write_for(OTHER, &path, "other:1", &json!({"Cmd": ["/run"]}), &entries)?;
    let every: &[&str] = if machine.is_docker() { &[] } else { &["--all-platforms"] };
    let file = path.display().to_string();
    machine.engine(&[&["load", "-q", "-i", &file], every].concat())?;
    std::fs::remove_file(path).map_err(Into::into)
}

/// Checks that the action fails, in a dry run and for real, and that the error names the
/// architecture.
fn is_refused(machine: &Machine, name: &str) -> Result<()> {
    for dry in ["true", "false"] {
        let said = Action::new(machine).env("IMAGE", name).env("WAITDAEMON_DRY_RUN", dry).run()?;
        let (image, own) = (OTHER.name(), Architecture::NATIVE.name());
        let words = format!("IMAGE is for {image}, this machine is {own}");
        said.expect(1, "environment.IMAGE", &words).with_context(|| format!("dry run {dry}"))?;
        nothing_there(machine)?;
    }
    Ok(())
}

case!(for_another_machine, ON_ALL, |machine| {
    load_other(&machine)?;
    is_refused(&machine, "other:1")
});

case!(for_another_machine_in_a_registry, ON_MAIN, |machine| {
    let _registry = Registry::start(&machine)?;
    load_other(&machine)?;
    let name = "127.0.0.1:5000/other:1";
    machine.engine(&["tag", "other:1", name])?;
    let every: &[&str] = if machine.is_docker() { &[] } else { &["--all-platforms"] };
    machine.engine(&[&["push"], every, &[name]].concat())?;
    machine.engine(&["rmi", name, "other:1"])?;
    // A dry run pulls nothing, and a single manifest does not say which platform it is for.
    let said = Action::new(&machine).env("IMAGE", name).run()?;
    said.expect(1, "environment.IMAGE", "architecture")?;
    nothing_there(&machine)
});

// Engines take an unknown name for the beginning of an ID.
case!(the_beginning_of_an_id, ON_ALL, |machine| {
    let document = machine.engine(&["image", "inspect", "--format", "{{.Id}}", "alpine"])?;
    let mut starts: Vec<String> = vec![document.trim_start_matches("sha256:")[..12].to_owned()];
    if !machine.is_docker() {
        let digests = machine.engine(&["images", "--no-trunc", "--quiet", "alpine"])?;
        starts.push(digests.trim_start_matches("sha256:")[..12].to_owned());
    }
    for start in starts {
        let action =
            Action::new(&machine).env("IMAGE", &start).env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "2");
        let said = action.command(&["true"]).run()?;
        said.expect(1, "environment.IMAGE", "cannot pull").with_context(|| start.clone())?;
        nothing_there(&machine)?;
    }
    Ok(())
});

// There is no registry: an image that is pinned by its digest is here, whatever its name.
case!(content_under_another_name, ON_CONTAINERD, |machine| {
    let digest = machine.engine(&["images", "--no-trunc", "--quiet", "alpine"])?;
    for name in ["alpine:latest", "alpine", "mirror.example.org/base/alpine"] {
        let image = format!("{name}@{digest}");
        let dry = Action::new(&machine)
            .env("IMAGE", &image)
            .env("WAITDAEMON_DRY_RUN", "true")
            .command(&["true"])
            .run()?;
        ensure!(dry.code == 0, "{image}: {dry:?}");
        Action::new(&machine).env("IMAGE", &image).wait("0").script(RUN).run_well()?;
        ran_once(&machine).with_context(|| image.clone())?;
        std::fs::remove_file(machine.out().join("runs"))?;
    }
    let other = format!("alpine@sha256:{}", "0a".repeat(32));
    let action =
        Action::new(&machine).env("IMAGE", &other).env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "2");
    action.command(&["true"]).run()?.expect(1, "environment.IMAGE", "cannot pull")?;
    nothing_there(&machine)
});
