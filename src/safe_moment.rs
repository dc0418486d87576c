//! The moment when the user container may start: WAIT_SECONDS after the action's end and, if a
//! signal is configured, not before it. A signal is an HTTP status at a URL.
//!
//! Tinkerbell itself gives a signal: Smee serves a machine's boot script as long as its Hardware
//! allows netboot, and answers 404 from then on. The server switches netboot off after it has
//! recorded SUCCESS (observed with Tinkerbell v0.25.0, `toggleAllowNetboot`).

use std::time::Duration;

use hyper::Uri;
use tokio::time::sleep;

use crate::error::{Context, Failure, chain};
use crate::http::{self, Accept};
use crate::machine::clock::{Clock, Moment};
use crate::machine::command_line;
use crate::process::Process;
use crate::retry::{self, retry_within};
use crate::settings::{Awaited, Expired, Settings};

/// How often a long wait logs that it goes on.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(30);
/// The port on which Smee serves boot scripts (Tinkerbell v0.25.0).
const SMEE_PORT: u16 = 7080;
/// Smee's answer for a machine whose netboot is on.
const NETBOOT_IS_ON: u16 = 200;
/// Smee's answer once netboot is off.
const NETBOOT_IS_OFF: u16 = 404;
/// How long the handoff retries if it gets no answer.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(15);
/// The pause after the first request; it grows to the longest. Many machines end in the same
/// second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How many answers of 404 mean that netboot is off: three in a row, over two seconds. Smee answers
/// 404 for other reasons too, some of which pass (docs/reference.md).
const NETBOOT_ANSWERS: u32 = 3;
/// The pause between two answers that must be the same.
const SURE_PAUSE: Duration = Duration::from_secs(1);

const FIELD: &str = "environment.WAITDAEMON_WAIT_FOR";

/// A signal that the waiter awaits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedSignal {
    /// What the waiter waits for, in words.
    pub name: String,
    /// The URL to ask.
    pub url: String,
    /// The HTTP status that is the signal.
    pub status: u16,
    /// How many times in a row this status must be the answer.
    pub times: u32,
    /// Seconds from the action's end until the wait for the signal expires.
    pub max_seconds: u64,
    /// What happens when the wait expires.
    pub expired: Expired,
}

impl AwaitedSignal {
    /// True if it is Smee's answer that netboot is off.
    fn is_netboot(&self) -> bool {
        self.times > 1
    }

    /// Returns which answers count as one. A server error says nothing about netboot.
    fn accept(&self) -> Accept {
        if self.is_netboot() { Accept::NotServerErrors } else { Accept::Any }
    }

    /// Returns what to do if the signal does not come.
    pub fn fix(&self) -> &'static str {
        if self.is_netboot() {
            "set bootOptions.toggleAllowNetboot: true in the Workflow; for a slow server raise WAITDAEMON_WAIT_MAX_SECONDS"
        } else {
            "check which server answers at that URL; if the signal only takes longer raise WAITDAEMON_WAIT_MAX_SECONDS"
        }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The user container may start.
    Safe,
    /// The signal did not come in time.
    Expired,
}

/// Asks once for the signal that the settings name, while the action can still fail. Returns `None`
/// if no signal is configured, or, with a warning, if Smee cannot give it.
///
/// # Errors
/// If there is nothing to ask, or no usable response.
pub async fn prepare(
    settings: &Settings,
    process: &Process,
) -> Result<Option<AwaitedSignal>, Failure> {
    let Some(wait_for) = &settings.wait_for else { return Ok(None) };
    let (name, url, status, times) = match &wait_for.what {
        Awaited::NetbootOff { smee } => {
            let script = boot_script(&process.machine.command_line, smee.as_ref())?;
            ("netboot to be switched off".to_owned(), script, NETBOOT_IS_OFF, NETBOOT_ANSWERS)
        }
        Awaited::Status { url, status } => {
            (format!("status {status} at {}", without_query(url)), url.clone(), *status, 1)
        }
    };
    let (max_seconds, expired) = (wait_for.max_wait.as_secs(), wait_for.expired);
    let signal = AwaitedSignal { name, url: url.to_string(), status, times, max_seconds, expired };
    let ask = async || {
        let once = || http::status(&url, None, signal.accept());
        retry_within(SIGNAL_PATIENCE, "asking for the signal", once).await
    };
    let mut answer = ask().await;
    for _ in 1..NETBOOT_ANSWERS {
        // As for the waiter, one answer is not enough.
        if signal.is_netboot() && matches!(answer, Ok(NETBOOT_IS_OFF)) {
            sleep(SURE_PAUSE).await;
            answer = ask().await;
        }
    }
    let (name, shown) = (signal.name.as_str(), without_query(&url));
    let answer = answer.context(format!("cannot wait for {name}: no response from {shown}"));
    let answer = answer.map_err(|failure| {
        let smee = "add to the action (Tinkerbell v0.25 and later):  namespaces: {network: host}; or name another place: WAITDAEMON_SMEE_URL; or leave WAITDAEMON_WAIT_FOR out to go by WAIT_SECONDS";
        let other = "check the URL; if the action's own network does not lead there, add (Tinkerbell v0.25 and later):  namespaces: {network: host}";
        failure.field(FIELD).fix(if signal.is_netboot() { smee } else { other })
    })?;
    if signal.is_netboot() && answer != NETBOOT_IS_ON {
        let what = "Smee serves no boot script for this machine, so it cannot tell when netboot is switched off";
        let fix = "check that the Hardware allows netboot, and for this address; leave WAITDAEMON_WAIT_FOR out to go by WAIT_SECONDS";
        if answer != NETBOOT_IS_OFF || expired == Expired::Abort {
            let failure = Failure::new(format!("{what}: HTTP status {answer} at {shown}"));
            return Err(failure.field(FIELD).fix(fix));
        }
        log::warn!(field = FIELD, fix; "{what}; waiting for WAIT_SECONDS only");
        return Ok(None);
    }
    log::info!(url = shown.as_str(), status = u64::from(answer); "the waiter will wait for {name}");
    Ok(Some(signal))
}

/// Waits for the signal, and for at least `min_wait` from the moment `action_ended`.
///
/// # Errors
/// If the kernel provides no timer, or the ticket has no URL.
pub async fn wait_until_safe(
    clock: Clock,
    action_ended: Moment,
    min_wait: Duration,
    signal: Option<&AwaitedSignal>,
) -> Result<Waited, Failure> {
    if let Some(signal) = signal {
        let url: Uri = signal.url.parse().context("the ticket has no URL")?;
        log::info!(max_seconds = signal.max_seconds; "waiting for {}", signal.name);
        tokio::select! {
            biased;
            () = poll_until_signal(&url, signal) => {}
            over = clock.sleep_until(action_ended + Duration::from_secs(signal.max_seconds)) => {
                return over.map(|()| Waited::Expired);
            }
        }
    }
    count_down(clock, action_ended + min_wait).await.map(|()| Waited::Safe)
}

/// Polls until the signal is received. Logs each change of the answer.
async fn poll_until_signal(url: &Uri, signal: &AwaitedSignal) {
    let (mut asked, mut in_a_row, mut last) = (0, 0, String::new());
    loop {
        let answer = http::status(url, None, signal.accept()).await;
        if let Ok(status) = answer
            && status == signal.status
        {
            in_a_row += 1;
            if in_a_row >= signal.times {
                log::info!(status = u64::from(status); "signal received: {}", signal.name);
                return;
            }
            sleep(SURE_PAUSE).await;
            continue;
        }
        in_a_row = 0;
        asked += 1;
        let (answered, said) = match answer {
            Ok(status) => (true, format!("HTTP status {status}")),
            Err(error) => (false, chain(&error)),
        };
        if said != last {
            if answered {
                log::info!("still waiting for {}: got {said}", signal.name);
            } else {
                log::warn!(error = said.as_str(); "no response while waiting for {}", signal.name);
            }
            last = said;
        }
        sleep(retry::pause(FIRST_PAUSE, MAX_PAUSE, asked)).await;
    }
}

/// Returns a URL without its query, which may be a secret.
fn without_query(url: &Uri) -> String {
    format!("http://{}{}", url.authority().map_or("", |authority| authority.as_str()), url.path())
}

/// Returns the URL of this machine's boot script at Smee, from the kernel's command line and
/// `WAITDAEMON_SMEE_URL`. Pure.
fn boot_script(line: &str, smee: Option<&Uri>) -> Result<Uri, Failure> {
    let lacks = |what: &str, fix: &str| {
        Failure::new(format!(
            "cannot wait for netboot to be switched off: the kernel's command line has no {what}"
        ))
        .field(FIELD)
        .fix(fix)
    };
    let base = match smee {
        Some(url) if url.path().ends_with(".ipxe") => return Ok(url.clone()),
        Some(url) => without_query(url).trim_end_matches('/').to_owned(),
        None => {
            let server = command_line::server(line).ok_or_else(|| {
                lacks("grpc_authority", "set WAITDAEMON_SMEE_URL: http://<tinkerbell>:7080")
            })?;
            format!("http://{server}:{SMEE_PORT}")
        }
    };
    let address = command_line::hardware_address(line).ok_or_else(|| {
        lacks("worker_id or hw_addr", "set WAITDAEMON_SMEE_URL to the boot script's whole URL")
    })?;
    format!("{base}/ipxe/script/{address}/auto.ipxe").parse().context("Smee's address makes no URL")
}

async fn count_down(clock: Clock, end: Moment) -> Result<(), Failure> {
    loop {
        let next = (clock.now() + STILL_WAITING_EVERY).min(end);
        clock.sleep_until(next).await?;
        let left = end.since(clock.now());
        if left.is_zero() {
            return Ok(());
        }
        log::info!(seconds_left = left.as_secs(); "still waiting");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_script_is_the_machines() {
        let line = "grpc_authority=[fd00::1]:42113 worker_id=aa:bb:cc:00:11:22";
        let url = |line, smee: Option<&str>| {
            boot_script(line, smee.map(|url| url.parse().unwrap()).as_ref())
                .map(|url| url.to_string())
        };
        assert_eq!(
            url(line, None).unwrap(),
            "http://[fd00::1]:7080/ipxe/script/aa:bb:cc:00:11:22/auto.ipxe"
        );
        let other = url(line, Some("http://smee:81/tink/"));
        assert_eq!(other.unwrap(), "http://smee:81/tink/ipxe/script/aa:bb:cc:00:11:22/auto.ipxe");
        let whole = "http://smee/ipxe/script/x/auto.ipxe";
        assert_eq!(url("", Some(whole)).unwrap(), whole);
        assert!(
            url("worker_id=aa:bb:cc:00:11:22", None)
                .unwrap_err()
                .fix
                .contains("WAITDAEMON_SMEE_URL")
        );
        assert!(url("grpc_authority=h:1", None).unwrap_err().message.contains("worker_id"));
    }

    #[test]
    fn a_query_is_not_shown() {
        assert_eq!(without_query(&"http://h:1/ready?token=x".parse().unwrap()), "http://h:1/ready");
    }
}
