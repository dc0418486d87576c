//! The stand-in for Tinkerbell's Smee, in a machine's network.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::nest::Nest;
use crate::paths;
use crate::until::until;

/// A stand-in that runs; it ends with the value.
pub struct Smee {
    child: Child,
    folder: PathBuf,
}

/// One of its answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When, in seconds since 1970.
    pub time: f64,
    /// What it said: a status, `hang` or `close`.
    pub said: String,
    /// The path that was asked for.
    pub path: String,
}

impl Smee {
    /// Starts it at an address of the machine's network; it answers `said`.
    ///
    /// # Errors
    /// Where it does not listen.
    pub fn start(nest: &Nest, address: &str, said: &str) -> Result<Self> {
        let folder = nest.folder().join(format!("smee-{}", address.replace([':', '[', ']'], "_")));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("answer"), said)?;
        let mut command = nest.network_command(paths::root().join("target/debug/smee-standin"));
        let mut smee = Self { child: command.arg(address).arg(&folder).spawn()?, folder };
        let port: u16 = address.rsplit_once(':').context("no port")?.1.parse()?;
        // Local address, remote address, state LISTEN: proc_pid_net(5).
        let listening = format!(":{port:04X} 0*:0000 0A");
        until("the stand-in for Smee to listen", Duration::from_secs(20), || {
            ensure!(smee.child.try_wait()?.is_none(), "it ended");
            let mut look = nest.network_command("sh");
            look.args(["-c", &format!("grep -q '{listening}' /proc/net/tcp /proc/net/tcp6")]);
            Ok(look.status()?.success().then_some(()))
        })?;
        Ok(smee)
    }

    /// What it answers from now on.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn say(&self, said: &str) -> Result<()> {
        // In one step, for it is read at any moment.
        let new = self.folder.join("answer.new");
        fs::write(&new, said)?;
        Ok(fs::rename(new, self.folder.join("answer"))?)
    }

    /// What it has answered.
    ///
    /// # Errors
    /// Where a line of its log is no answer.
    pub fn answers(&self) -> Result<Vec<Answer>> {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let answer = |line: &str| {
            let [time, said, path] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { return None };
            Some(Answer { time: time.parse().ok()?, said: said.to_owned(), path: path.to_owned() })
        };
        log.lines().map(|line| answer(line).with_context(|| format!("no answer: {line}"))).collect()
    }

    /// Waits until it has answered so often from now on.
    ///
    /// # Errors
    /// Where it is not asked so often in time.
    pub fn asked(&self, times: usize, limit: Duration) -> Result<()> {
        let before = self.answers()?.len();
        until("questions to the stand-in for Smee", limit, || {
            Ok((self.answers()?.len() >= before + times).then_some(()))
        })
    }
}

impl Drop for Smee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
