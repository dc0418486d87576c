//! A HookOS-like machine: BusyBox init as PID 1 and a real dockerd.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::api;
use crate::json_logs;
use crate::nest::{BOOT_LIMIT, END_LIMIT, Nest};
pub use crate::nest::{REBOOTED, output};
use crate::paths;
use crate::until::until;

/// Which dockerd a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Debian's docker.io: 20.10 (API 1.41) on Debian 12.
    Debian,
    /// moby v2.0.0-beta.7 (API 1.54), from the Go module proxy.
    Moby,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Moby];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "docker-debian",
            Self::Moby => "docker-moby",
        }
    }

    fn dockerd(self) -> (PathBuf, PathBuf) {
        match self {
            Self::Debian => ("/usr/sbin/dockerd".into(), PathBuf::new()),
            Self::Moby => (paths::cache().join("moby/dockerd"), paths::cache().join("moby")),
        }
    }
}

/// What is unusual about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing: cgroups as this machine has them, no user namespaces.
    Usual,
    /// It has cgroup v2 and nothing else.
    CgroupV2,
    /// Containers have a user namespace unless they ask for the host's.
    UserNamespaces,
    /// Containers outlive a restart of dockerd.
    LiveRestore,
}

/// A running machine.
pub struct Machine {
    nest: Nest,
    events: Child,
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

/// One container event of the engine.
#[derive(Debug, Clone)]
pub struct Event {
    /// When, in seconds since 1970.
    pub time: f64,
    /// `create`, `start`, `die`, `destroy` ...
    pub action: String,
    /// The container's name.
    pub name: String,
    /// For `die`: the exit code.
    pub exit_code: Option<i32>,
}

impl Machine {
    /// Boots a machine and waits until its engine answers.
    ///
    /// # Errors
    /// Without root, or where the engine does not come up; shows its log's end.
    pub fn boot(engine: Engine) -> Result<Self> {
        Self::boot_variant(engine, Variant::Usual)
    }

    /// As [`Machine::boot`], with something unusual.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot_variant(engine: Engine, variant: Variant) -> Result<Self> {
        let variant = match variant {
            Variant::Usual => "",
            Variant::CgroupV2 => "cgroup-v2",
            Variant::UserNamespaces => "user-namespaces",
            Variant::LiveRestore => "live-restore",
        };
        let (dockerd, path) = engine.dockerd();
        ensure!(dockerd.exists(), "{} is missing; run `make cache`", dockerd.display());
        let lab = paths::root().join("lab/hook");
        let runtime = if may_grant_all()? { PathBuf::from("runc") } else { lab.join("runtime") };
        let variables: [(&str, &OsStr); 4] = [
            ("LAB_DOCKERD", dockerd.as_ref()),
            ("LAB_PATH", path.as_ref()),
            ("LAB_RUNTIME", runtime.as_ref()),
            ("LAB_VARIANT", variant.as_ref()),
        ];
        let mut nest = Nest::boot(&lab.join("init"), &variables)?;
        nest.ready("the engine's answer", |nest| Ok(ping(&socket_of(nest)).is_ok_and(|answers| answers)))
            .with_context(|| nest.logs(&LOGS))?;
        let log = fs::File::create(nest.folder().join("events"))?;
        let mut events = docker_of(&nest);
        let events = events.args(["events", "--format", "{{json .}}"]).stdout(log).stderr(Stdio::null()).spawn()?;
        Ok(Self { nest, events })
    }

    /// The engine's socket, as the host reaches it.
    pub fn socket(&self) -> PathBuf {
        socket_of(&self.nest)
    }

    /// `docker`, speaking to this machine's engine, with nothing of the host's environment.
    pub fn docker_command(&self) -> Command {
        docker_of(&self.nest)
    }

    /// Runs `docker` and returns its standard output.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn docker<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = self.docker_command().args(arguments).output().context("cannot run docker")?;
        let shown: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        ensure!(
            output.status.success(),
            "docker {}: {}\n{}",
            shown.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Loads a docker-archive into the engine.
    ///
    /// # Errors
    /// Where the engine does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.docker(&["load".as_ref(), "-q".as_ref(), "-i".as_ref(), archive.as_os_str()]).map(drop)
    }

    /// Asks the engine's API; see [`api::ask`].
    ///
    /// # Errors
    /// As [`api::ask`].
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        api::ask(&self.socket(), method, path, body)
    }

    /// Every container of the engine, running or not: its inspect document.
    ///
    /// # Errors
    /// Where the engine does not answer.
    pub fn containers(&self) -> Result<Vec<Value>> {
        let documents = self.ids()?.into_iter().filter_map(|id| self.inspect(&id).ok());
        Ok(documents.collect())
    }

    /// The IDs of all containers, running or not.
    ///
    /// # Errors
    /// Where the engine does not answer.
    pub fn ids(&self) -> Result<Vec<String>> {
        let (status, list) = self.ask("GET", "/containers/json?all=1", None)?;
        ensure!(status == 200, "the list of containers: {status} {list}");
        Ok(list.as_array().into_iter().flatten().filter_map(|one| Some(one["Id"].as_str()?.to_owned())).collect())
    }

    /// A container's inspect document.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let (status, document) = self.ask("GET", &format!("/containers/{container}/json"), None)?;
        ensure!(status == 200, "inspect of {container}: {status} {document}");
        Ok(document)
    }

    /// Everything that happened to containers since the boot, in order.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(self.folder().join("events"))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let containers = lines.filter(|event| event["Type"] == "container");
        Ok(containers
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

    /// The JSON lines that containers have logged, of those that are still there; after the machine's end too.
    pub fn logged(&self) -> Vec<Value> {
        json_logs::lines(&self.nest.folder().join("docker/containers"))
    }

    /// Ends dockerd with a signal (by its process ID) and waits until it is gone.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn kill_engine(&self, signal: &str) -> Result<()> {
        let status = self.command("sh").args(["-c", &format!("kill -{signal} $(cat /run/docker.pid)")]).status()?;
        ensure!(status.success(), "cannot signal dockerd: {status}");
        until("dockerd's end", END_LIMIT, || Ok(ping(&self.socket()).is_err().then_some(())))
    }

    /// Starts dockerd again after [`Machine::kill_engine`].
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_engine(&self) -> Result<()> {
        let pid = PathBuf::from(format!("/proc/{}/root/run/docker.pid", self.nest.init()));
        // One that was killed leaves its PID behind.
        let gone = || {
            let old = fs::read_to_string(&pid).unwrap_or_default();
            let process = format!("/proc/{}/root/proc/{}", self.nest.init(), old.trim());
            Ok((old.is_empty() || !Path::new(&process).exists()).then_some(()))
        };
        until("the end of the old dockerd", END_LIMIT, gone)?;
        let _ = fs::remove_file(&pid);
        let process = self.nest.start("/run/dockerd.sh", &[], &self.nest.folder().join("dockerd-again.log"))?;
        until("the engine's answer", BOOT_LIMIT, || {
            Ok(ping(&self.socket()).is_ok_and(|answers| answers).then_some(()))
        })
        .with_context(|| self.logs())?;
        // It ends with the machine.
        std::mem::forget(process);
        Ok(())
    }

    /// The end of the machine's logs, for failures.
    pub fn logs(&self) -> String {
        self.nest.logs(&LOGS)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.events.kill();
        let _ = self.events.wait();
    }
}

const LOGS: [&str; 3] = ["boot.log", "init.log", "dockerd.log"];

fn socket_of(nest: &Nest) -> PathBuf {
    format!("/proc/{}/root/run/docker.sock", nest.init()).into()
}

fn docker_of(nest: &Nest) -> Command {
    let mut command = Command::new("docker");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.arg("-H").arg(format!("unix://{}", socket_of(nest).display())).stdin(Stdio::null());
    command
}

/// True where the engine answers a ping; false where it listens but is not ready.
fn ping(socket: &Path) -> Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(&answer[9..] == b"200")
}

/// True where this machine's capabilities have CAP_SYS_RESOURCE (bit 24), so that plain runc works.
///
/// # Errors
/// Where /proc cannot be read.
pub fn may_grant_all() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    Ok(u64::from_str_radix(line.trim(), 16)? & (1 << 24) != 0)
}
