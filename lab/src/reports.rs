//! The receiver that WAITDAEMON_REPORT_URL names, in a machine's network.

use std::fs;
use std::path::PathBuf;
use std::process::Child;

use anyhow::Result;
use serde_json::Value;

use crate::nest::Nest;
use crate::paths;

/// The receiver's port.
const PORT: u16 = 8089;

/// A receiver of reports; dropping it ends it.
pub struct Reports {
    child: Child,
    folder: PathBuf,
}

impl Reports {
    /// The URL to report to, from the host's network.
    pub fn url() -> String {
        format!("http://127.0.0.1:{PORT}/reports?token=secret")
    }

    /// Starts the receiver.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn start(nest: &Nest) -> Result<Self> {
        let folder = nest.folder().join("reports");
        fs::create_dir_all(&folder)?;
        let mut command = nest.network_command(paths::root().join("target/debug/report-receiver"));
        let mut reports =
            Self { child: command.arg(format!("127.0.0.1:{PORT}")).arg(&folder).spawn()?, folder };
        nest.until_listening("the receiver of reports", &mut reports.child, PORT)?;
        Ok(reports)
    }

    /// Sets the status of all answers from now on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn answer(&self, status: u16) -> Result<()> {
        let new = self.folder.join("status.new");
        fs::write(&new, status.to_string())?;
        Ok(fs::rename(new, self.folder.join("status"))?)
    }

    /// All reports so far.
    ///
    /// # Errors
    /// If a report is not JSON.
    pub fn all(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.join("reports")).unwrap_or_default();
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
