//! The stand-in for Tinkerbell's Smee, in a machine's network.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::nest::Nest;
use crate::paths;
use crate::until::until;

/// A running stand-in; dropping it ends it.
pub struct Smee {
    child: Child,
    folder: PathBuf,
}

/// An answer of the stand-in.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The time of the answer, in seconds since 1970.
    pub time: f64,
    /// The answer: a status, `hang` or `close`.
    pub said: String,
    /// The requested path.
    pub path: String,
}

impl Smee {
    /// Starts the stand-in at an address of the machine's network, with the answer `said`.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn start(nest: &Nest, address: &str, said: &str) -> Result<Self> {
        let folder = nest.folder().join(format!("smee-{}", address.replace([':', '[', ']'], "_")));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("answer"), said)?;
        let mut command = nest.network_command(paths::root().join("target/debug/smee-standin"));
        let mut smee = Self { child: command.arg(address).arg(&folder).spawn()?, folder };
        let port: u16 = address.rsplit_once(':').context("no port")?.1.parse()?;
        nest.until_listening("the stand-in for Smee", &mut smee.child, port)?;
        Ok(smee)
    }

    /// Sets the answer from now on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn say(&self, said: &str) -> Result<()> {
        // The file is replaced in one step, because it is read at any moment.
        let new = self.folder.join("answer.new");
        fs::write(&new, said)?;
        Ok(fs::rename(new, self.folder.join("answer"))?)
    }

    /// The answers so far.
    ///
    /// # Errors
    /// If a line of its log is not an answer.
    pub fn answers(&self) -> Result<Vec<Answer>> {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let answer = |line: &str| {
            let [time, said, path] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            Some(Answer { time: time.parse().ok()?, said: said.to_owned(), path: path.to_owned() })
        };
        log.lines().map(|line| answer(line).with_context(|| format!("no answer: {line}"))).collect()
    }

    /// Waits until it has answered this many more requests.
    ///
    /// # Errors
    /// If the requests do not come in time.
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
