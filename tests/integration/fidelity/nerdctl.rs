//! Runs the rows on a real containerd with nerdctl. The measure is nerdctl itself: the user container must
//! be what it makes of the action's own flags with IMAGE, by its labels and its OCI spec.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::captain::{Captain, Init};
use lab::until::until;
use serde_json::{Value, json};

use super::bench::{IMAGES, filled, prepare, run_all, take_our_labels};
use super::compare::{differences, without_id};
use super::rows::{Became, Row, Set};
use crate::captain::log;
use crate::world::{ACTION, LIMIT, USER, WAITER, images, own_image};

/// What the waiter says when it knows that the action succeeded.
const KNOWN: &str = "the action succeeded; starting the wait";

/// How often a failed action is tried whose words nerdctl lost: its logger stops when the container ends, whether it has
/// read all or not (nerdctl 2.2.1, `pkg/logging`, `loggingProcessAdapter`).
const TRIES: usize = 3;
/// How long what a container said last may take to its log.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// Runs all rows of a group.
pub fn run(init: Init, rows: &[Row]) -> Result<()> {
    let bench = Bench::new(init)?;
    run_all(rows.iter(), |row| bench.row(row), || bench.clear())
}

/// A machine with all that rows refer to.
struct Bench {
    captain: Captain,
    words: Vec<(&'static str, String)>,
    fixtures: Vec<String>,
    baselines: std::cell::RefCell<HashMap<String, Value>>,
}

impl Bench {
    fn new(init: Init) -> Result<Self> {
        let captain = Captain::boot_with(init)?;
        captain.load(&own_image())?;
        captain.load(&lab::paths::root().join("dist/waitdaemon-nerdctl.tar"))?;
        for image in IMAGES {
            captain.load(&images().join(format!("{image}.tar")))?;
        }
        prepare(&captain, "ip netns add lab")?;
        let out = captain.out();
        let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]});
        fs::write(out.join("seccomp.json"), seccomp.to_string())?;
        captain.nerdctl(&["network", "create", "--subnet", "10.7.0.0/24", "front"])?;
        captain.nerdctl(&["network", "create", "--subnet", "10.6.0.0/24", "back"])?;
        let other = captain.nerdctl(&[
            "run",
            "-d",
            "--name",
            "other",
            "--ipc",
            "shareable",
            "-v",
            "named:/n",
            "-v",
            "/anonymous",
            "probe:1",
        ])?;
        let words = vec![("@OUT", out.display().to_string()), ("@OTHER", other), ("@DISK", super::docker::disk()?)];
        captain.nerdctl(&["run", "-d", "--name", "plain", "-v", "named:/n", "-v", "/anonymous", "probe:1"])?;
        let fixtures = captain.nerdctl(&["ps", "-aq", "--no-trunc"])?.lines().map(str::to_owned).collect();
        Ok(Self { captain, words, fixtures, baselines: HashMap::new().into() })
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

    /// `None` where nerdctl lost what a failed action said.
    fn try_row(&self, row: &Row) -> Result<Option<Became>> {
        let Set::Flags(flags, arguments) = &row.set else { bail!("no row of nerdctl") };
        let flags: Vec<String> = flags.iter().map(|flag| filled(&self.words, flag.clone())).collect();
        if let Err(word) = self.make(&["run", "-d"], ACTION, row.own, row, &flags, arguments)? {
            return Ok(Some(Became::EngineRefused(word)));
        }
        let anonymous = self.anonymous(ACTION)?;
        let code = self.captain.nerdctl(&["wait", ACTION])?;
        if code != "0" {
            // What it said last may be in the log a moment after its end.
            let text = until("the handoff's error", LOG_LIMIT, || {
                let said = lab::nest::output(self.captain.nerdctl_command().args(["logs", ACTION]))?;
                let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
                Ok(text.contains("\"level\":\"ERROR\"").then_some(text))
            });
            let Ok(text) = text else { return Ok(None) };
            for name in [USER, WAITER] {
                ensure!(self.captain.id_of(name).is_none(), "a failed handoff ({code}) left {name}: {text}");
            }
            return Ok(Some(Became::Refused(text)));
        }
        // Until then its exit code is needed; what it holds, such as an address, is free once it is gone. nerdctl may have
        // lost the line; a user container that is started tells as much.
        until("the waiter to know how the action ended", LIMIT, || {
            let said = log(&self.captain).iter().any(|line| line["message"] == KNOWN);
            Ok((said || self.captain.has_task(USER)).then_some(()))
        })
        .with_context(|| {
            let there = self.captain.nerdctl(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).unwrap_or_default();
            format!("{there}\n{}", self.captain.container_logs())
        })?;
        self.remove(&[ACTION])?;
        let user = until("the user container's start", LIMIT, || {
            if !self.captain.has_task(USER) {
                return Ok(None);
            }
            let user = self.captain.inspect(USER)?;
            Ok((user["Process"]["Status"]["Status"] == "running").then_some(user))
        });
        let user = user.with_context(|| self.captain.nerdctl(&["logs", WAITER]).unwrap_or_default())?;
        let mut user = self.all_of(&user, &anonymous)?;
        self.remove(&[WAITER, USER])?;

        self.remove_files();
        let expected = self.made(row, &flags, arguments)?;
        take_our_labels(&mut user["Labels"], &expected["Labels"])?;
        let shows = expected != self.baseline(row)?;
        ensure!(shows != row.without_effect, "the setting {} effect", if shows { "has an" } else { "has no" });
        Ok(Some(Became::Copied(differences(&user, &expected))))
    }

    /// What nerdctl makes of these flags, with the user container's name.
    fn made(&self, row: &Row, flags: &[String], arguments: &[String]) -> Result<Value> {
        // All of it is there before the start.
        if let Err(word) = self.make(&["create"], USER, row.image, row, flags, arguments)? {
            bail!("nerdctl refuses the user container's own flags: {word}");
        }
        let all = self.all_of(&self.captain.inspect(USER)?, &[])?;
        self.remove(&[USER])?;
        Ok(all)
    }

    /// What it makes of none but those that an action needs anyhow.
    fn baseline(&self, row: &Row) -> Result<Value> {
        let Set::Flags(flags, _) = &row.set else { bail!("no row of nerdctl") };
        let needed = ["--pid=host", "--cap-add=ALL", "--security-opt=apparmor=unconfined"];
        let needed: Vec<String> = flags.iter().filter(|flag| needed.contains(&flag.as_str())).cloned().collect();
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
        let document = self.captain.inspect(container)?;
        let label = document["Labels"]["nerdctl/anonymous-volumes"].as_str().unwrap_or("[]");
        Ok(serde_json::from_str(label)?)
    }

    /// All that matters of a container. An anonymous volume is called the action's or a new one.
    fn all_of(&self, document: &Value, of_action: &[String]) -> Result<Value> {
        let id = document["ID"].as_str().context("no ID")?;
        let label = document["Labels"]["nerdctl/anonymous-volumes"].as_str().unwrap_or("[]");
        let mut new: Vec<String> = serde_json::from_str(label)?;
        new.retain(|name| !of_action.contains(name));
        let mut labels = document["Labels"].clone();
        if let Some(labels) = labels.as_object_mut() {
            // What became of the container, not what it is; `error` is of a first start that failed, as where the action's
            // address was not free yet.
            let states = [
                "containerd.io/restart.explicitly-stopped",
                "containerd.io/restart.status",
                "nerdctl/healthstate",
                "nerdctl/error",
            ];
            labels.retain(|key, _| !states.contains(&key.as_str()));
        }
        for (_, value) in labels.as_object_mut().into_iter().flatten() {
            // Many hold JSON; the order of its keys says nothing.
            if let Some(Ok(inner)) =
                value.as_str().filter(|text| text.starts_with(['{', '['])).map(serde_json::from_str)
            {
                *value = inner;
            }
        }
        let mut spec = document["Spec"].clone();
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.sort_by_key(|mount| mount["destination"].to_string());
        }
        if let Some(annotations) = spec["annotations"].as_object_mut() {
            // Copies of the labels.
            annotations.retain(|key, _| !key.contains("nerdctl/"));
        }
        if let Some(hooks) = spec["hooks"]["createRuntime"].as_array_mut() {
            for hook in hooks {
                hook["env"] = Value::Null;
            }
        }
        let all = json!({"Labels": labels, "Spec": spec, "Runtime": document["Runtime"], "Image": document["Image"]});
        let named =
            |names: &[String], word: &str, text: String| names.iter().fold(text, |text, name| text.replace(name, word));
        let text = named(of_action, "THE-ACTIONS-VOLUME", named(&new, "A-NEW-VOLUME", all.to_string()));
        Ok(without_id(&serde_json::from_str(&text)?, id))
    }

    /// Makes a container by `run -d` or `create`; why nerdctl does not, where it does not.
    fn make(
        &self,
        command: &[&str],
        name: &str,
        image: &str,
        row: &Row,
        flags: &[String],
        arguments: &[String],
    ) -> Result<Result<(), String>> {
        let mut run = self.captain.nerdctl_command();
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
        // One that removes itself at this moment is an error to nerdctl.
        until("the containers' removal", LIMIT, || {
            lab::nest::output(self.captain.nerdctl_command().args(["rm", "-f"]).args(containers))?;
            Ok((!containers.iter().any(|name| self.captain.id_of(name).is_some())).then_some(()))
        })
    }

    /// Removes all but the fixtures, and the files that flags name.
    fn clear(&self) -> Result<()> {
        let ids = until("a list of containers", LIMIT, || Ok(self.captain.nerdctl(&["ps", "-aq", "--no-trunc"]).ok()))?;
        let mine: Vec<&str> = ids.lines().filter(|id| !self.fixtures.iter().any(|fixture| fixture == id)).collect();
        if !mine.is_empty() {
            lab::nest::output(self.captain.nerdctl_command().args(["rm", "-f"]).args(mine))?;
        }
        self.remove_files();
        Ok(())
    }

    fn remove_files(&self) {
        for file in ["pid", "cid"] {
            let _ = fs::remove_file(self.captain.out().join(file));
        }
    }
}
