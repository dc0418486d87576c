//! One run: a machine boots, its agent runs the action, and the outcome is read.

use std::fs;
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use lab::paths;
use lab::until::until;
use lab::vm::{End, Osie, Vm, free_port};
use lab::watch::Watch;
use serde_json::Value;

use super::receiver::Receiver;
use super::{END_LIMIT, REPORT_LIMIT, START_LIMIT, disk, folder, payload, serial};

/// A machine with its agent at work, and what it reports and logs.
pub struct Run {
    name: String,
    pub vm: Vm,
    server: Watch,
    pub syslog: Receiver,
}

impl Run {
    /// Boots and waits until the agent has reported SUCCESS.
    pub fn to_success(name: &str, osie: Osie, action: &str) -> Result<Self> {
        Self::to_report(name, osie, action, "", "SUCCESS")
    }

    /// Boots with `line` added to the kernel's command line, and waits until the agent has reported
    /// `expected`.
    pub fn to_report(
        name: &str,
        osie: Osie,
        action: &str,
        line: &str,
        expected: &str,
    ) -> Result<Self> {
        let actions = folder().join(format!("{name}.yaml"));
        let syslog = Receiver::start(&folder().join(format!("{name}.syslog")))?;
        fs::write(&actions, action.replace(": SYSLOG", &format!(": 10.0.2.2:{}", syslog.port)))?;
        let port = free_port()?;
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL"]).arg(paths::cache().join("tink/server-standin"));
        let mut server =
            Watch::of(server.args(["-listen", &format!("127.0.0.1:{port}")]).arg(&actions))?;
        until("the stand-in for the Tink Server", START_LIMIT, || {
            ensure!(server.ended()?.is_none(), "it ended; it says why above");
            Ok(server.lines().iter().any(|(_, line)| line.contains("LISTENING")).then_some(()))
        })?;
        let ports = format!("server_port={port} syslog_port={}", syslog.port);
        let vm =
            Vm::boot(osie, &payload(), &disk::image(), &format!("{ports} {line}"), &serial(name))?;
        let mut run = Self { name: name.to_owned(), vm, server, syslog };
        let reported = until("the agent's report", REPORT_LIMIT, || {
            ensure!(!run.vm.has_ended()?, "the machine ended before the agent's report");
            ensure!(run.server.ended()?.is_none(), "the stand-in for the Tink Server ended");
            let failed =
                ["MARK failed", "Failed to start osie"].iter().any(|words| run.line(words).is_ok());
            ensure!(!failed, "the machine cannot work");
            Ok(run.reports().into_iter().find(|state| state != "RUNNING"))
        });
        let reported = reported.with_context(|| run.tail())?;
        ensure!(reported == expected, "the agent reported {reported}: {}", run.tail());
        Ok(run)
    }

    /// Runs to the machine's end, which must be a restart by its kernel.
    pub fn to_the_end(name: &str, osie: Osie, action: &str) -> Result<Self> {
        let mut run = Self::to_success(name, osie, action)?;
        let end = run.vm.end(END_LIMIT).with_context(|| run.syslog.tail())?;
        ensure!(end == End::Restarted, "the machine panicked: {}", run.tail());
        Ok(run)
    }

    /// The ends of the serial line and of the syslog, which on HookOS has all that containers
    /// print.
    pub fn tail(&self) -> String {
        format!("{}{}", self.vm.tail(), self.syslog.tail())
    }

    /// How often the agent asked for work and got none.
    pub fn asked_in_vain(&self) -> usize {
        self.server.lines().iter().filter(|(_, line)| line.contains("in vain")).count()
    }

    pub fn reports(&self) -> Vec<String> {
        let lines = self
            .server
            .lines()
            .into_iter()
            .filter_map(|(_, line)| serde_json::from_str::<Value>(&line).ok());
        let reports = lines.filter(|line| line["action"].is_string());
        reports.filter_map(|line| Some(line["state"].as_str()?.to_owned())).collect()
    }

    /// The number of the first line that contains these words.
    pub fn line(&self, words: &str) -> Result<usize> {
        let found = self.vm.lines().iter().position(|(_, line)| line.contains(words));
        found.with_context(|| format!("no {words:?} on the serial line: {}", self.tail()))
    }

    /// Checks the order on the serial line: the action exits with 0, the user container comes no
    /// earlier than WAIT_SECONDS later, and then it ends the machine.
    pub fn in_order(&self, command: &str, least: f64) -> Result<()> {
        let lines: Vec<String> = self.vm.lines().into_iter().map(|(_, line)| line).collect();
        // A long line arrives in pieces.
        let agent: String = lines
            .iter()
            .filter_map(|line| line.split_once("] AGENT "))
            .map(|(_, said)| said)
            .collect();
        let proved = agent
            .split_once("identified the action container")
            .map(|(_, after)| after)
            .context("no proof")?;
        let proved = &proved[..proved.find("proof").with_context(|| self.tail())?];
        let own = |(_, (id, _)): &(usize, (String, f64))| proved.contains(id.as_str());
        let ends = lines
            .iter()
            .enumerate()
            .filter_map(|(number, line)| Some((number, ended_with_0(line)?)));
        let (action, (_, ended)) =
            ends.into_iter().find(own).with_context(|| format!("no end: {}", self.tail()))?;
        let user = self.line("MARK user container")?;
        let said = lines[user].split_once("MARK user container ").map(|(_, said)| said.trim());
        ensure!(said == Some(command), "the user container said {said:?}");
        // There are two clocks. An event reaches the line a little after the engine's time; the
        // shortest delay gives the difference between the clocks.
        let delays =
            lines.iter().filter_map(|line| Some(kernel_time(line)? - engine_time(&event(line)?)?));
        let difference = delays.fold(f64::INFINITY, f64::min);
        let waited = kernel_time(&lines[user]).context("no time")? - (ended + difference);
        ensure!(waited >= least, "the user container came after {waited:.3} s");
        let restarts = self.line("reboot: Restarting system")?;
        println!("  {}: {waited:.3} s from the action's end to the user container", self.name);
        ensure!(
            action < user && user < restarts,
            "lines {action}, {user}, {restarts}: {}",
            self.tail()
        );
        Ok(())
    }

    /// All that the agent printed, in one piece.
    pub fn agent(&self) -> String {
        let lines = self.vm.lines();
        lines
            .iter()
            .filter_map(|(_, line)| line.split_once("] AGENT "))
            .map(|(_, said)| said)
            .collect()
    }

    /// Checks that the action's log contains these words.
    pub fn said_by_agent(&self, words: &str) -> Result<()> {
        ensure!(self.agent().contains(words), "no {words:?}: {}", self.tail());
        Ok(())
    }

    /// Checks that the kernel's last message comes at least `least` seconds after the action's end.
    pub fn ended_after(&self, least: f64) -> Result<()> {
        let lines: Vec<String> = self.vm.lines().into_iter().map(|(_, line)| line).collect();
        let ended =
            lines.iter().find_map(|line| ended_with_0(line)).with_context(|| self.tail())?.1;
        // There are two clocks. An event reaches the line a little after the engine's time; the
        // shortest delay gives the difference between the clocks.
        let delays =
            lines.iter().filter_map(|line| Some(kernel_time(line)? - engine_time(&event(line)?)?));
        let difference = delays.fold(f64::INFINITY, f64::min);
        let last =
            lines.iter().rev().find(|line| line.contains("reboot: ")).context("no last word")?;
        let took = kernel_time(last).context("no time")? - (ended + difference);
        println!("  {}: {took:.3} s from the action's end to the machine's", self.name);
        ensure!(took >= least, "the machine ended {took:.3} s after the action");
        Ok(())
    }

    /// Checks that no installed system's kernel runs.
    pub fn second_does_not_run(&self) -> Result<()> {
        ensure!(self.line("MARK the second kernel runs").is_err(), "{}", self.tail());
        Ok(())
    }

    /// Checks that the installed system's kernel runs, and only after the user container.
    pub fn second_kernel(&self) -> Result<()> {
        let (user, second) =
            (self.line("MARK user container")?, self.line("MARK the second kernel runs")?);
        ensure!(
            user < second && self.vm.lines()[second].1.contains(" installed"),
            "{}",
            self.tail()
        );
        Ok(())
    }

    /// Checks that the waiter's own WARN line (28 is daemon.warning) came by RFC 5424, and no INFO
    /// line.
    pub fn syslog_of_captain(&self) -> Result<()> {
        let text = self.syslog.text()?;
        let line = text.lines().find(|line| line.contains("asking systemd"));
        let line = line.with_context(|| format!("the waiter's warning did not come: {text}"))?;
        ensure!(line.starts_with("<28>1 ") && line.contains(" tinkerbell_reboot_a0 "), "{line}");
        ensure!(!text.contains("armed"), "an INFO line: {text}");
        Ok(())
    }

    /// Checks that Docker's syslog driver sends the waiter's INFO lines as INFO (30 is
    /// daemon.info), and the handoff's WARN lines as ERR (27).
    pub fn syslog_of_docker(&self) -> Result<()> {
        let text = self.syslog.text()?;
        for (severity, words) in [
            ("<30>", "\"message\":\"armed\""),
            ("<30>", "handed over"),
            ("<27>", "WAITDAEMON_UNKNOWN"),
        ] {
            let line = text.lines().find(|line| line.contains(words));
            let line = line.with_context(|| format!("{words} did not come: {text}"))?;
            ensure!(line.starts_with(severity), "not {severity}: {line}");
        }
        Ok(())
    }
}

/// Reads from an engine's event on this line that the action's container exited with 0: its ID, and
/// the time in seconds since 1970.
fn ended_with_0(line: &str) -> Option<(String, f64)> {
    let event = event(line)?;
    let id = |id: &Value| Some(id.as_str()?.to_owned());
    if event["Action"] == "die" && event["Actor"]["Attributes"]["exitCode"] == "0" {
        return Some((id(&event["id"])?, event["timeNano"].as_f64()? / 1e9));
    }
    if event["Topic"] == "/tasks/exit" {
        // containerd omits a status of 0.
        let exit: Value = serde_json::from_str(event["Event"].as_str()?).ok()?;
        let at = &exit["exited_at"];
        let seconds = at["seconds"].as_f64()? + at["nanos"].as_f64().unwrap_or(0.0) / 1e9;
        return exit["exit_status"].is_null().then_some((id(&exit["container_id"])?, seconds));
    }
    None
}

/// The engine's event on this line, if there is one.
pub fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line.split_once("] EVENT ")?.1).ok()
}

/// The engine's time of an event, in seconds since 1970.
fn engine_time(event: &Value) -> Option<f64> {
    let nanoseconds = event["timeNano"].as_f64().map(|time| time / 1e9);
    nanoseconds.or_else(|| {
        let time = humantime::parse_rfc3339(event["Timestamp"].as_str()?).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    })
}

/// The kernel's time on a line, in seconds since the boot.
fn kernel_time(line: &str) -> Option<f64> {
    line.strip_prefix('[')?.split_once(']')?.0.trim().parse().ok()
}
