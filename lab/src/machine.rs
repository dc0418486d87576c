//! A machine with a real engine, one API for all systems: `docker` or `nerdctl`, containers, logs.

use std::ffi::OsStr;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use crate::docker::Event;
use crate::nest::Nest;
pub use crate::nest::{POWERED_OFF, REBOOTED, output};
use crate::system::System;
use crate::{captain, docker, json_logs, syslog};

/// How a machine differs from the usual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// No difference: cgroups as this machine has them, no user namespaces.
    Usual,
    /// Docker: only cgroup v2, which HookOS has anyhow.
    CgroupV2,
    /// HookOS: cgroups as this machine has them, with the controllers of cgroup v1.
    HostCgroups,
    /// Docker: containers have a user namespace unless they ask for the host's.
    UserNamespaces,
    /// Docker: containers survive a restart of dockerd.
    LiveRestore,
    /// The newest Docker: no API version before 1.52 is supported (`min-api-version`).
    NewApiAlone,
}

/// A running machine.
pub struct Machine {
    pub(crate) system: System,
    pub(crate) variant: Variant,
    pub(crate) nest: Nest,
    /// Processes of the host that watch the machine.
    pub(crate) watchers: Vec<Child>,
    /// How many events and lines of syslog to skip as forgotten.
    pub(crate) forgotten: (usize, usize),
}

impl Deref for Machine {
    type Target = Nest;
    fn deref(&self) -> &Nest {
        &self.nest
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Nest {
        &mut self.nest
    }
}

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Ended,
    /// Something else: in between, or paused.
    Other,
}

/// A container, as either engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its ID.
    pub id: String,
    /// What has become of it.
    pub state: State,
    /// Its process, by its PID in the machine.
    pub pid: Option<i64>,
    /// Its exit code, once it has ended.
    pub exit_code: Option<i64>,
}

impl Machine {
    /// Boots a machine and waits until its engine answers.
    ///
    /// # Errors
    /// Without root, or if the engine does not come up; the error shows the end of its logs.
    pub fn boot(system: System) -> Result<Self> {
        Self::boot_variant(system, Variant::Usual)
    }

    /// As [`Machine::boot`], for an unusual variant.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot_variant(system: System, variant: Variant) -> Result<Self> {
        if system.is_docker() {
            return docker::boot(system, variant);
        }
        ensure!(variant == Variant::Usual, "{} has no {variant:?}", system.name());
        captain::boot(system)
    }

    /// Which kind of machine it is.
    pub fn system(&self) -> System {
        self.system
    }

    /// True if its engine is Docker.
    pub fn is_docker(&self) -> bool {
        self.system.is_docker()
    }

    /// The command `docker` for this machine's engine, or `nerdctl` inside the machine with the
    /// agent's namespace. It inherits nothing from the host's environment.
    pub fn engine_command(&self) -> Command {
        if self.is_docker() {
            docker::command(&self.nest, self.system, self.variant)
        } else {
            captain::nerdctl(&self.nest)
        }
    }

    /// Runs `docker` or `nerdctl` and returns its standard output.
    ///
    /// # Errors
    /// If it fails; the error has its output.
    pub fn engine<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = output(self.engine_command().args(arguments))?;
        let shown: Vec<_> =
            arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} {}: {}\n{error}",
            self.command_name(),
            shown.join(" "),
            output.status
        );
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// The name of the engine's command: `docker` or `nerdctl`.
    pub fn command_name(&self) -> &'static str {
        if self.is_docker() { "docker" } else { "nerdctl" }
    }

    /// Loads a docker-archive into the engine.
    ///
    /// # Errors
    /// If the engine does not accept it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let call = ["load".as_ref(), "-q".as_ref(), "-i".as_ref(), archive.as_os_str()];
        // On a busy machine Docker 20.10 may look for the unpacked files a moment too early ("json:
        // no such file").
        self.engine(&call).or_else(|_| self.engine(&call)).map(drop)
    }

    /// A container's document: from `docker inspect`, or nerdctl's native one.
    ///
    /// # Errors
    /// If there is no container of that name.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        if self.is_docker() {
            self.inspect_docker(container)
        } else {
            self.inspect_native(container)
        }
    }

    /// A container, as either engine shows it; `None` if there is no container of that name.
    pub fn seen(&self, container: &str) -> Option<Seen> {
        let document = self.inspect(container).ok()?;
        Some(if self.is_docker() { docker::seen(&document) } else { captain::seen(&document) })
    }

    /// Every container: its name, and its state in the engine's own words.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn list(&self) -> Result<String> {
        // nerdctl's list fails if a container is deleted meanwhile.
        crate::until::until("a list of containers", crate::nest::END_LIMIT, || {
            Ok(self.engine(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok())
        })
    }

    /// True if there is a container of this name; much quicker than asking nerdctl.
    pub fn has(&self, container: &str) -> bool {
        if self.is_docker() {
            self.inspect(container).is_ok()
        } else {
            self.id_of(container).is_some()
        }
    }

    /// The JSON lines logged by containers that still exist, also after the machine's end. On
    /// HookOS, by all containers.
    pub fn logged(&self) -> Vec<Value> {
        if self.system == System::HookOS {
            let lines = syslog::lines(&self.syslog_file()).into_iter().skip(self.forgotten.1);
            return lines.filter_map(|line| serde_json::from_str(&line.text).ok()).collect();
        }
        json_logs::lines(&self.logs_folder())
    }

    /// Everything that containers have logged, as the engine keeps it, read from the host. This
    /// works while the machine goes down, when nothing may be run inside any more.
    pub fn container_logs(&self) -> String {
        if self.system == System::HookOS {
            return fs::read_to_string(self.syslog_file()).unwrap_or_default();
        }
        json_logs::text(&self.logs_folder())
    }

    /// What a container has logged, by stream: standard output, standard error. Both are empty if
    /// the container is gone.
    ///
    /// # Errors
    /// If the engine's command cannot be run.
    pub fn log_of(&self, container: &str) -> Result<(String, String)> {
        if self.system != System::HookOS {
            let said = output(self.engine_command().args(["logs", container]))?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Ok((text(&said.stdout), text(&said.stderr)));
        }
        let Some(seen) = self.seen(container) else { return Ok(Default::default()) };
        let lines = syslog::lines(&self.syslog_file());
        let of = |is_error: bool| {
            let lines =
                lines.iter().filter(|line| line.is_error == is_error && line.is_of(&seen.id));
            lines.map(|line| format!("{}\n", line.text)).collect()
        };
        Ok((of(false), of(true)))
    }

    /// The images of the engine and, on Docker, its networks and volumes.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn holdings(&self) -> Result<String> {
        let mut all = self.engine(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])?;
        if self.is_docker() {
            all += &self.engine(&["network", "ls", "--format", "{{.Name}}"])?;
            all += &self.engine(&["volume", "ls", "--format", "{{.Name}}"])?;
        }
        let mut lines: Vec<&str> = all.lines().collect();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    /// Removes all containers with their volumes, empties the folder that the machine shares with
    /// the host, and forgets everything up to now.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn forget(&mut self) -> Result<()> {
        if self.is_docker() {
            self.remove_all_of_docker()?
        } else {
            // nerdctl's list fails if a container is deleted meanwhile.
            crate::until::until("no container", crate::nest::END_LIMIT, || {
                Ok(self.remove_all_of_containerd().ok())
            })?
        }
        fs::remove_dir_all(self.out())?;
        fs::create_dir(self.out())?;
        self.forgotten = (0, 0);
        let events = if self.is_docker() { self.events()?.len() } else { 0 };
        self.forgotten = (events, syslog::lines(&self.syslog_file()).len());
        Ok(())
    }

    /// The file that containers of HookOS log to.
    pub fn syslog_file(&self) -> PathBuf {
        self.nest.folder().join("syslog")
    }

    fn logs_folder(&self) -> PathBuf {
        self.nest.folder().join(if self.is_docker() { "docker/containers" } else { "data/nerdctl" })
    }

    /// Replaces the machine's kernel command line.
    ///
    /// # Errors
    /// If it cannot be bound over the kernel's own.
    pub fn set_command_line(&self, line: &str) -> Result<()> {
        let file = self.out().join("cmdline");
        fs::write(&file, line)?;
        let mounted =
            self.command("mount").arg("--bind").arg(&file).arg("/proc/cmdline").status()?;
        ensure!(mounted.success(), "cannot bind the command line");
        Ok(())
    }

    /// The end of the machine's logs, for failures.
    pub fn logs(&self) -> String {
        self.nest.logs(if self.is_docker() { &docker::LOGS } else { &captain::LOGS })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for watcher in &mut self.watchers {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

/// True if this machine's capabilities include CAP_SYS_RESOURCE (bit 24), so that plain runc works.
///
/// # Errors
/// If /proc cannot be read.
pub fn may_grant_all() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    Ok(u64::from_str_radix(line.trim(), 16)? & (1 << 24) != 0)
}
