//! The machines on which the bench measures, each with its engine's command.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::machine::{Event, Machine, output};
use lab::system::System;
use lab::until::until;
use lab::{image, paths};
use serde_json::{Value, json};

/// The user's image, which the floor also runs: BusyBox under this name.
pub const IMAGE: &str = "alpine";
/// Our image.
pub const OURS: &str = "waitdaemon:dev";
/// The time limit for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// A machine with an engine, the images, and the name of the peer's image, if there is one.
pub struct Bench {
    machine: Machine,
    /// The machine's name in the table.
    pub name: &'static str,
    /// The peer's image.
    pub peer: Option<String>,
}

impl Bench {
    /// Boots a machine of this system.
    ///
    /// # Errors
    /// If it does not boot, or the images are missing.
    pub fn new(system: System, peer: Option<&str>) -> Result<Self> {
        let name = if system == System::CaptainOS { "nerdctl" } else { system.engine() };
        eprintln!("measuring on {name} ...");
        let mut bench = Self { machine: Machine::boot(system)?, name, peer: None };
        let user = bench.machine.out().join("user.tar");
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
        // The machine sees only its own folder, not every path of the host.
        let archive = self.machine.out().join("peer.tar");
        fs::copy(peer, &archive)?;
        let said = self.load(&archive)?;
        let name =
            said.split_whitespace().next_back().context("the peer's archive has no image")?;
        Ok(name.to_owned())
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The engine's command, as shell words.
    pub fn words(&self) -> String {
        let command = self.machine.engine_command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Runs the engine's command; returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error has its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let said = output(self.machine.engine_command().args(arguments))?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "{} {}: {error}", self.name, arguments.join(" "));
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }

    /// The flags of the action and of the floor: all that the Tink Agent gives for the README's
    /// reboot.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags =
            vec!["--privileged", "--pid=host", "-e", "IMAGE=alpine", "-e", "WAIT_SECONDS=3600"];
        if self.machine.is_docker() {
            flags.extend(["-v", "/var/run/docker.sock:/var/run/docker.sock"]);
        }
        flags
    }

    /// Removes all containers.
    ///
    /// # Errors
    /// If some are left.
    pub fn clear(&self) -> Result<()> {
        until("no container", LIMIT, || {
            let ids = self.run(&["ps", "-aq"])?;
            if ids.is_empty() {
                return Ok(Some(()));
            }
            let ids: Vec<&str> = ids.lines().collect();
            // A container that removes itself at this moment is gone too.
            let _ = self.run(&[&["rm", "-f"], &ids[..]].concat());
            Ok(None)
        })
    }

    /// When an event of a container came, in seconds since 1970; the first `seen` events do not
    /// count. Docker.
    ///
    /// # Errors
    /// If it does not come.
    pub fn event(&self, action: &str, name: &str, seen: usize) -> Result<f64> {
        until(&format!("{action} of {name}"), LIMIT, || {
            let events = self.machine.events()?;
            let is_meant = |event: &&Event| event.action == action && event.name == name;
            Ok(events.iter().skip(seen).find(is_meant).map(|event| event.time))
        })
    }

    /// The inspect document of a container, as Docker has it.
    ///
    /// # Errors
    /// If there is no such container.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let mut documents: Vec<Value> = serde_json::from_str(&self.run(&["inspect", container])?)?;
        documents.pop().context("inspect gave nothing")
    }

    /// The main processes of all running containers, by their PIDs in the machine.
    ///
    /// # Errors
    /// If they cannot be inspected.
    pub fn processes(&self) -> Result<Vec<i64>> {
        let running = self.run(&["ps", "-q"])?;
        running
            .lines()
            .map(|id| self.inspect(id)?["State"]["Pid"].as_i64().context("no process"))
            .collect()
    }

    /// The processor time of a cgroup below the machine's, in milliseconds, including processes
    /// that have ended in it.
    ///
    /// # Errors
    /// If there is no such cgroup.
    pub fn processor_time(&self, cgroup: &str) -> Result<f64> {
        let top = PathBuf::from("/sys/fs/cgroup");
        let tops = fs::read_dir(&top)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .chain([top.clone()]);
        for folder in tops.map(|top| top.join(self.machine.cgroup()).join(cgroup)) {
            if let Ok(nanoseconds) = fs::read_to_string(folder.join("cpuacct.usage")) {
                return Ok(nanoseconds.trim().parse::<f64>()? / 1e6);
            }
            let stat = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
            if let Some(microseconds) =
                stat.lines().find_map(|line| line.strip_prefix("usage_usec "))
            {
                return Ok(microseconds.trim().parse::<f64>()? / 1e3);
            }
        }
        anyhow::bail!("the machine has no cgroup {cgroup}")
    }
}
