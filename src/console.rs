//! Sends WARN and ERROR lines to the kernel's log, which the machine's console shows. If the engine
//! sends container output to a server, that server may be what is unreachable.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

/// The kernel's log (Documentation/ABI/testing/dev-kmsg).
pub const DEVICE: &str = "/dev/kmsg";
/// The longest message in bytes, well below what the kernel takes in one write (1024, less its own
/// prefix).
const MAX_MESSAGE: usize = 900;

static CONSOLE: OnceLock<File> = OnceLock::new();

/// Starts sending lines to the kernel's log, if this process has the device.
pub fn start() {
    if let Ok(file) = OpenOptions::new().write(true).open(DEVICE) {
        let _ = CONSOLE.set(file);
    }
}

/// Sends a log line with syslog's severity. A failure is ignored: there is nowhere to report it.
pub fn send(severity: u8, action: Option<&str>, message: &str, cause: Option<&str>) {
    if let Some(mut console) = CONSOLE.get() {
        let _ = console.write_all(&record(severity, action, message, cause));
    }
}

/// Returns the record: syslog's priority, the sender and the text. A record is one write. Pure.
fn record(severity: u8, action: Option<&str>, message: &str, cause: Option<&str>) -> Vec<u8> {
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    let text = format!("<{severity}>waitdaemon {}: {message}{cause}", action.unwrap_or_default());
    let mut record: Vec<u8> = text.into_bytes();
    record.truncate(MAX_MESSAGE);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_severity_and_is_not_too_long() {
        let short = record(3, Some("tinkerbell_last_a0"), "cannot start it", Some("no such host"));
        assert_eq!(short, b"<3>waitdaemon tinkerbell_last_a0: cannot start it: no such host");
        let long = record(4, None, &"\u{e4}".repeat(2000), None);
        assert!(long.len() == MAX_MESSAGE && long.starts_with(b"<4>waitdaemon "));
    }
}
