//! Follows what a process prints.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// The lines that a process prints, each with its time of arrival, in seconds since 1970. Dropping
/// the value ends the process.
pub struct Watch {
    child: Child,
    reader: JoinHandle<()>,
    lines: Arc<Mutex<Vec<(f64, String)>>>,
}

impl Watch {
    /// Follows what `command` prints.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn of(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let lines: Arc<Mutex<Vec<(f64, String)>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            // Output that is not UTF-8 must not end the loop.
            for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((now(), line));
            }
        });
        Ok(Self { child, reader, lines })
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<(f64, String)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The process's exit status, once it has ended and all of its lines are here.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.reader.is_finished() { Ok(self.child.try_wait()?) } else { Ok(None) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The current time, in seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
