//! The real Tink Agent in a machine, served by a stand-in for the Tink Server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::machine::Machine;
use crate::nest::Inside;
use crate::paths;
use crate::until::until;

/// The port of the first stand-in, inside the machine's network namespace.
const PORT: u16 = 42113;
/// How long the stand-in or the agent may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running agent with its stand-in; dropping it ends both processes.
pub struct Agent {
    server: Child,
    agent: Option<Inside>,
    reports: PathBuf,
    log: PathBuf,
}

/// A release of the Tink Agent that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// v0.23.0, of 2026-03.
    V0_23,
    /// v0.24.0, of 2026-07.
    V0_24,
    /// v0.25.0, of 2026-07; the default.
    V0_25,
}

impl Version {
    /// Every release, the newest first.
    pub const ALL: [Self; 3] = [Self::V0_25, Self::V0_24, Self::V0_23];

    /// The release's short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V0_23 => "v0.23",
            Self::V0_24 => "v0.24",
            Self::V0_25 => "v0.25",
        }
    }

    fn program(self) -> PathBuf {
        match self {
            Self::V0_25 => paths::cache().join("tink/agent"),
            older => paths::cache().join("agents").join(older.name()).join("agent"),
        }
    }
}

/// One report of the agent to its server.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// When it arrived, in seconds since 1970.
    pub time: f64,
    /// The action's name.
    pub action: String,
    /// `RUNNING`, `SUCCESS`, `FAILED` or `TIMEOUT`.
    pub state: String,
}

impl Agent {
    /// Starts the agent in the machine, with the actions of a file like those in examples/.
    ///
    /// # Errors
    /// If one of the two does not start.
    pub fn start(machine: &Machine, actions: &Path) -> Result<Self> {
        Self::start_another(machine, actions, 0)
    }

    /// As [`Agent::start`], beside other agents on the same machine, which have lower numbers.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_another(machine: &Machine, actions: &Path, number: u16) -> Result<Self> {
        Self::start_one(machine, actions, number, Version::V0_25)
    }

    /// As [`Agent::start`], with a certain release of the agent.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_version(machine: &Machine, actions: &Path, version: Version) -> Result<Self> {
        Self::start_one(machine, actions, 0, version)
    }

    fn start_one(machine: &Machine, actions: &Path, number: u16, version: Version) -> Result<Self> {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let address = format!("127.0.0.1:{}", PORT + number);
        let (reports, log) = (
            machine.out().join(format!("reports{suffix}")),
            machine.out().join(format!("agent.log{suffix}")),
        );
        let tink = paths::cache().join("tink");
        let server = machine
            .network_command(tink.join("server-standin"))
            .args(["-listen", &address])
            .arg(actions)
            .stdout(fs::File::create(&reports)?)
            .stderr(fs::File::create(machine.out().join("server.log"))?)
            .spawn()?;
        let mut both = Self { server, agent: None, reports, log };
        until("the stand-in for the Tink Server", START_LIMIT, || {
            if let Some(status) = both.server.try_wait()? {
                bail!(
                    "it ended with {status}: {}",
                    fs::read_to_string(machine.out().join("server.log"))?
                );
            }
            Ok(fs::read_to_string(&both.reports)?.contains("LISTENING").then_some(()))
        })?;
        both.agent = Some(start(version, machine, &address, "machine-1", &both.log)?);
        Ok(both)
    }

    /// The reports so far.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let text = fs::read_to_string(&self.reports)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let reports = lines.filter(|line| line["action"].is_string());
        let field = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Ok(reports
            .map(|line| Report {
                time: line["nanoseconds"].as_f64().unwrap_or_default() / 1e9,
                action: field(&line, "action"),
                state: field(&line, "state"),
            })
            .collect())
    }

    /// What the agent printed; with containerd, also what its actions printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the agent has asked for an action and got none, so that it no longer works on
    /// one.
    ///
    /// # Errors
    /// If it does not ask within `limit`.
    pub fn asks_in_vain(&self, limit: Duration) -> Result<()> {
        until("the agent's next question", limit, || {
            Ok(fs::read_to_string(&self.reports)?.contains("\"in vain\"").then_some(()))
        })
    }

    /// Waits for the first final report: SUCCESS, FAILED or TIMEOUT.
    ///
    /// # Errors
    /// If none comes within `limit`; the error shows the agent's log.
    pub fn final_report(&self, limit: Duration) -> Result<Report> {
        let found = until("the agent's final report", limit, || {
            Ok(self.reports()?.into_iter().find(|report| report.state != "RUNNING"))
        });
        found.with_context(|| self.log())
    }
}

/// Starts only the newest agent, for an existing server.
///
/// # Errors
/// If it cannot be started.
pub fn start_agent(machine: &Machine, server: &str, id: &str, log: &Path) -> Result<Inside> {
    start(Version::V0_25, machine, server, id, log)
}

/// Starts an agent; every release takes the same arguments.
fn start(
    version: Version,
    machine: &Machine,
    server: &str,
    id: &str,
    log: &Path,
) -> Result<Inside> {
    let program = version.program();
    ensure!(program.exists(), "{} is missing; run `make cache`", program.display());
    // On HookOS the agent is a container that sees the engine's /run.
    let socket = machine.run_path("docker.sock");
    let engine = if machine.is_docker() {
        ["-runtime", "docker", "-docker-socket", &socket]
    } else {
        ["-runtime", "containerd", "-containerd-socket", "/run/containerd/containerd.sock"]
    };
    let server = ["-id", id, "-transport", "grpc", "-grpc-server", server, "-grpc-tls=false"];
    let arguments = [&server[..], &["-attribute-detection=false"], &engine].concat();
    machine.start(program, &arguments, log)
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.agent.take());
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
