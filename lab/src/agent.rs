//! The real Tink Agent in a machine, served by a stand-in for the Tink Server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::nest::{Inside, Nest};
use crate::paths;
use crate::until::until;

/// Where the first stand-in listens, inside the machine's network namespace.
const PORT: u16 = 42113;
/// How long either may take to be there.
const START_LIMIT: Duration = Duration::from_secs(20);

/// An agent at work. Both processes end with the value.
pub struct Agent {
    server: Child,
    agent: Option<Inside>,
    reports: PathBuf,
    log: PathBuf,
}

/// Which engine the agent uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Docker Engine, as in HookOS.
    Docker,
    /// containerd, as in CaptainOS.
    Containerd,
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
    /// Where one of the two does not start.
    pub fn start(machine: &Nest, runtime: Runtime, actions: &Path) -> Result<Self> {
        Self::start_another(machine, runtime, actions, 0)
    }

    /// As [`Agent::start`], beside others on the same machine, whose numbers are lower.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_another(machine: &Nest, runtime: Runtime, actions: &Path, number: u16) -> Result<Self> {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let address = format!("127.0.0.1:{}", PORT + number);
        let (reports, log) =
            (machine.out().join(format!("reports{suffix}")), machine.out().join(format!("agent.log{suffix}")));
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
                bail!("it ended with {status}: {}", fs::read_to_string(machine.out().join("server.log"))?);
            }
            Ok(fs::read_to_string(&both.reports)?.contains("LISTENING").then_some(()))
        })?;
        both.agent = Some(start_agent(machine, runtime, &address, "machine-1", &both.log)?);
        Ok(both)
    }

    /// What was reported so far.
    ///
    /// # Errors
    /// Where the record cannot be read.
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

    /// What the agent wrote, and with containerd what its actions wrote too.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the first final report: SUCCESS, FAILED or TIMEOUT.
    ///
    /// # Errors
    /// Where none comes within `limit`; shows the agent's log.
    pub fn final_report(&self, limit: Duration) -> Result<Report> {
        let found = until("the agent's final report", limit, || {
            Ok(self.reports()?.into_iter().find(|report| report.state != "RUNNING"))
        });
        found.with_context(|| self.log())
    }
}

/// Starts the agent alone, for a server that is there.
///
/// # Errors
/// Where it cannot be started.
pub fn start_agent(machine: &Nest, runtime: Runtime, server: &str, id: &str, log: &Path) -> Result<Inside> {
    let engine = match runtime {
        Runtime::Docker => ["-runtime", "docker", "-docker-socket", "/var/run/docker.sock"],
        Runtime::Containerd => ["-runtime", "containerd", "-containerd-socket", "/run/containerd/containerd.sock"],
    };
    let server = ["-id", id, "-transport", "grpc", "-grpc-server", server, "-grpc-tls=false"];
    let arguments = [&server[..], &["-attribute-detection=false"], &engine].concat();
    machine.start(paths::cache().join("tink/agent"), &arguments, log)
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.agent.take());
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
