//! Receives a machine's syslog.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use lab::paths;
use lab::until::until;
use lab::vm::free_port;

use super::START_LIMIT;

/// A receiver of syslog datagrams; dropping it ends it.
pub struct Receiver {
    child: Child,
    file: PathBuf,
    pub port: u16,
}

impl Receiver {
    pub fn start(file: &Path) -> Result<Self> {
        let _ = fs::remove_file(file);
        let port = free_port()?;
        let mut receiver = Command::new("setpriv");
        receiver
            .args(["--pdeathsig", "KILL"])
            .arg(paths::root().join("target/debug/syslog-receiver"));
        let child =
            receiver.arg(format!("127.0.0.1:{port}")).arg(file).stdin(Stdio::null()).spawn()?;
        let receiver = Self { child, file: file.to_owned(), port };
        until("the syslog receiver", START_LIMIT, || Ok(file.exists().then_some(())))?;
        Ok(receiver)
    }

    pub fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.file)?)
    }

    /// The end of what was received.
    pub fn tail(&self) -> String {
        let text = self.text().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("syslog's end:\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
