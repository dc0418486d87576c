//! WARN and ERROR lines go to a syslog server, where the engine keeps what containers print on the machine.

use std::fs;
use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use lab::machine::Engine;
use lab::nest::Nest;
use lab::paths;
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::{captain, reported};
use crate::world::{ACTION, Action, LIMIT, WAITER, host, machine};

/// The user's command: it says something and fails.
const FAILS: [&str; 3] = ["sh", "-c", "echo the last word; exit 7"];

pub fn cases() -> Vec<crate::Case> {
    crate::cases![to_a_server_of_ones_own]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![("captain::failures_reach_syslog", failures_reach_syslog)]
}

/// A receiver that runs; it ends with the value.
struct Receiver {
    child: Child,
    file: PathBuf,
}

impl Receiver {
    fn start(nest: &Nest, address: &str) -> Result<Self> {
        let file = nest.folder().join("syslog");
        let mut command = nest.network_command(paths::root().join("target/debug/syslog-receiver"));
        let receiver = Self { child: command.arg(address).arg(&file).spawn()?, file };
        until("the syslog receiver", LIMIT, || Ok(receiver.file.exists().then_some(())))?;
        Ok(receiver)
    }

    /// What has come: the header of each message, and the line of the log that it carries.
    fn messages(&self) -> Result<Vec<(String, Value)>> {
        let text = fs::read_to_string(&self.file)?;
        let parts = |line: &str| {
            let (header, line) = line.split_once(" - - - ").with_context(|| format!("not RFC 5424: {line}"))?;
            Ok((header.to_owned(), serde_json::from_str(line)?))
        };
        text.lines().map(parts).collect()
    }

    /// Waits for a message with these words, whose header must be this but for time and host.
    fn expect(&self, words: &str, priority: &str) -> Result<Value> {
        self.expect_of(ACTION, words, priority)
    }

    /// The same, of another name: `waitdaemon` where the action's is not known yet.
    fn expect_of(&self, own: &str, words: &str, priority: &str) -> Result<Value> {
        let (header, line) = until(&format!("{words:?} at the syslog server"), LIMIT, || {
            let has = |line: &Value| line.to_string().contains(words);
            Ok(self.messages()?.into_iter().find(|(_, line)| has(line)))
        })
        .with_context(|| fs::read_to_string(&self.file).unwrap_or_default())?;
        let [found, time, host, name] = header.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("not RFC 5424: {header}")
        };
        ensure!(found == priority && name == own && !host.is_empty(), "{header}");
        humantime::parse_rfc3339(time)?;
        Ok(line)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// By the kernel's command line, as Tinkerbell gives it: of the handoff, of the waiter, of the user container.
fn failures_reach_syslog() -> Result<()> {
    let captain = captain()?;
    captain.set_command_line("quiet syslog_host=127.0.0.1\n")?;
    let receiver = Receiver::start(&captain, "0.0.0.0:514")?;
    let action = |image: &str, more: Value| {
        let mut environment = json!({"IMAGE": image, "WAIT_SECONDS": "0"});
        if let (Some(all), Some(more)) = (environment.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        json!({"command": FAILS, "environment": environment})
    };
    let again = || captain.nerdctl(&["rm", "-f", ACTION]).map(drop);
    // Before an engine is known, too: from the action's own network, to the bridge's address.
    let wrong = json!({"WAIT_SECONDS": "10s", "WAITDAEMON_SYSLOG": "172.17.0.1"});
    drop(reported(&captain, action("alpine", wrong), "FAILED")?);
    let line = receiver.expect_of("waitdaemon", "WAIT_SECONDS is not a whole number", "<27>1")?;
    ensure!(line["field"] == "environment.WAIT_SECONDS", "{line}");
    again()?;
    drop(reported(&captain, action("127.0.0.1:9/none:1", json!({"WAITDAEMON_PULL_TIMEOUT_SECONDS": "1"})), "FAILED")?);
    let line = receiver.expect("cannot pull the image", "<27>1")?;
    ensure!(line["phase"] == "handoff" && line["level"] == "ERROR", "{line}");
    again()?;
    drop(reported(&captain, action("alpine", json!({})), "SUCCESS")?);
    receiver.expect("the last word", "<27>1")?;
    let line = receiver.expect("failed with exit code 7", "<27>1")?;
    ensure!(line["phase"] == "waiter" && line["field"] == "command", "{line}");
    let levels = receiver.messages()?.into_iter().map(|(_, line)| line["level"].clone());
    ensure!(levels.into_iter().all(|level| level == "ERROR" || level == "WARN"), "INFO is sent, too");

    // The same action again, which warns of what it finds; nothing of it is sent.
    let before = receiver.messages()?.len();
    again()?;
    drop(reported(&captain, action("alpine", json!({"WAITDAEMON_SYSLOG": "off"})), "SUCCESS")?);
    until("the second user container's failure", LIMIT, || {
        let failed = |line: &Value| line["message"] == "the user container failed with exit code 7";
        Ok(captain.logged().iter().any(failed).then_some(()))
    })?;
    ensure!(receiver.messages()?.len() == before, "sent although it is off");
    Ok(())
}

/// Where it is asked for, on Docker too, and by name.
fn to_a_server_of_ones_own(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let receiver = Receiver::start(&machine, "0.0.0.0:5514")?;
    let host = host(&machine)?;
    let action = Action::new(&machine)
        .flags(&["--add-host", &format!("syslog.lab:{host}")])
        .env("IMAGE", "alpine")
        .env("WAIT_SECONDS", "0")
        .env("WAITDAEMON_SYSLOG", "syslog.lab:5514");
    action.command(&FAILS).run_well()?;
    receiver.expect("the last word", "<27>1")?;
    receiver.expect("failed with exit code 7", "<27>1")?;
    machine.docker(&["rm", "-f", WAITER])?;
    Ok(())
}
