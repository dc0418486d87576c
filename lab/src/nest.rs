//! The shell of a machine: namespaces with their own PID 1, in which a reboot is real and ends only
//! them. Nothing outlives the value.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::paths;
use crate::until::until;

/// How long a boot may take; a second is usual.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long a program may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long a killed process may take to be gone.
pub const END_LIMIT: Duration = Duration::from_secs(20);
/// The exit code of unshare(1) after a call of reboot(2) with RESTART inside.
pub const REBOOTED: i32 = 129;
/// The same for POWER_OFF and HALT.
pub const POWERED_OFF: i32 = 130;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The namespaces of a running machine.
pub struct Nest {
    folder: PathBuf,
    cgroup: String,
    unshare: Child,
    init: u32,
}

impl Nest {
    /// Runs `program` as PID 1 in new pid, mount, uts, ipc and net namespaces. Its environment has
    /// LAB_STATE, a folder of its own, LAB_CGROUP, the name for its cgroups, and `variables`.
    ///
    /// # Errors
    /// Without root, or if the program ends at once.
    pub fn boot(program: &Path, variables: &[(&str, &OsStr)]) -> Result<Self> {
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = paths::machines().join(&name);
        fs::create_dir_all(folder.join("out"))?;
        let cgroup = format!("waitdaemon-lab-{name}");
        // The machine ends with us, however we end.
        let unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--uts", "--ipc", "--net"])
            .args(["--fork", "--kill-child"])
            .arg(program)
            .env("LAB_STATE", &folder)
            .env("LAB_CGROUP", &cgroup)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("boot.log"))?)
            .spawn()
            .context("cannot run setpriv and unshare")?;
        let mut nest = Self { folder, cgroup, unshare, init: 0 };
        let unshare = nest.unshare.id();
        nest.init = until("the machine's PID 1", BOOT_LIMIT, || {
            nest.still_up()?;
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))
                .unwrap_or_default();
            Ok(children.split_whitespace().next().map(str::parse).transpose()?)
        })?;
        Ok(nest)
    }

    /// Waits until `look` says that the machine is ready.
    ///
    /// # Errors
    /// If it ends before, or is not ready in time.
    pub fn ready(&mut self, what: &str, look: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        self.ready_within(what, BOOT_LIMIT, look)
    }

    /// As [`Nest::ready`], with another time limit.
    ///
    /// # Errors
    /// As [`Nest::ready`].
    pub fn ready_within(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        until(what, limit, || {
            self.still_up()?;
            Ok(look(self)?.then_some(()))
        })
    }

    fn still_up(&mut self) -> Result<()> {
        if let Some(status) = self.unshare.try_wait()? {
            bail!("the machine ended while it booted: {status}");
        }
        Ok(())
    }

    /// The machine's folder on the host's disk.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder at the same path on the host and in the machine; containers can bind it.
    pub fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// The name of the cgroup, in each hierarchy, that holds all of the machine's.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The machine's PID 1, as the host sees it.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// A command that runs inside the machine, in all of its namespaces. Do not use it for a
    /// command that reboots the machine: systemd stops all processes first, nsenter(1) stops with
    /// its own, and so keeps the namespaces alive.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        inside(self.init, program)
    }

    /// Starts a program inside the machine as a child of its PID 1; its output goes to `log`.
    ///
    /// # Errors
    /// If the shell that starts it fails.
    pub fn start(
        &self,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Inside> {
        let mut shell = self.command("sh");
        shell
            .args(["-c", "log=$1; shift; \"$@\" > \"$log\" 2>&1 & echo $!", "sh"])
            .arg(log)
            .arg(program)
            .args(arguments);
        let started = output(&mut shell)?;
        ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Ok(Inside { init: self.init, pid: String::from_utf8(started.stdout)?.trim().parse()? })
    }

    /// A command of the host with only the machine's network; it outlives a reboot inside.
    pub fn network_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/proc/{}/ns/net", self.init));
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Waits until a program in the machine's network listens on a TCP port.
    ///
    /// # Errors
    /// If it ends before, or does not listen in time.
    pub fn until_listening(&self, what: &str, program: &mut Child, port: u16) -> Result<()> {
        // The local address, the remote address and the state LISTEN: proc_pid_net(5).
        let listening = format!(":{port:04X} 0*:0000 0A");
        until(&format!("{what} to listen"), LISTEN_LIMIT, || {
            ensure!(program.try_wait()?.is_none(), "{what} ended");
            let mut look = self.network_command("sh");
            look.args(["-c", &format!("grep -q '{listening}' /proc/net/tcp /proc/net/tcp6")]);
            Ok(look.status()?.success().then_some(()))
        })
    }

    /// Sends a signal to a process, by its PID in the machine.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn signal(&self, pid: i64, signal: &str) -> Result<()> {
        let output = output(self.command("sh").arg("-c").arg(format!("kill -{signal} {pid}")))?;
        ensure!(
            output.status.success(),
            "kill -{signal} {pid}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// True if a process with the machine's own PIDs runs this program.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub fn runs(&self, program: &str) -> Result<bool> {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(&self.init.to_string());
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let command = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
            if command.split(|byte| *byte == 0).next() == Some(program.as_bytes())
                && space(&name) == own
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The machine's exit code, if it has ended: [`REBOOTED`] after a reboot.
    ///
    /// # Errors
    /// If the process cannot be asked.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self
            .unshare
            .try_wait()?
            .map(|status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
    }

    /// Waits for the machine's end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<i32> {
        until("the machine's end", limit, || self.ended())
    }

    /// The end of some of the machine's logs, for error messages.
    pub fn logs(&self, names: &[&str]) -> String {
        let tail = |name: &&str| {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("{name}: {}\n", lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        names.iter().map(tail).collect()
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        // unshare's --kill-child kills the machine's PID 1, and the kernel kills everything below
        // it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let init = PathBuf::from(format!("/proc/{}", self.init));
        if self.init != 0
            && until("the end of PID 1", END_LIMIT, || Ok((!init.exists()).then_some(()))).is_err()
        {
            eprintln!("a machine's PID 1 ({}) did not end", self.init);
        }
        if let Err(error) = remove_cgroups(&self.cgroup) {
            eprintln!("cgroups are left: {error:#}");
        }
        let removed =
            until("an empty folder", END_LIMIT, || Ok(fs::remove_dir_all(&self.folder).ok()));
        if let Err(error) = removed {
            eprintln!("{} is left: {error:#}", self.folder.display());
        }
    }
}

/// A program that was started inside a machine; dropping it ends the program.
pub struct Inside {
    init: u32,
    pid: u32,
}

impl Drop for Inside {
    fn drop(&mut self) {
        // If the machine has ended, so has the program.
        let _ = inside(self.init, "sh")
            .arg("-c")
            .arg(format!("kill -KILL {}", self.pid))
            .stderr(Stdio::null())
            .status();
    }
}

fn inside(init: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter", "-t"]).arg(init.to_string());
    command.args(["-m", "-u", "-i", "-n", "-p", "-C", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its output, whatever its status.
///
/// # Errors
/// If it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {:?}", command.get_program()))
}

/// Removes the machine's cgroups in every hierarchy; they are empty once its processes are gone.
fn remove_cgroups(name: &str) -> Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies =
        fs::read_dir(top)?.filter_map(Result::ok).map(|entry| entry.path().join(name));
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
