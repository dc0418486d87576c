//! Reports to `WAITDAEMON_REPORT_URL` what becomes of an action after its SUCCESS. The documents
//! are an interface; docs/reference.md lists their fields.

use std::cell::RefCell;
use std::time::Duration;

use hyper::Uri;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::chain;
use crate::http::{self, Accept};
use crate::logging::now;
use crate::retry;

/// The version of the documents: fields are added to it, but none changes or goes away.
const VERSION: u64 = 1;
/// How long to retry sending a report.
const SEND_LIMIT: Duration = Duration::from_secs(15);
/// The pause after the first attempt; it grows to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The event that a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The user container was started.
    Started,
    /// The user container failed, could not be started, or was removed; or the machine could not be
    /// ended; or nothing tells how the action ended.
    Failed,
    /// The signal did not come in time.
    Expired,
    /// The user container must not run.
    Cancelled,
    /// The machine should have gone down, but still runs.
    StillRunning,
    /// The machine is about to be asked to go down.
    GoingDown,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::StillRunning => "still-running",
            Self::GoingDown => "going-down",
        }
    }
}

/// How the user container ended, if the report is about that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub exit_code: Option<i64>,
    /// The last lines of its output, oldest first.
    pub last_lines: Vec<String>,
}

/// Sends reports, each in the background.
pub struct Reporter {
    /// Where reports go; `None` if none are sent.
    url: Option<Uri>,
    /// What each report says about the machine and the action.
    about: Vec<(&'static str, String)>,
    sending: RefCell<Vec<JoinHandle<()>>>,
}

impl Reporter {
    /// Creates a reporter for this URL, with these fields in each report.
    pub fn new(url: Option<&str>, about: Vec<(&'static str, String)>) -> Self {
        // The settings have validated the URL.
        Self { url: url.and_then(|url| url.parse().ok()), about, sending: RefCell::new(Vec::new()) }
    }

    /// Reports an event and returns at once. A report that does not arrive is logged at WARN.
    pub fn tell(&self, event: Event, message: &str, ended: &Ended) {
        let Some(url) = self.url.clone() else { return };
        let text = document(event, &now(), &self.about, message, ended).to_string();
        let task = tokio::spawn(async move {
            let (begin, mut failed) = (Instant::now(), 0);
            loop {
                match http::status(&url, Some(text.clone()), Accept::NotServerErrors).await {
                    Ok(status) if (200..300).contains(&status) => return,
                    Ok(status) => {
                        let status = u64::from(status);
                        return log::warn!(status; "WAITDAEMON_REPORT_URL rejected the report");
                    }
                    Err(error) if begin.elapsed() > SEND_LIMIT => {
                        let error = chain(&error);
                        return log::warn!(error = error.as_str(); "a report did not reach WAITDAEMON_REPORT_URL");
                    }
                    Err(_) => failed += 1,
                }
                sleep(retry::pause(FIRST_PAUSE, MAX_PAUSE, failed)).await;
            }
        });
        self.sending.borrow_mut().push(task);
    }

    /// Waits until all reports have been sent, at most this long.
    pub async fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let sending = self.sending.take();
        for task in sending {
            let _ = timeout_at(end, task).await;
        }
    }
}

/// Returns a report as a JSON document. Pure.
pub fn document(
    event: Event,
    time: &str,
    about: &[(&'static str, String)],
    message: &str,
    ended: &Ended,
) -> Value {
    let mut map = Map::new();
    let fixed =
        [("version", json!(VERSION)), ("event", event.name().into()), ("time", time.into())];
    map.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    map.extend(about.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())));
    map.insert("message".to_owned(), message.into());
    if let Some(code) = ended.exit_code {
        map.insert("exit_code".to_owned(), code.into());
        map.insert(
            "last_lines".to_owned(),
            ended.last_lines.iter().map(|line| Value::from(line.as_str())).collect(),
        );
    }
    map.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_fields_that_are_documented() {
        let about = [
            ("action", "tinkerbell_reboot_a0".to_owned()),
            ("worker", "aa:bb:cc:00:11:22".to_owned()),
        ];
        let ended = Ended { exit_code: Some(7), last_lines: vec!["\"no\" device\u{7}".to_owned()] };
        let report =
            document(Event::Failed, "2026-01-01T00:00:00.000000Z", &about, "it failed", &ended);
        let expected = json!({
            "version": 1, "event": "failed", "time": "2026-01-01T00:00:00.000000Z", "action": "tinkerbell_reboot_a0",
            "worker": "aa:bb:cc:00:11:22", "message": "it failed", "exit_code": 7, "last_lines": ["\"no\" device\u{7}"],
        });
        assert_eq!(report, expected);
        let report = document(Event::GoingDown, "", &[], "reboot", &Ended::default());
        assert_eq!((&report["event"], report.get("exit_code")), (&json!("going-down"), None));
    }
}
