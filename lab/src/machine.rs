//! A HookOS-like machine: BusyBox init as PID 1 and a real dockerd, in namespaces of its own. What
//! reboots inside ends it; nothing of it outlives the value.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::paths;
use crate::until::until;

/// How long a boot may take; a second is usual.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long what was killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(20);
/// The exit code by which unshare(1) tells that reboot(2) with RESTART was called inside.
pub const REBOOTED: i32 = 129;

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

/// A running machine.
pub struct Machine {
    folder: PathBuf,
    cgroup: String,
    unshare: Child,
    init: u32,
    events: Child,
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

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Machine {
    /// Boots a machine and waits until its engine answers.
    ///
    /// # Errors
    /// Without root, or where the engine does not come up; shows its log's end.
    pub fn boot(engine: Engine) -> Result<Self> {
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = paths::machines().join(&name);
        fs::create_dir_all(folder.join("out"))?;
        let (dockerd, path) = engine.dockerd();
        ensure!(dockerd.exists(), "{} is missing; run `make cache`", dockerd.display());
        let cgroup = format!("waitdaemon-lab-{name}");
        let lab = paths::root().join("lab/hook");
        // The machine ends with us, however we end.
        let unshare = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--pid",
                "--mount",
                "--uts",
                "--ipc",
                "--net",
                "--fork",
                "--kill-child",
            ])
            .arg(lab.join("init"))
            .env("LAB_STATE", &folder)
            .env("LAB_DOCKERD", dockerd)
            .env("LAB_PATH", path)
            .env("LAB_RUNTIME", if may_grant_all()? { PathBuf::from("runc") } else { lab.join("runtime") })
            .env("LAB_CGROUP", format!("/{cgroup}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("boot.log"))?)
            .spawn()
            .context("cannot run setpriv and unshare")?;
        let events = Command::new("true").spawn()?;
        let mut machine = Self { folder, cgroup, unshare, init: 0, events };
        machine.wait_for_engine().with_context(|| machine.logs())?;
        let log = fs::File::create(machine.folder.join("events"))?;
        let mut events = machine.docker_command();
        machine.events.wait()?;
        machine.events = events.args(["events", "--format", "{{json .}}"]).stdout(log).stderr(Stdio::null()).spawn()?;
        Ok(machine)
    }

    fn wait_for_engine(&mut self) -> Result<()> {
        let unshare = self.unshare.id();
        self.init = until("the machine's PID 1", BOOT_LIMIT, || {
            if let Some(status) = self.unshare.try_wait()? {
                bail!("the machine ended while it booted: {status}");
            }
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
            Ok(children.split_whitespace().next().map(str::parse).transpose()?)
        })?;
        until("the engine's answer", BOOT_LIMIT, || {
            if let Some(status) = self.unshare.try_wait()? {
                bail!("the machine ended while it booted: {status}");
            }
            Ok(ping(&self.socket()).is_ok_and(|answers| answers).then_some(()))
        })
    }

    /// The engine's socket, as the host reaches it.
    pub fn socket(&self) -> PathBuf {
        format!("/proc/{}/root/run/docker.sock", self.init).into()
    }

    /// A folder that host and machine see at the same path; containers can bind it.
    pub fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// The machine's PID 1, as the host sees it.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// `docker`, speaking to this machine's engine, with nothing of the host's environment.
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg("-H").arg(format!("unix://{}", self.socket().display())).stdin(Stdio::null());
        command
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

    /// A command that runs inside the machine, in all of its namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter", "-t"]).arg(self.init.to_string());
        command.args(["-m", "-u", "-i", "-n", "-p", "--"]).arg(program).stdin(Stdio::null());
        command
    }

    /// A command of the host that only has the machine's network; it outlives a reboot inside.
    pub fn network_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]).arg(format!("--net=/proc/{}/ns/net", self.init));
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Loads a docker-archive into the engine.
    ///
    /// # Errors
    /// Where the engine does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.docker(&["load".as_ref(), "-q".as_ref(), "-i".as_ref(), archive.as_os_str()]).map(drop)
    }

    /// Every container of the engine, running or not: its inspect document.
    ///
    /// # Errors
    /// Where the engine does not answer.
    pub fn containers(&self) -> Result<Vec<Value>> {
        let ids = self.docker(&["ps", "-aq", "--no-trunc"])?;
        let documents = ids.lines().filter_map(|id| self.inspect(id).ok());
        Ok(documents.collect())
    }

    /// A container's inspect document.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let text = self.docker(&["container", "inspect", container])?;
        let mut documents: Vec<Value> = serde_json::from_str(&text)?;
        documents.pop().context("inspect gave nothing")
    }

    /// Everything that happened to containers since the boot, in order.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(self.folder.join("events"))?;
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

    /// Signals a process by its PID in the machine.
    ///
    /// # Errors
    /// Where there is no such process.
    pub fn signal(&self, pid: i64, signal: &str) -> Result<()> {
        let output = output(self.command("kill").arg(format!("-{signal}")).arg(pid.to_string()))?;
        ensure!(output.status.success(), "kill -{signal} {pid}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
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

    /// The machine's exit code if it has ended: [`REBOOTED`] after a reboot.
    ///
    /// # Errors
    /// Where the process cannot be asked.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.unshare.try_wait()?.map(|status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
    }

    /// Waits for the machine's end.
    ///
    /// # Errors
    /// Where it still runs after `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<i32> {
        until("the machine's end", limit, || self.ended())
    }

    /// The end of the machine's logs, for failures.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        format!("boot: {}\ninit: {}\ndockerd: {}", tail("boot.log"), tail("init.log"), tail("dockerd.log"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // unshare's --kill-child kills the machine's PID 1, and the kernel everything below it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = self.events.kill();
        let _ = self.events.wait();
        let init = PathBuf::from(format!("/proc/{}", self.init));
        if self.init != 0 && until("the end of PID 1", END_LIMIT, || Ok((!init.exists()).then_some(()))).is_err() {
            eprintln!("a machine's PID 1 ({}) did not end", self.init);
        }
        if let Err(error) = remove_cgroups(&self.cgroup) {
            eprintln!("cgroups are left: {error:#}");
        }
        let removed = until("an empty folder", END_LIMIT, || Ok(fs::remove_dir_all(&self.folder).ok()));
        if let Err(error) = removed {
            eprintln!("{} is left: {error:#}", self.folder.display());
        }
    }
}

/// Runs a command to its end and returns what it said, whatever its status.
///
/// # Errors
/// Where it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {:?}", command.get_program()))
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
fn may_grant_all() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    Ok(u64::from_str_radix(line.trim(), 16)? & (1 << 24) != 0)
}

/// Removes the machine's cgroups in every hierarchy; they are empty once its processes are gone.
fn remove_cgroups(name: &str) -> Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top)?.filter_map(Result::ok).map(|entry| entry.path().join(name));
    for folder in hierarchies.chain([top.join(name)]).filter(|folder| folder.is_dir()) {
        until("an empty cgroup", END_LIMIT, || Ok(remove_folders(&folder).ok()))?;
    }
    Ok(())
}

fn remove_folders(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_folders(&path)?;
        }
    }
    fs::remove_dir(folder)
}
