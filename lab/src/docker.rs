//! Machines with a Docker Engine, and what only they have: the Engine API, events, and an engine
//! that stops and starts again.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine::{Machine, Seen, State, Variant, may_grant_all};
use crate::nest::{BOOT_LIMIT, END_LIMIT, Nest};
use crate::system::System;
use crate::until::until;
use crate::{api, paths, syslog};

pub(crate) const LOGS: [&str; 3] = ["boot.log", "init.log", "dockerd.log"];
/// Where containers of HookOS log to, beside the address that a case listens on; lab/hook/init has
/// it too.
const SYSLOG: &str = "127.0.0.1:514";

/// One container event of the engine.
#[derive(Debug, Clone)]
pub struct Event {
    /// The time of the event, in seconds since 1970.
    pub time: f64,
    /// `create`, `start`, `die`, `destroy` ...
    pub action: String,
    /// The container's name.
    pub name: String,
    /// For `die`: the exit code.
    pub exit_code: Option<i32>,
}

pub(crate) fn boot(system: System, variant: Variant) -> Result<Machine> {
    let named = match variant {
        Variant::Usual => "",
        Variant::CgroupV2 => "cgroup-v2",
        Variant::HostCgroups => "host-cgroups",
        Variant::UserNamespaces => "user-namespaces",
        Variant::LiveRestore => "live-restore",
        Variant::NewApiAlone => "new-api-alone",
    };
    let (dockerd, path) = system.dockerd();
    ensure!(dockerd.exists(), "{} is missing; run `make cache`", dockerd.display());
    let lab = paths::root().join("lab/hook");
    let runtime = if may_grant_all()? { PathBuf::from("runc") } else { lab.join("runtime") };
    let variables: [(&str, &OsStr); 5] = [
        ("LAB_SYSTEM", system.name().as_ref()),
        ("LAB_DOCKERD", dockerd.as_ref()),
        ("LAB_PATH", path.as_ref()),
        ("LAB_RUNTIME", runtime.as_ref()),
        ("LAB_VARIANT", named.as_ref()),
    ];
    let mut nest = Nest::boot(&lab.join("init"), &variables)?;
    nest.ready("the engine's answer", |nest| {
        Ok(ping(&socket(nest, system)).is_ok_and(|answers| answers))
    })
    .with_context(|| nest.logs(&LOGS))?;
    let mut machine = Machine { system, variant, nest, watchers: Vec::new(), forgotten: (0, 0) };
    let log = fs::File::create(machine.folder().join("events"))?;
    let mut events = machine.engine_command();
    events.args(["events", "--format", "{{json .}}"]).stdout(log).stderr(Stdio::null());
    machine.watchers.push(events.spawn()?);
    if system == System::HookOS {
        // The receiver starts before any container, so that nothing is lost.
        machine.watchers.push(syslog::receive(&machine, SYSLOG, &machine.syslog_file())?);
    }
    Ok(machine)
}

impl Machine {
    /// The engine's socket, as the host reaches it.
    pub fn socket(&self) -> PathBuf {
        socket(&self.nest, self.system)
    }

    /// The path, as seen by PID 1 of the machine, of a file or folder below what the engine calls
    /// /run.
    pub fn run_path(&self, name: &str) -> String {
        format!("{}/{name}", self.system.run_folder())
    }

    /// The same path, as the host sees it.
    pub fn run_path_of_host(&self, name: &str) -> PathBuf {
        format!("/proc/{}/root{}", self.init(), self.run_path(name)).into()
    }

    /// A command in the machine that sees the engine's mounts, which on HookOS differ from PID 1's.
    ///
    /// # Errors
    /// If dockerd has left no PID.
    pub fn command_of_engine(&self, program: &str) -> Result<Command> {
        if self.system != System::HookOS {
            return Ok(self.command(program));
        }
        let pid =
            fs::read_to_string(self.run_path_of_host("docker.pid")).context("no PID of dockerd")?;
        let mut command = self.command("nsenter");
        command.args(["-t", pid.trim(), "-m", "--", program]);
        Ok(command)
    }

    /// Sends a request to the engine's API; see [`api::ask`].
    ///
    /// # Errors
    /// As [`api::ask`].
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        api::ask(&self.socket(), method, path, body)
    }

    /// The inspect document of every container of the engine, running or not.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn containers(&self) -> Result<Vec<Value>> {
        let documents = self.ids()?.into_iter().filter_map(|id| self.inspect(&id).ok());
        Ok(documents.collect())
    }

    /// The IDs of all containers, running or not.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn ids(&self) -> Result<Vec<String>> {
        let (status, list) = self.ask("GET", "/containers/json?all=1", None)?;
        ensure!(status == 200, "the list of containers: {status} {list}");
        Ok(list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| Some(one["Id"].as_str()?.to_owned()))
            .collect())
    }

    pub(crate) fn remove_all_of_docker(&self) -> Result<()> {
        for id in self.ids()? {
            let (status, answer) =
                self.ask("DELETE", &format!("/containers/{id}?force=1&v=1"), None)?;
            // The container may be about to remove itself.
            ensure!([204, 404, 409].contains(&status), "cannot remove {id}: {status} {answer}");
        }
        until("the removal of all containers", END_LIMIT, || {
            Ok(self.ids()?.is_empty().then_some(()))
        })
    }

    pub(crate) fn inspect_docker(&self, container: &str) -> Result<Value> {
        let (status, document) = self.ask("GET", &format!("/containers/{container}/json"), None)?;
        ensure!(status == 200, "inspect of {container}: {status} {document}");
        Ok(document)
    }

    /// All container events since the boot, in order.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(self.folder().join("events"))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let containers = lines.filter(|event| event["Type"] == "container");
        Ok(containers
            .skip(self.forgotten.0)
            .map(|event| {
                let attributes = &event["Actor"]["Attributes"];
                Event {
                    time: event["timeNano"].as_f64().unwrap_or_default() / 1e9,
                    action: event["Action"].as_str().unwrap_or_default().to_owned(),
                    name: attributes["name"].as_str().unwrap_or_default().to_owned(),
                    exit_code: attributes["exitCode"].as_str().and_then(|code| code.parse().ok()),
                }
            })
            .collect())
    }

    /// Sends dockerd a signal (by its process ID) and waits until it is gone.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill_engine(&self, signal: &str) -> Result<()> {
        let kill = format!("kill -{signal} $(cat {})", self.run_path("docker.pid"));
        let status = self.command("sh").args(["-c", &kill]).status()?;
        ensure!(status.success(), "cannot signal dockerd: {status}");
        until("dockerd's end", END_LIMIT, || Ok(ping(&self.socket()).is_err().then_some(())))
    }

    /// Starts dockerd again after [`Machine::kill_engine`].
    ///
    /// # Errors
    /// If it does not answer.
    pub fn start_engine(&self) -> Result<()> {
        let pid = self.run_path_of_host("docker.pid");
        // A dockerd that was killed leaves its PID file behind.
        let gone = || {
            let old = fs::read_to_string(&pid).unwrap_or_default();
            let process = format!("/proc/{}/root/proc/{}", self.init(), old.trim());
            Ok((old.is_empty() || !Path::new(&process).exists()).then_some(()))
        };
        until("the end of the old dockerd", END_LIMIT, gone)?;
        let _ = fs::remove_file(&pid);
        let process =
            self.start("/run/dockerd.sh", &[], &self.folder().join("dockerd-again.log"))?;
        until("the engine's answer", BOOT_LIMIT, || {
            Ok(ping(&self.socket()).is_ok_and(|answers| answers).then_some(()))
        })
        .with_context(|| self.logs())?;
        // The process ends with the machine.
        std::mem::forget(process);
        Ok(())
    }
}

/// Reads a container from its inspect document.
pub(crate) fn seen(document: &Value) -> Seen {
    let state = &document["State"];
    let word = match state["Status"].as_str().unwrap_or_default() {
        "created" => State::Created,
        "running" => State::Running,
        "exited" | "dead" => State::Ended,
        _ => State::Other,
    };
    Seen {
        id: document["Id"].as_str().unwrap_or_default().to_owned(),
        state: word,
        pid: state["Pid"].as_i64().filter(|pid| *pid > 1),
        exit_code: state["ExitCode"].as_i64().filter(|_| word == State::Ended),
    }
}

fn socket(nest: &Nest, system: System) -> PathBuf {
    format!("/proc/{}/root{}/docker.sock", nest.init(), system.run_folder()).into()
}

pub(crate) fn command(nest: &Nest, system: System, variant: Variant) -> Command {
    let mut command = Command::new("docker");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    if variant == Variant::NewApiAlone {
        // Debian's docker command is older: it uses the version that it is told to.
        command.env("DOCKER_API_VERSION", "1.52");
    }
    command
        .arg("-H")
        .arg(format!("unix://{}", socket(nest, system).display()))
        .stdin(Stdio::null());
    command
}

/// True if the engine answers a ping; false if it listens but is not ready.
fn ping(socket: &Path) -> Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(&answer[9..] == b"200")
}
