//! WARN and ERROR lines go to a syslog server if the engine keeps what containers print on the
//! machine.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use lab::machine::Machine;
use lab::until::until;
use serde_json::Value;

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_DOCKER_MAIN};
use crate::world::{ACTION, Action, LIMIT, WAITER, count, events_of, host, seconds, waiter_line};

/// The user's command, which prints something and fails.
const FAILS: [&str; 3] = ["sh", "-c", "echo the last word; exit 7"];

/// A running receiver; dropping it ends it.
struct Receiver {
    child: Child,
    file: PathBuf,
}

impl Receiver {
    fn start(machine: &Machine, address: &str) -> Result<Self> {
        let file = machine.folder().join("syslog-of-case");
        Ok(Self { child: lab::syslog::receive(machine, address, &file)?, file })
    }

    /// The messages so far: the header of each, and the log line that it carries.
    fn messages(&self) -> Result<Vec<(String, Value)>> {
        let text = fs::read_to_string(&self.file)?;
        let parts = |line: &str| {
            let (header, line) =
                line.split_once(" - - - ").with_context(|| format!("not RFC 5424: {line}"))?;
            Ok((header.to_owned(), serde_json::from_str(line)?))
        };
        text.lines().map(parts).collect()
    }

    /// Waits for a message with these words, whose header must match except for time and host.
    fn expect(&self, words: &str, priority: &str) -> Result<Value> {
        self.expect_of(ACTION, words, priority)
    }

    /// The same under another name: `waitdaemon` while the action's name is not known yet.
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

case!(the_command_line_names_the_port, ON_CAPTAIN, |machine| {
    machine.set_command_line("quiet syslog_host=127.0.0.1 syslog_port=1514\n")?;
    let receiver = Receiver::start(&machine, "0.0.0.0:1514")?;
    Action::alpine(&machine).wait("0").command(&FAILS).run_well()?;
    receiver.expect("failed with exit code 7", "<27>1").map(drop)
});

// The server comes from the kernel's command line, as Tinkerbell sets it. The lines are from the
// handoff, the waiter and the user container.
case!(failures_reach_the_server_of_the_command_line, ON_CAPTAIN, |machine| {
    machine.set_command_line("quiet syslog_host=127.0.0.1\n")?;
    let receiver = Receiver::start(&machine, "0.0.0.0:514")?;
    let action = |image: &str| Action::new(&machine).env("IMAGE", image).command(&FAILS);
    // Also before an engine is known: from the action's own network to the bridge's address.
    let said = action("alpine").wait("10s").env("WAITDAEMON_SYSLOG", "172.17.0.1").run()?;
    ensure!(said.code == 78, "{said:?}");
    let line = receiver.expect_of("waitdaemon", "WAIT_SECONDS is not a whole number", "<27>1")?;
    ensure!(line["field"] == "environment.WAIT_SECONDS", "{line}");
    // And in a dry run.
    let dry = action("alpine").env("WAITDAEMON_DRY_RUN", "true");
    dry.env("NERDCTL_NAMESPACE", "elsewhere").run()?;
    receiver.expect_of("waitdaemon", "is not among those of containerd", "<27>1")?;
    let said =
        action("127.0.0.1:9/none:1").wait("0").env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "1").run()?;
    ensure!(said.code == 1, "{said:?}");
    let line = receiver.expect("cannot pull the image", "<27>1")?;
    ensure!(line["phase"] == "handoff" && line["level"] == "ERROR", "{line}");
    action("alpine").wait("0").run_well()?;
    receiver.expect("the last word", "<27>1")?;
    let line = receiver.expect("failed with exit code 7", "<27>1")?;
    ensure!(line["phase"] == "waiter" && line["field"] == "command", "{line}");
    let levels = receiver.messages()?.into_iter().map(|(_, line)| line["level"].clone());
    ensure!(
        levels.into_iter().all(|level| level == "ERROR" || level == "WARN"),
        "INFO is sent, too"
    );
    Ok(())
});

// What was said before the name is known arrives as well.
case!(a_server_whose_name_comes_late, ON_CAPTAIN, |machine| {
    let receiver = Receiver::start(&machine, "0.0.0.0:514")?;
    let action = Action::alpine(&machine).wait("0").env("WAITDAEMON_SYSLOG", "late.lab");
    action.script("until [ -e /out/go ]; do sleep 0.1; done; exit 7").run_well()?;
    let words = "cannot reach the syslog server late.lab:514";
    let says = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(words));
    waiter_line(&machine, words, says)?;
    let mut hosts = fs::OpenOptions::new()
        .append(true)
        .open(format!("/proc/{}/root/etc/hosts", machine.init()))?;
    writeln!(hosts, "127.0.0.1 late.lab")?;
    receiver.expect(words, "<28>1")?;
    fs::write(machine.out().join("go"), "")?;
    receiver.expect("failed with exit code 7", "<27>1").map(drop)
});

// The same action again, which warns about what it finds; nothing of it is sent.
case!(off_is_off, ON_CAPTAIN, |machine| {
    machine.set_command_line("quiet syslog_host=127.0.0.1\n")?;
    let receiver = Receiver::start(&machine, "0.0.0.0:514")?;
    let action = || Action::alpine(&machine).wait("0").command(&FAILS);
    action().run_well()?;
    receiver.expect("failed with exit code 7", "<27>1")?;
    let before = receiver.messages()?.len();
    action().env("WAITDAEMON_SYSLOG", "off").run_well()?;
    until("the second user container's failure", LIMIT, || {
        let failed = |line: &Value| line["message"] == "the user container failed with exit code 7";
        Ok(machine.logged().iter().any(failed).then_some(()))
    })?;
    ensure!(receiver.messages()?.len() == before, "sent although it is off");
    Ok(())
});

// If asked for, also on Docker, and by name.
case!(to_a_configured_server, ON_DOCKER_MAIN, |machine: Shared| {
    let receiver = Receiver::start(&machine, "0.0.0.0:5514")?;
    let address = format!("syslog.lab:{}", host(&machine)?);
    let action = Action::alpine(&machine).wait("0").env("WAITDAEMON_SYSLOG", "syslog.lab:5514");
    action.flags(&["--add-host", &address]).command(&FAILS).run_well()?;
    receiver.expect("the last word", "<27>1")?;
    receiver.expect("failed with exit code 7", "<27>1")?;
    machine.engine(&["rm", "-f", WAITER])?;
    Ok(())
});

// A handoff whose lines cannot be sent has waited for that before the word, and not after it: a
// time-out that came then would be reported although the user container runs.
case!(nothing_waits_after_the_word, ON_DOCKER_MAIN, |machine: Shared| {
    let action = Action::alpine(&machine).wait("60").env("WAITDAEMON_SYSLOG", "nowhere.lab");
    let action = action.command(&["true"]);
    action.run_well()?;
    let before = count(&machine, "die", ACTION)?;
    // What the first attempt left is a WARN.
    let said = action.run_well()?;
    ensure!(said.err.contains("an earlier attempt of this action"), "nothing to send: {said:?}");
    let ended = until("the second attempt's end", LIMIT, || {
        Ok(events_of(&machine, "die", ACTION)?.get(before).map(|event| event.time))
    })?;
    let handed_over = |line: &Value| line["message"] == "handed over: the waiter is armed";
    let mut lines = said.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.find(handed_over).with_context(|| format!("not handed over: {said:?}"))?;
    let waited = ended - seconds(&line)?;
    ensure!(waited < 0.8, "the action ended {waited} s after the word");
    Ok(())
});
