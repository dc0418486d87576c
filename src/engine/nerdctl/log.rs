//! A container's output, from nerdctl's log of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::cli::Cli;
use super::refusal::query_refusal;
use crate::engine::{Answer, Output};

/// How many bytes of a log to read at once; of a longer log, the end.
const MAX_READ: u64 = 256 * 1024;
/// Time between two looks at a log, at first: a waiter is armed some 0.1 s after its start.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How many looks use that time.
const FIRST_LOOKS: u32 = 400;
/// Time between two looks from then on.
const LATER_EVERY: Duration = Duration::from_millis(500);
/// Time between two calls of nerdctl, each of which costs a process.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The log of a container with nerdctl's default log driver, json-file: one document per line.
pub struct LogFile {
    path: PathBuf,
    read: u64,
}

impl LogFile {
    /// Creates a reader of the log at this path, from its start.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// Returns what was logged since the last call.
    fn more(&mut self) -> Vec<u8> {
        read_lines(&self.path, &mut self.read).map(|text| decode(&text)).unwrap_or_default()
    }

    /// True while nerdctl's logger may still write: it locks a file beside the log for as long as
    /// it lives (nerdctl 2.2.1, pkg/logging; its own `logs --follow` waits for the same).
    fn is_open(&self) -> bool {
        File::open(self.path.with_file_name("logger-lock"))
            .is_ok_and(|lock| lock.try_lock_shared().is_err())
    }
}

impl Output for LogFile {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let mut looks = 0;
            loop {
                let open = self.is_open();
                let more = self.more();
                if !more.is_empty() {
                    return Ok(Some(more));
                }
                if !open {
                    return Ok(None);
                }
                looks += 1;
                sleep(if looks < FIRST_LOOKS { LOOK_EVERY } else { LATER_EVERY }).await;
            }
        })
    }
}

/// Reads the complete lines of a file from `from` on, at most the last [`MAX_READ`] bytes; moves
/// `from` behind them.
fn read_lines(path: &Path, from: &mut u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = (*from).max(length.saturating_sub(MAX_READ));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(MAX_READ).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    bytes.truncate(end);
    *from = start + end as u64;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns both streams in order; leaves out truncated lines. Pure.
fn decode(text: &str) -> Vec<u8> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| line["log"].as_str().map(str::to_owned))
        .collect::<String>()
        .into_bytes()
}

/// The output of a container with any log driver that nerdctl can read.
pub struct LogCommand {
    cli: Cli,
    container: String,
    asked: bool,
}

impl LogCommand {
    /// Creates a reader of this container's output.
    pub fn new(cli: Cli, container: &str) -> Self {
        Self { cli, container: container.to_owned(), asked: false }
    }
}

impl Output for LogCommand {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            if std::mem::replace(&mut self.asked, true) {
                sleep(ASK_EVERY).await;
            }
            // Returns the last lines again and again: the caller waits for one of them.
            let said = self
                .cli
                .ask(&["logs", "--tail=20", &self.container])
                .await
                .map_err(query_refusal)?;
            Ok(Some(said.into_bytes()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_are_read_once() {
        let path = std::env::temp_dir().join(format!("waitdaemon-log-{}", std::process::id()));
        let line = |text: &str| format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\"}}\n");
        std::fs::write(&path, format!("{}{{\"log\":\"cu", line("one"))).unwrap();
        let mut log = LogFile::new(path.clone());
        assert_eq!(log.more(), b"one\n");
        assert_eq!(log.more(), b"");
        std::fs::write(&path, [line("one"), line("cut"), line("two")].concat()).unwrap();
        assert_eq!(log.more(), b"cut\ntwo\n");
        std::fs::write(&path, line("x").repeat(20_000)).unwrap();
        assert!(LogFile::new(path.clone()).more().len() < 20_000 * 2);
        std::fs::remove_file(path).unwrap();
    }
}
