//! Runs the rows on a real containerd with nerdctl. nerdctl itself is the measure: the user
//! container must be what nerdctl makes of the action's own flags with IMAGE, by its labels and its
//! OCI spec.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::machine::Machine;
use lab::system::System;
use lab::until::until;
use serde_json::{Value, json};

use super::bench::{IMAGES, filled, prepare, run_all, take_our_labels};
use super::compare::{differences, without_id};
use super::docker::{disk, with_volumes};
use super::rows::{Became, Row, Set};
use crate::world::{
    ACTION, LIMIT, SUCCEEDED, USER, WAITER, load, machine, own_image_with_nerdctl, waiter_log,
};

/// How often a failed action is retried if nerdctl lost its output: nerdctl's logger stops when the
/// container ends, whether or not it has read everything (nerdctl 2.2.1, `pkg/logging`,
/// `loggingProcessAdapter`).
const TRIES: usize = 3;
/// How long a container's last output may take to reach its log.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// Runs all rows of a group.
pub fn run(system: System, rows: &[Row]) -> Result<()> {
    let bench = Bench::new(system)?;
    run_all(
        rows.iter().filter(|row| row.is_in(system.api())),
        |row| bench.row(row),
        || bench.clear(),
    )
}

/// A machine with everything that rows refer to.
struct Bench {
    machine: Machine,
    words: Vec<(&'static str, String)>,
    fixtures: Vec<String>,
    baselines: std::cell::RefCell<HashMap<String, Value>>,
}

impl Bench {
    fn new(system: System) -> Result<Self> {
        let machine = machine(system)?;
        machine.load(&own_image_with_nerdctl())?;
        for image in IMAGES {
            load(&machine, image)?;
        }
        prepare(&machine, "ip netns add lab")?;
        let out = machine.out();
        let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]});
        fs::write(out.join("seccomp.json"), seccomp.to_string())?;
        machine.engine(&["network", "create", "--subnet", "10.7.0.0/24", "front"])?;
        machine.engine(&["network", "create", "--subnet", "10.6.0.0/24", "back"])?;
        let other = with_volumes(&machine, "other", &["--ipc", "shareable"])?;
        let words =
            vec![("@OUT", out.display().to_string()), ("@OTHER", other), ("@DISK", disk()?)];
        with_volumes(&machine, "plain", &[])?;
        let fixtures =
            machine.engine(&["ps", "-aq", "--no-trunc"])?.lines().map(str::to_owned).collect();
        Ok(Self { machine, words, fixtures, baselines: HashMap::new().into() })
    }

    fn row(&self, row: &Row) -> Result<Became> {
        for _ in 0..TRIES {
            if let Some(became) = self.try_row(row)? {
                return Ok(became);
            }
            self.clear()?;
        }
        bail!("{TRIES} times the action failed and nerdctl logged nothing that it said")
    }

    /// Tries a row; returns `None` if nerdctl lost the output of a failed action.
    fn try_row(&self, row: &Row) -> Result<Option<Became>> {
        let Set::Flags(flags, arguments) = &row.set else { bail!("no row of nerdctl") };
        let flags: Vec<String> =
            flags.iter().map(|flag| filled(&self.words, flag.clone())).collect();
        if let Err(word) = self.make(&["run", "-d"], ACTION, row.own, row, &flags, arguments)? {
            return Ok(Some(Became::EngineRefused(word)));
        }
        let anonymous = self.anonymous(ACTION)?;
        let code = self.machine.engine(&["wait", ACTION])?;
        if code != "0" {
            // The last output may reach the log a moment after the container's end.
            let text = until("the handoff's error", LOG_LIMIT, || {
                let said = lab::nest::output(self.machine.engine_command().args(["logs", ACTION]))?;
                let text =
                    String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
                Ok(text.contains("\"level\":\"ERROR\"").then_some(text))
            });
            let Ok(text) = text else { return Ok(None) };
            for name in [USER, WAITER] {
                ensure!(!self.machine.has(name), "a failed handoff ({code}) left {name}: {text}");
            }
            return Ok(Some(Became::Refused(text)));
        }
        // The action's exit code is needed until then. What it holds, such as an address, is free
        // once it is gone. nerdctl may have lost the line; a user container that was started shows
        // the same.
        until("the waiter to know how the action ended", LIMIT, || {
            let said = waiter_log(&self.machine).iter().any(|line| line["message"] == SUCCEEDED);
            Ok((said || self.machine.has_task(USER)).then_some(()))
        })
        .with_context(|| {
            let there = self
                .machine
                .engine(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])
                .unwrap_or_default();
            format!("{there}\n{}", self.machine.container_logs())
        })?;
        self.remove(&[ACTION])?;
        let user = until("the user container's start", LIMIT, || {
            if !self.machine.has_task(USER) {
                return Ok(None);
            }
            let user = self.machine.inspect(USER)?;
            Ok((user["Process"]["Status"]["Status"] == "running").then_some(user))
        });
        let user =
            user.with_context(|| self.machine.engine(&["logs", WAITER]).unwrap_or_default())?;
        let mut user = self.all_of(&user, &anonymous)?;
        self.remove(&[WAITER, USER])?;

        self.remove_files();
        let expected = self.made(row, &flags, arguments)?;
        take_our_labels(&mut user["Labels"], &expected["Labels"])?;
        let shows = expected != self.baseline(row)?;
        let silent = row.without_effect.contains(&self.machine.system());
        ensure!(shows != silent, "the setting {} effect", if shows { "has an" } else { "has no" });
        Ok(Some(Became::Copied(differences(&user, &expected))))
    }

    /// What nerdctl makes of these flags, under the user container's name.
    fn made(&self, row: &Row, flags: &[String], arguments: &[String]) -> Result<Value> {
        // All of it exists before the start.
        if let Err(word) = self.make(&["create"], USER, row.image, row, flags, arguments)? {
            bail!("nerdctl refuses the user container's own flags: {word}");
        }
        let all = self.all_of(&self.machine.inspect(USER)?, &[])?;
        self.remove(&[USER])?;
        Ok(all)
    }

    /// What nerdctl makes of no flags except those that an action needs anyhow.
    fn baseline(&self, row: &Row) -> Result<Value> {
        let Set::Flags(flags, _) = &row.set else { bail!("no row of nerdctl") };
        let needed = ["--pid=host", "--cap-add=ALL", "--security-opt=apparmor=unconfined"];
        let needed: Vec<String> =
            flags.iter().filter(|flag| needed.contains(&flag.as_str())).cloned().collect();
        if row.image == "neither:1" {
            return Ok(Value::Null);
        }
        let key = format!("{} {} {needed:?}", row.image, row.networked);
        if let Some(known) = self.baselines.borrow().get(&key) {
            return Ok(known.clone());
        }
        let made = self.made(row, &needed, &[])?;
        self.baselines.borrow_mut().insert(key, made.clone());
        Ok(made)
    }

    fn anonymous(&self, container: &str) -> Result<Vec<String>> {
        let document = self.machine.inspect(container)?;
        let label = document["Labels"]["nerdctl/anonymous-volumes"].as_str().unwrap_or("[]");
        Ok(serde_json::from_str(label)?)
    }

    /// Everything that matters about a container. The name of an anonymous volume is replaced by a
    /// word: the action's or a new one.
    fn all_of(&self, document: &Value, of_action: &[String]) -> Result<Value> {
        let id = document["ID"].as_str().context("no ID")?;
        let label = document["Labels"]["nerdctl/anonymous-volumes"].as_str().unwrap_or("[]");
        let mut new: Vec<String> = serde_json::from_str(label)?;
        new.retain(|name| !of_action.contains(name));
        let mut labels = document["Labels"].clone();
        if let Some(labels) = labels.as_object_mut() {
            // These labels say what happened to the container, not what it is. `error` comes from a
            // first start that failed, for example because the action's address was not free yet.
            // `privileged` repeats the specification since nerdctl 2.3; a bundled 2.2 lacks it.
            let states = [
                "containerd.io/restart.explicitly-stopped",
                "containerd.io/restart.status",
                "nerdctl/healthstate",
                "nerdctl/error",
                "nerdctl/privileged",
            ];
            labels.retain(|key, _| !states.contains(&key.as_str()));
        }
        for (_, value) in labels.as_object_mut().into_iter().flatten() {
            // Many labels hold JSON; the order of its keys has no meaning.
            if let Some(Ok(inner)) =
                value.as_str().filter(|text| text.starts_with(['{', '['])).map(serde_json::from_str)
            {
                *value = inner;
            }
        }
        if let Some(labels) = labels.as_object_mut() {
            // nerdctl 2.3.2 and later has a label for each mount; a bundled nerdctl may be older
            // than the machine's.
            let numbered: Vec<Value> =
                (0..).map_while(|n| labels.remove(&format!("nerdctl/mounts.{n}"))).collect();
            if !numbered.is_empty() {
                labels.insert("nerdctl/mounts".into(), numbered.into());
            }
        }
        let mut spec = document["Spec"].clone();
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.sort_by_key(|mount| mount["destination"].to_string());
        }
        if let Some(annotations) = spec["annotations"].as_object_mut() {
            // These are copies of the labels.
            annotations.retain(|key, _| !key.contains("nerdctl/"));
        }
        if let Some(hooks) = spec["hooks"]["createRuntime"].as_array_mut() {
            for hook in hooks {
                hook["env"] = Value::Null;
            }
        }
        let all = json!({"Labels": labels, "Spec": spec, "Runtime": document["Runtime"], "Image": document["Image"]});
        let named = |names: &[String], word: &str, text: String| {
            names.iter().fold(text, |text, name| text.replace(name, word))
        };
        let text =
            named(of_action, "THE-ACTIONS-VOLUME", named(&new, "A-NEW-VOLUME", all.to_string()));
        Ok(without_id(&serde_json::from_str(&text)?, id))
    }

    /// Makes a container with `run -d` or `create`; returns why nerdctl refuses, if it does.
    fn make(
        &self,
        command: &[&str],
        name: &str,
        image: &str,
        row: &Row,
        flags: &[String],
        arguments: &[String],
    ) -> Result<Result<(), String>> {
        let mut run = self.machine.engine_command();
        run.args(command).args([
            "--pull=never",
            &format!("--name={name}"),
            &format!("--env=IMAGE={}", row.image),
            "--env=WAIT_SECONDS=0",
            "--env=WAITDAEMON_WATCH_SECONDS=0",
        ]);
        if !row.networked && !flags.iter().any(|flag| flag.starts_with("--net")) {
            run.arg("--network=none");
        }
        let said = lab::nest::output(run.args(flags).arg(image).arg("--").args(arguments))?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        Ok(if said.status.success() { Ok(()) } else { Err(text) })
    }

    fn remove(&self, containers: &[&str]) -> Result<()> {
        // To nerdctl, a container that removes itself at this moment is an error.
        until("the containers' removal", LIMIT, || {
            lab::nest::output(self.machine.engine_command().args(["rm", "-f"]).args(containers))?;
            Ok((!containers.iter().any(|name| self.machine.has(name))).then_some(()))
        })
    }

    /// Removes everything except the fixtures, and the files that flags name.
    fn clear(&self) -> Result<()> {
        let ids = until("a list of containers", LIMIT, || {
            Ok(self.machine.engine(&["ps", "-aq", "--no-trunc"]).ok())
        })?;
        let mine: Vec<&str> =
            ids.lines().filter(|id| !self.fixtures.iter().any(|fixture| fixture == id)).collect();
        if !mine.is_empty() {
            lab::nest::output(self.machine.engine_command().args(["rm", "-f"]).args(mine))?;
        }
        self.remove_files();
        Ok(())
    }

    fn remove_files(&self) {
        for file in ["pid", "cid"] {
            let _ = fs::remove_file(self.machine.out().join(file));
        }
    }
}
