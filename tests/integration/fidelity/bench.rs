//! Runs rows: the parts that all engines share.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::machine::Machine;
use serde_json::{Value, json};

use super::rows::{Became, Row};
use crate::world::is_meant;

/// The user images that rows name, and a repackaged waitdaemon.
pub const IMAGES: [&str; 6] = ["probe", "entrypoint", "both", "neither", "full", "own-full"];

/// Runs each row, cleans up after it, and fails with all rows that are wrong. See
/// [`crate::world::is_meant`].
pub fn run_all<'a>(
    rows: impl Iterator<Item = &'a Row>,
    run: impl Fn(&Row) -> Result<Became>,
    clear: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut wrong = Vec::new();
    let mut ran = 0;
    for row in rows.filter(|row| is_meant(row.setting)) {
        ran += 1;
        let found = match run(row) {
            Ok(became) => row.wrong(&became),
            Err(error) => Some(format!("{error:#}")),
        };
        let cleared = clear().err().map(|error| format!("{error:#}"));
        wrong.extend(
            found.into_iter().chain(cleared).map(|found| format!("{}:\n    {found}", row.setting)),
        );
    }
    ensure!(ran > 0, "no row was run");
    ensure!(wrong.is_empty(), "{} of {ran} rows are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

/// Makes the folders, files and the CDI device that rows refer to, and runs `more` in the machine.
pub fn prepare(machine: &Machine, more: &str) -> Result<()> {
    let out = machine.out();
    for folder in ["a", "b", "shared"] {
        fs::create_dir_all(out.join(folder))?;
    }
    fs::write(out.join("file"), "127.0.0.1 localhost\n")?;
    let script = format!(
        "mount --bind {0}/shared {0}/shared && mount --make-shared {0}/shared && mkdir -p /etc/cdi && {more}",
        out.display()
    );
    // The paths where the engine sees the mount and the socket.
    let mut shell =
        if machine.is_docker() { machine.command_of_engine("sh")? } else { machine.command("sh") };
    let done = shell.args(["-c", &script]).status()?;
    ensure!(done.success(), "cannot prepare the machine");
    let device = json!({"cdiVersion": "0.6.0", "kind": "example.org/lab", "devices": [
        {"name": "one", "containerEdits": {"env": ["CDI=one"], "deviceNodes": [{"path": "/dev/full"}]}}]});
    Ok(fs::write(format!("/proc/{}/root/etc/cdi/lab.json", machine.init()), device.to_string())?)
}

/// The text, with each `@WORD` replaced by its value.
pub fn filled(words: &[(&str, String)], text: String) -> String {
    words.iter().fold(text, |text, (word, value)| text.replace(word, value))
}

/// Removes our four labels, which must be there, from the user container's labels, except those
/// that are expected.
pub fn take_our_labels(labels: &mut Value, expected: &Value) -> Result<()> {
    let labels = labels.as_object_mut().context("no labels")?;
    for label in [
        "waitdaemon.role",
        "waitdaemon.action",
        "waitdaemon.handoff",
        "waitdaemon.made-by",
        "waitdaemon.request",
    ] {
        ensure!(labels.contains_key(label), "the user container lacks the label {label}");
        if expected.get(label).is_none() {
            labels.remove(label);
        }
    }
    Ok(())
}
