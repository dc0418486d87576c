//! Machines with containerd and nerdctl, like CaptainOS: a Debian root with the real systemd or
//! BusyBox init as PID 1.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine::{Machine, Seen, State, Variant, may_grant_all};
use crate::nest::{END_LIMIT, Nest, output};
use crate::paths;
use crate::system::System;
use crate::until::until;

/// Where CaptainOS searches for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(crate) const LOGS: [&str; 2] = ["boot.log", "console.log"];

pub(crate) fn boot(system: System) -> Result<Machine> {
    let rootfs = paths::cache().join("captain/rootfs");
    let next = if system == System::CaptainNext {
        paths::cache().join("captain/next")
    } else {
        PathBuf::new()
    };
    for needed in [&rootfs, &next] {
        ensure!(
            needed.as_os_str().is_empty() || needed.exists(),
            "{} is missing; run `make cache`",
            needed.display()
        );
    }
    let lab = paths::root().join("lab");
    let runtime = if may_grant_all()? { PathBuf::new() } else { lab.join("hook/runtime") };
    let init = if system == System::CaptainV1 { "busybox" } else { "systemd" };
    let variables: [(&str, &OsStr); 5] = [
        ("LAB_INIT", init.as_ref()),
        ("LAB_ROOTFS", rootfs.as_ref()),
        ("LAB_NEXT", next.as_ref()),
        ("LAB_SHARED", paths::root().as_ref()),
        ("LAB_RUNTIME", runtime.as_ref()),
    ];
    let nest = Nest::boot(&lab.join("captain/init"), &variables)?;
    let mut machine =
        Machine { system, variant: Variant::Usual, nest, watchers: Vec::new(), forgotten: (0, 0) };
    let answers = |nest: &Nest| Ok(output(nerdctl(nest).args(["ps", "-q"]))?.status.success());
    machine.nest.ready("nerdctl's answer", answers).with_context(|| machine.logs())?;
    Ok(machine)
}

impl Machine {
    pub(crate) fn inspect_native(&self, container: &str) -> Result<Value> {
        let text = self.engine(&["container", "inspect", "--mode=native", container])?;
        let mut documents: Vec<Value> = serde_json::from_str(&text)?;
        documents.pop().context("inspect gave nothing")
    }

    pub(crate) fn remove_all_of_containerd(&self) -> Result<()> {
        until("the removal of all containers", END_LIMIT, || {
            let ids = self.engine(&["ps", "-aq", "--no-trunc"])?;
            if ids.is_empty() {
                return Ok(Some(()));
            }
            output(self.engine_command().args(["rm", "-f", "-v"]).args(ids.lines()))?;
            // nerdctl cannot remove the containers that the agent keeps: "cannot determine
            // networking options" (2.2.1).
            let socket = format!("/proc/{}/root/run/containerd/containerd.sock", self.init());
            let mut ctr = Command::new("ctr");
            ctr.args(["--address", &socket, "--namespace", "tinkerbell", "containers", "delete"]);
            output(ctr.args(ids.lines()))?;
            Ok(None)
        })
    }

    /// The ID of the container of this name, from nerdctl's name store, which has a file for each
    /// (pkg/store of nerdctl 2.2). This is much quicker than asking nerdctl.
    pub fn id_of(&self, name: &str) -> Option<String> {
        let stores =
            fs::read_dir(self.folder().join("data/nerdctl")).into_iter().flatten().flatten();
        let mut files = stores.map(|store| store.path().join("names/tinkerbell").join(name));
        files.find_map(|file| fs::read_to_string(file).ok()).filter(|id| !id.is_empty())
    }

    /// True if the container of this name has a task, according to containerd's folder of tasks.
    pub fn has_task(&self, name: &str) -> bool {
        let tasks = "run/containerd/io.containerd.runtime.v2.task/tinkerbell";
        self.id_of(name).is_some_and(|id| {
            Path::new(&format!("/proc/{}/root/{tasks}/{id}", self.init())).exists()
        })
    }
}

/// Reads a container from its native document.
pub(crate) fn seen(document: &Value) -> Seen {
    let process = &document["Process"];
    let state = match process["Status"]["Status"].as_str() {
        None if process.is_null() => State::Created,
        Some("running") => State::Running,
        Some("stopped") => State::Ended,
        // A process in state `created` is half-started.
        _ => State::Other,
    };
    Seen {
        id: document["ID"].as_str().unwrap_or_default().to_owned(),
        state,
        pid: process["Pid"].as_i64().filter(|pid| *pid > 1),
        exit_code: process["Status"]["ExitStatus"].as_i64().filter(|_| state == State::Ended),
    }
}

pub(crate) fn nerdctl(nest: &Nest) -> Command {
    let mut command = nest.command("env");
    command.args(["-i", &format!("PATH={PATH}"), "nerdctl", "--namespace", "tinkerbell"]);
    command
}
