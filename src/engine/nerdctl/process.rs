//! A container's process, watched through a pidfd.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use crate::machine::{pidfd, readable};

/// How long the shim may take to reap a process that has ended.
const REAP_LIMIT: Duration = Duration::from_secs(1);
/// Time between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// A process of a container.
pub struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Opens a process in the cgroup of this container; the check guards against a reused PID.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn open(pid: u32, container: &str) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::other("the engine gave no PID"))?;
        let process = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if !cgroup.contains(container) {
            return Err(io::Error::other(format!(
                "process {pid} is not in the container's cgroup"
            )));
        }
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        Ok(Self(readable::watch(process)?))
    }

    /// Waits for the process to end; returns the exit code if the kernel tells it.
    ///
    /// # Errors
    /// If epoll(7) fails.
    pub async fn ended(&self) -> io::Result<Option<i64>> {
        drop(self.0.readable().await?);
        let end = Instant::now() + REAP_LIMIT;
        loop {
            match pidfd::exit_code(self.0.get_ref()) {
                Ok(None) if Instant::now() < end => sleep(PAUSE).await,
                answer => return Ok(answer.ok().flatten()),
            }
        }
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// If pidfd_send_signal(2) fails.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.0.get_ref(), signal)?)
    }
}
