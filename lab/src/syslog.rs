//! Reads what containers log with Docker's syslog driver, as a receiver in the machine's network
//! records it.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::nest::Nest;
use crate::paths;
use crate::until::until;

/// How long the receiver may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);
/// The severity that Docker gives to standard error: ERR (RFC 5424).
const ERROR: u8 = 3;

/// A line that a container has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The container's short ID.
    pub of: String,
    /// True if it came on standard error.
    pub is_error: bool,
    /// What it printed.
    pub text: String,
}

impl Line {
    /// True if the container with this ID printed the line.
    pub fn is_of(&self, id: &str) -> bool {
        !self.of.is_empty() && id.starts_with(&self.of)
    }
}

/// Starts a receiver at an address of the machine's network; it appends each message to the file as
/// a line.
///
/// # Errors
/// If it does not start.
pub fn receive(nest: &Nest, address: &str, file: &Path) -> Result<Child> {
    let program = paths::root().join("target/debug/syslog-receiver");
    ensure!(program.exists(), "{} is not built: cargo build -p lab", program.display());
    let child = nest.network_command(program).arg(address).arg(file).spawn()?;
    until("the syslog receiver", START_LIMIT, || Ok(file.exists().then_some(())))?;
    Ok(child)
}

/// The lines of all containers, in order of arrival.
pub fn lines(file: &Path) -> Vec<Line> {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    text.lines().filter_map(parse).collect()
}

/// Parses `<PRIORITY>Nov 29 06:10:00 host TAG[PID]: TEXT`, which Docker writes without a format.
fn parse(line: &str) -> Option<Line> {
    let (priority, rest) = line.strip_prefix('<')?.split_once('>')?;
    let (header, text) = rest.split_once("]: ")?;
    let of = header.rsplit(' ').next()?.split('[').next()?.to_owned();
    Some(Line { of, is_error: priority.parse::<u8>().ok()? % 8 == ERROR, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_docker_is_a_line() {
        let line = |is_error, text: &str| {
            Some(Line { of: "0123456789ab".into(), is_error, text: text.into() })
        };
        let message = |priority: u8, text: &str| {
            format!("<{priority}>Nov 29 06:10:00 hookos 0123456789ab[77]: {text}")
        };
        assert_eq!(parse(&message(30, "{\"a\": [1]: 2}")), line(false, "{\"a\": [1]: 2}"));
        assert_eq!(parse(&message(27, "")), line(true, ""));
        assert_eq!(parse("no message"), None);
    }
}
