//! An action: run by hand with the engine's command, or by the real Tink Agent.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Report};
use lab::machine::{Machine, State, output};
use lab::until::until;
use serde_json::{Value, json};

use crate::world::{ACTION, LIMIT, SOCKET, SUCCEEDED, USER, WAITER, waiter_log};

/// The time limit for an agent's final report: longer than two calls that stall.
const REPORT_LIMIT: Duration = Duration::from_secs(150);

/// Who runs an action.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// `docker run` or `nerdctl run`.
    Hand,
    /// The Tink Agent.
    Agent,
}

/// An action and how it is run: as the agent runs it, with the changes that a case makes.
#[derive(Clone)]
pub struct Action<'a> {
    machine: &'a Machine,
    by: By,
    name: String,
    image: String,
    environment: Vec<(String, String)>,
    volumes: Vec<String>,
    flags: Vec<String>,
    host_pids: bool,
    network: String,
    seconds: u64,
    command: Vec<String>,
}

impl<'a> Action<'a> {
    /// An action that is privileged and has the host's PIDs, a volume `/out` and, on Docker, the
    /// engine's socket. On Docker it is run by hand with the settings that the agent uses. On
    /// containerd the agent runs it, because the agent's containers differ from nerdctl's.
    pub fn new(machine: &'a Machine) -> Self {
        let mut volumes = vec![format!("{}:/out", machine.out().display())];
        if machine.is_docker() {
            volumes.push(SOCKET.into());
        }
        Self {
            machine,
            by: if machine.is_docker() { By::Hand } else { By::Agent },
            name: "last".into(),
            image: "waitdaemon:dev".into(),
            environment: Vec::new(),
            volumes,
            flags: Vec::new(),
            host_pids: true,
            network: String::new(),
            seconds: 140,
            command: Vec::new(),
        }
    }

    /// The usual action: IMAGE is `alpine`.
    pub fn alpine(machine: &'a Machine) -> Self {
        Self::new(machine).env("IMAGE", "alpine")
    }

    /// Makes the agent run it.
    pub fn by_agent(mut self) -> Self {
        self.by = By::Agent;
        self
    }

    /// Makes the engine's command run it.
    pub fn by_hand(mut self) -> Self {
        self.by = By::Hand;
        self
    }

    /// Gives it a name other than `last`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the action's own image.
    pub fn image(mut self, image: &str) -> Self {
        self.image = image.into();
        self
    }

    /// Adds a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets WAIT_SECONDS.
    pub fn wait(self, seconds: &str) -> Self {
        self.env("WAIT_SECONDS", seconds)
    }

    /// Adds a volume.
    pub fn volume(mut self, volume: &str) -> Self {
        self.volumes.push(volume.into());
        self
    }

    /// Replaces all volumes with these.
    pub fn volumes(mut self, volumes: Vec<String>) -> Self {
        self.volumes = volumes;
        self
    }

    /// Adds flags of `docker run` or `nerdctl run`; the action is then run by hand.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.by_hand()
    }

    /// Leaves the engine's socket out.
    pub fn without_socket(mut self) -> Self {
        self.volumes.retain(|volume| volume != SOCKET);
        self
    }

    /// Gives it PIDs of its own instead of the host's.
    pub fn with_own_pids(mut self) -> Self {
        self.host_pids = false;
        self
    }

    /// Sets the network; an empty string means the usual one.
    pub fn network(mut self, network: &str) -> Self {
        self.network = network.into();
        self
    }

    /// Sets the agent's timeout.
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// Sets the arguments.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Makes the user container's shell run this script.
    pub fn script(self, script: &str) -> Self {
        self.command(&["sh", "-c", script])
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &'a Machine {
        self.machine
    }

    /// The name of its container.
    pub fn container(&self) -> String {
        format!("tinkerbell_{}_a0", self.name)
    }

    fn by_command(&self, detached: bool) -> Command {
        let mut run = self.machine.engine_command();
        run.args(["run", "--name", &self.container(), "--privileged"]);
        if self.host_pids {
            run.args(["--pid", "host"]);
        }
        if !self.network.is_empty() {
            run.args(["--network", &self.network]);
        }
        for (name, value) in &self.environment {
            run.arg("-e").arg(format!("{name}={value}"));
        }
        for volume in &self.volumes {
            run.args(["-v", volume]);
        }
        // These come last, so that they take precedence.
        run.args(&self.flags);
        if detached {
            run.arg("-d");
        }
        run.arg(&self.image).args(&self.command);
        run
    }

    /// Writes it to a file for the agent; JSON is valid YAML.
    pub fn file(&self) -> Result<PathBuf> {
        let environment: serde_json::Map<String, Value> = self
            .environment
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        let mut action = json!({
            "name": self.name, "image": self.image, "timeout": self.seconds, "volumes": self.volumes,
            "command": self.command, "environment": environment, "namespaces": {"network": self.network},
        });
        if self.host_pids {
            action["pid"] = "host".into();
        }
        let path = self.machine.out().join("actions.yaml");
        fs::write(&path, json!([action]).to_string())?;
        Ok(path)
    }

    /// Starts the action without waiting for it.
    pub fn start(&self) -> Result<Running<'a>> {
        let agent = match self.by {
            By::Agent => Some(Agent::start(self.machine, &self.file()?)?),
            By::Hand => {
                let status = self.by_command(true).stdout(Stdio::null()).status()?;
                ensure!(status.success(), "{} run -d: {status}", self.machine.command_name());
                None
            }
        };
        Ok(Running { machine: self.machine, container: self.container(), agent })
    }

    /// Runs the action to its end, then removes its container as the agent does.
    pub fn run(&self) -> Result<Said> {
        if self.by == By::Agent {
            return self.start()?.end();
        }
        let result = output(&mut self.by_command(false))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = result.status.code().unwrap_or(-1);
        let said = Said { code, out: text(result.stdout), err: text(result.stderr), report: None };
        remove(self.machine, &self.container(), code == 0)?;
        Ok(said)
    }

    /// Runs the action to its end, which must be with exit code 0.
    pub fn run_well(&self) -> Result<Said> {
        let said = self.run()?;
        ensure!(said.code == 0, "the handoff failed: {said:?}");
        Ok(said)
    }
}

/// Removes the container of an action that was run by hand. On containerd its exit code is needed
/// until the waiter knows it, so this waits for the waiter first.
fn remove(machine: &Machine, container: &str, succeeded: bool) -> Result<()> {
    if machine.is_docker() {
        machine.engine(&["rm", "-f", container])?;
        return Ok(());
    }
    if succeeded && container == ACTION {
        until("the waiter to know how the action ended", LIMIT, || {
            let knows = || waiter_log(machine).iter().any(|line| line["message"] == SUCCEEDED);
            // nerdctl may have lost the line. A user container that was started shows the same, and
            // so does its absence.
            Ok((!machine.has(WAITER) || machine.has_task(USER) || knows()).then_some(()))
        })?;
    }
    until("the removal of the action's container", LIMIT, || {
        output(machine.engine_command().args(["rm", "-f", container]))?;
        Ok((!machine.has(container)).then_some(()))
    })
}

/// A running action; dropping it ends its agent.
pub struct Running<'a> {
    machine: &'a Machine,
    container: String,
    agent: Option<Agent>,
}

impl Running<'_> {
    /// Waits for the action's end. Its container is then gone, unless it failed on containerd,
    /// where the agent keeps it.
    pub fn end(self) -> Result<Said> {
        let Some(agent) = &self.agent else {
            let seen = until("the action's end", REPORT_LIMIT, || {
                let seen = self
                    .machine
                    .seen(&self.container)
                    .with_context(|| format!("no {}", self.container))?;
                Ok((seen.state == State::Ended).then_some(seen))
            })?;
            let (out, err) = self.machine.log_of(&self.container)?;
            let code = seen.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
            remove(self.machine, &self.container, code == 0)?;
            return Ok(Said { code, out, err, report: None });
        };
        let report = agent.final_report(REPORT_LIMIT)?;
        let log = agent.log();
        let (mut out, mut err) = (String::new(), String::new());
        for line in log.lines() {
            let parsed = serde_json::from_str::<Value>(line).unwrap_or_default();
            // The line is one of the agent's own.
            if parsed["source"]["file"].is_string() {
                continue;
            }
            let is_error = parsed["level"] == "WARN" || parsed["level"] == "ERROR";
            let stream = if is_error { &mut err } else { &mut out };
            stream.push_str(line);
            stream.push('\n');
        }
        let code = if report.state == "SUCCESS" { 0 } else { exit_code(&log).unwrap_or(-1) };
        if code != 0 && !self.machine.is_docker() {
            // nerdctl logs an error and removes it, or does not (2.2.1). The next container of this
            // name is not affected.
            output(self.machine.engine_command().args(["rm", "-f", &self.container]))?;
        }
        Ok(Said { code, out, err, report: Some(report) })
    }
}

/// The exit code that the agent's containerd runtime logs (v0.25.0).
fn exit_code(log: &str) -> Option<i32> {
    let (_, rest) = log.split_once("task exited with non-zero code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What a finished action printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code, or -1 if the agent does not report it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The agent's final report, if an agent ran the action.
    pub report: Option<Report>,
}

impl Said {
    /// The error line about a template field, with `message`, `error` and `fix` in one text.
    pub fn about(&self, field: &str) -> Result<String> {
        let lines = self.err.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines = lines.filter(|line| line["level"] == "ERROR" && line["field"] == field);
        let line =
            lines.next().with_context(|| format!("no ERROR line about {field}: {self:?}"))?;
        ensure!(line["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "no fix: {line}");
        Ok(format!("{} {} {}", line["message"], line["error"], line["fix"]))
    }

    /// Asserts the exit code, and that an error line names the field and contains `words`.
    pub fn expect(&self, code: i32, field: &str, words: &str) -> Result<()> {
        ensure!(self.code == code, "exit code {}, not {code}: {self:?}", self.code);
        let text = self.about(field)?;
        ensure!(text.contains(words), "{text:?} lacks {words:?}");
        Ok(())
    }

    /// Everything that the action printed.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}
