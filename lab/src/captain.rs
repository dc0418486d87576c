//! A CaptainOS-like machine: the real systemd as PID 1, a real containerd and nerdctl.

use std::ffi::OsStr;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::json_logs;
use crate::machine::may_grant_all;
use crate::nest::{Nest, output};
use crate::paths;

/// What is searched for programs in CaptainOS.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LOGS: [&str; 2] = ["boot.log", "console.log"];

/// What a machine's PID 1 is, and with it the version of its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// systemd, on cgroup v2: CaptainOS.
    Systemd,
    /// BusyBox init, on cgroup v1.
    BusyBox,
}

impl Init {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Systemd, Self::BusyBox];

    /// A short name of a machine of this kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "captain",
            Self::BusyBox => "captain-v1",
        }
    }
}

/// A running machine.
pub struct Captain {
    nest: Nest,
}

impl Deref for Captain {
    type Target = Nest;
    fn deref(&self) -> &Nest {
        &self.nest
    }
}

impl DerefMut for Captain {
    fn deref_mut(&mut self) -> &mut Nest {
        &mut self.nest
    }
}

impl Captain {
    /// Boots a machine and waits until nerdctl answers.
    ///
    /// # Errors
    /// Without root, or where containerd does not come up; shows the console's end.
    pub fn boot() -> Result<Self> {
        Self::boot_with(Init::Systemd)
    }

    /// As [`Captain::boot`], with another PID 1.
    ///
    /// # Errors
    /// As [`Captain::boot`].
    pub fn boot_with(init: Init) -> Result<Self> {
        let rootfs = paths::cache().join("captain/rootfs");
        ensure!(rootfs.exists(), "{} is missing; run `make cache`", rootfs.display());
        let lab = paths::root().join("lab");
        let runtime = if may_grant_all()? { PathBuf::new() } else { lab.join("hook/runtime") };
        let init = if init == Init::Systemd { "systemd" } else { "busybox" };
        let variables: [(&str, &OsStr); 4] = [
            ("LAB_INIT", init.as_ref()),
            ("LAB_ROOTFS", rootfs.as_ref()),
            ("LAB_SHARED", paths::root().as_ref()),
            ("LAB_RUNTIME", runtime.as_ref()),
        ];
        let nest = Nest::boot(&lab.join("captain/init"), &variables)?;
        let mut captain = Self { nest };
        let answers = |nest: &Nest| Ok(output(nerdctl_of(nest).args(["ps", "-q"]))?.status.success());
        captain.nest.ready("nerdctl's answer", answers).with_context(|| captain.logs())?;
        Ok(captain)
    }

    /// `nerdctl` in the machine, in the agent's namespace.
    pub fn nerdctl_command(&self) -> Command {
        nerdctl_of(&self.nest)
    }

    /// Runs `nerdctl` and returns its standard output.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn nerdctl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = output(self.nerdctl_command().args(arguments))?;
        let shown: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nerdctl {}: {}\n{error}", shown.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Loads a docker-archive.
    ///
    /// # Errors
    /// Where nerdctl does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.nerdctl(&["load".as_ref(), "-q".as_ref(), "-i".as_ref(), archive.as_os_str()]).map(drop)
    }

    /// A container's native document: OCI spec, labels, image, process.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let text = self.nerdctl(&["container", "inspect", "--mode=native", container])?;
        let mut documents: Vec<Value> = serde_json::from_str(&text)?;
        documents.pop().context("inspect gave nothing")
    }

    /// The ID of the container that has this name in nerdctl's store of names, a file for each (pkg/store of nerdctl
    /// 2.2); much quicker than asking nerdctl.
    pub fn id_of(&self, name: &str) -> Option<String> {
        let stores = fs::read_dir(self.nest.folder().join("data/nerdctl")).into_iter().flatten().flatten();
        let mut files = stores.map(|store| store.path().join("names/tinkerbell").join(name));
        files.find_map(|file| fs::read_to_string(file).ok()).filter(|id| !id.is_empty())
    }

    /// True where the container of this name has a task, as containerd's folder of them shows.
    pub fn has_task(&self, name: &str) -> bool {
        let tasks = "run/containerd/io.containerd.runtime.v2.task/tinkerbell";
        self.id_of(name).is_some_and(|id| Path::new(&format!("/proc/{}/root/{tasks}/{id}", self.nest.init())).exists())
    }

    /// What all containers have logged, as nerdctl keeps it, read from the host: that works while the
    /// machine goes down, when nothing may be run inside any more.
    pub fn container_logs(&self) -> String {
        json_logs::text(&self.nest.folder().join("data/nerdctl"))
    }

    /// The JSON lines that containers have logged, of those that are still there.
    pub fn logged(&self) -> Vec<Value> {
        json_logs::lines(&self.nest.folder().join("data/nerdctl"))
    }

    /// Gives the machine this kernel command line.
    ///
    /// # Errors
    /// Where it cannot be bound over the kernel's own.
    pub fn set_command_line(&self, line: &str) -> Result<()> {
        let file = self.out().join("cmdline");
        fs::write(&file, line)?;
        let mounted = self.command("mount").arg("--bind").arg(&file).arg("/proc/cmdline").status()?;
        ensure!(mounted.success(), "cannot bind the command line");
        Ok(())
    }

    /// The end of the machine's logs, for failures.
    pub fn logs(&self) -> String {
        self.nest.logs(&LOGS)
    }
}

fn nerdctl_of(nest: &Nest) -> Command {
    let mut command = nest.command("env");
    command.args(["-i", &format!("PATH={PATH}"), "nerdctl", "--namespace", "tinkerbell"]);
    command
}
