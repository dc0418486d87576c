//! The machines on which is measured, each with its engine's command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::captain::Captain;
use lab::machine::{Engine, Machine, output};
use lab::nest::Nest;
use lab::until::until;
use lab::{image, paths};
use serde_json::{Value, json};

/// The user's image, and what the floor runs: BusyBox under this name.
pub const IMAGE: &str = "alpine";
/// Ours.
pub const OURS: &str = "waitdaemon:dev";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

enum Kind {
    Docker(Box<Machine>),
    Captain(Box<Captain>),
}

/// A machine with an engine, the images, and the name of the peer's image, if there is one.
pub struct Bench {
    kind: Kind,
    /// What it is called in the table.
    pub name: &'static str,
    /// The peer's image.
    pub peer: Option<String>,
}

impl Bench {
    /// A machine like HookOS.
    ///
    /// # Errors
    /// Where it does not boot, or the images are not there.
    pub fn docker(engine: Engine, peer: Option<&str>) -> Result<Self> {
        let name = if engine == Engine::Debian { "Docker 20.10" } else { "moby 2" };
        Self::with(Kind::Docker(Box::new(Machine::boot(engine)?)), name, peer)
    }

    /// A machine like CaptainOS.
    ///
    /// # Errors
    /// As [`Bench::docker`].
    pub fn captain(peer: Option<&str>) -> Result<Self> {
        Self::with(Kind::Captain(Box::new(Captain::boot()?)), "nerdctl", peer)
    }

    fn with(kind: Kind, name: &'static str, peer: Option<&str>) -> Result<Self> {
        eprintln!("measuring on {name} ...");
        let mut bench = Self { kind, name, peer: None };
        let user = bench.nest().out().join("user.tar");
        image::busybox(&user, &format!("{IMAGE}:latest"), &json!({"Cmd": ["/bin/sh"]}), &[])?;
        bench.load(&user)?;
        bench.load(&paths::root().join("dist/waitdaemon.tar"))?;
        bench.peer = peer.map(|peer| bench.peer_image(peer)).transpose()?;
        Ok(bench)
    }

    fn load(&self, archive: &Path) -> Result<String> {
        self.run(&["load", "-i", &archive.to_string_lossy()])
    }

    /// Loads the peer's archive, or pulls its reference; returns its name.
    fn peer_image(&self, peer: &str) -> Result<String> {
        if !Path::new(peer).is_file() {
            self.run(&["pull", "-q", peer])?;
            return Ok(peer.to_owned());
        }
        // The machine sees its own folder, not every place of the host.
        let archive = self.nest().out().join("peer.tar");
        fs::copy(peer, &archive)?;
        let said = self.load(&archive)?;
        let name = said.split_whitespace().next_back().context("the peer's archive has no image")?;
        Ok(name.to_owned())
    }

    /// The machine.
    pub fn nest(&self) -> &Nest {
        match &self.kind {
            Kind::Docker(machine) => machine,
            Kind::Captain(captain) => captain,
        }
    }

    /// The machine, where its engine is Docker.
    pub fn machine(&self) -> Option<&Machine> {
        match &self.kind {
            Kind::Docker(machine) => Some(machine),
            Kind::Captain(_) => None,
        }
    }

    fn command(&self) -> Command {
        match &self.kind {
            Kind::Docker(machine) => machine.docker_command(),
            Kind::Captain(captain) => captain.nerdctl_command(),
        }
    }

    /// The engine's command, as words of a shell.
    pub fn words(&self) -> String {
        let command = self.command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Runs the engine's command; returns what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let said = output(self.command().args(arguments))?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "{} {}: {error}", self.name, arguments.join(" "));
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }

    /// The flags of the action, and those of the floor: all that the Tink Agent gives for the reboot of the README.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec!["--privileged", "--pid=host", "-e", "IMAGE=alpine", "-e", "WAIT_SECONDS=3600"];
        if self.machine().is_some() {
            flags.extend(["-v", "/var/run/docker.sock:/var/run/docker.sock"]);
        }
        flags
    }

    /// Removes all containers.
    ///
    /// # Errors
    /// Where some are left.
    pub fn clear(&self) -> Result<()> {
        until("no container", LIMIT, || {
            let ids = self.run(&["ps", "-aq"])?;
            if ids.is_empty() {
                return Ok(Some(()));
            }
            let ids: Vec<&str> = ids.lines().collect();
            // One that goes by itself at this moment is gone too.
            let _ = self.run(&[&["rm", "-f"], &ids[..]].concat());
            Ok(None)
        })
    }

    /// The inspect document of a container, as Docker has it.
    ///
    /// # Errors
    /// Where there is none.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let mut documents: Vec<Value> = serde_json::from_str(&self.run(&["inspect", container])?)?;
        documents.pop().context("inspect gave nothing")
    }

    /// The main processes of all containers that run, as the machine counts.
    ///
    /// # Errors
    /// Where they cannot be inspected.
    pub fn processes(&self) -> Result<Vec<i64>> {
        let running = self.run(&["ps", "-q"])?;
        running.lines().map(|id| self.inspect(id)?["State"]["Pid"].as_i64().context("no process")).collect()
    }

    /// The processor time of a cgroup below the machine's, in milliseconds, with those that have ended in it.
    ///
    /// # Errors
    /// Where there is no such cgroup.
    pub fn processor_time(&self, cgroup: &str) -> Result<f64> {
        let top = PathBuf::from("/sys/fs/cgroup");
        let tops = fs::read_dir(&top)?.filter_map(Result::ok).map(|entry| entry.path()).chain([top.clone()]);
        for folder in tops.map(|top| top.join(self.nest().cgroup()).join(cgroup)) {
            if let Ok(nanoseconds) = fs::read_to_string(folder.join("cpuacct.usage")) {
                return Ok(nanoseconds.trim().parse::<f64>()? / 1e6);
            }
            let stat = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
            if let Some(microseconds) = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
                return Ok(microseconds.trim().parse::<f64>()? / 1e3);
            }
        }
        anyhow::bail!("the machine has no cgroup {cgroup}")
    }
}
