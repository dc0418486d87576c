//! Stands in for nerdctl on a test machine. Passes every call to the real one,
//! /usr/local/bin/nerdctl.real, except the NTH whose arguments contain PATTERN, counted after a
//! call with the words AFTER: there the FAULT happens. All four are lines of the file
//! /run/fault-nerdctl/rule; AFTER may be empty. /run/fault-nerdctl/log gets a line for each call,
//! and `fault` where it happened. In both files a container's ID reads `{1}`, `{2}` and so on, in
//! the order in which calls first name them; /run/fault-nerdctl/ids has the IDs.
//!
//! Before the call is made: `refuse` (containerd is away), `unknown` (an unknown error), `mute`
//! (killed), `empty`, `not-json`, `partial` (the real answer without what nerdctl leaves out if
//! containerd stumbles, and its warning), `stall` (for ever), `delay` (2 s), `hold` (until
//! /run/fault-nerdctl/go exists), `hold-noted` (the same, and the log gets `ended` when the call
//! has ended). After the call was made: `lost` (containerd is away), `unknown-after`, `mute-after`,
//! `stall-after`, `hold-after`, `warn-after` (a warning, as a program in Go writes it: the program
//! ends if nobody can read the warning, and the log gets `warned` if somebody can).

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::until::until;
use serde_json::{Value, json};

const REAL: &str = "/usr/local/bin/nerdctl.real";
/// The longest time that a call is held.
const HOLD_LIMIT: Duration = Duration::from_secs(300);
const FOLDER: &str = "/run/fault-nerdctl";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let call = with_numbers(arguments.join(" ").replace('\n', " "))?;
    let rule = fs::read_to_string(format!("{FOLDER}/rule"))?;
    let [pattern, nth, after, fault] = rule.lines().collect::<Vec<_>>()[..] else {
        bail!("no rule of four lines")
    };
    let log = format!("{FOLDER}/log");
    let before = fs::read_to_string(&log).unwrap_or_default();
    note(&log, &call)?;
    let mut since = before.lines().skip_while(|line| !after.is_empty() && !line.contains(after));
    let due = after.is_empty() || since.next().is_some();
    let hit = due
        && call.contains(pattern)
        && since.filter(|line| line.contains(pattern)).count() + 1
            == nth.parse::<usize>().context("NTH")?;
    if !hit {
        return Err(Command::new(REAL).args(&arguments).exec())
            .context("cannot run the real nerdctl");
    }
    note(&log, "fault")?;
    if matches!(fault, "lost" | "unknown-after" | "mute-after" | "stall-after" | "warn-after") {
        Command::new(REAL).args(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    }
    if fault == "hold-after" {
        let said = Command::new(REAL).args(&arguments).stdin(Stdio::inherit()).output()?;
        hold(&log)?;
        std::io::stdout().write_all(&said.stdout)?;
        std::io::stderr().write_all(&said.stderr)?;
        return Ok(if said.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match fault {
        "refuse" | "lost" => fatal(
            "cannot access containerd socket \"/run/containerd/containerd.sock\": connection refused",
        ),
        "unknown" | "unknown-after" => fatal("an error that nobody knows"),
        "mute" | "mute-after" => {
            Command::new("sh").args(["-c", "kill -KILL $PPID"]).status()?;
            bail!("not killed")
        }
        "empty" => Ok(ExitCode::SUCCESS),
        "not-json" => {
            println!("<html>");
            Ok(ExitCode::SUCCESS)
        }
        "partial" => partial(&arguments),
        "warn-after" => {
            std::io::stderr()
                .write_all(b"time=\"2026-01-01T00:00:00Z\" level=warning msg=\"a warning\"\n")?;
            note(&log, "warned")?;
            Ok(ExitCode::SUCCESS)
        }
        "stall" | "stall-after" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "hold" => {
            hold(&log)?;
            Err(Command::new(REAL).args(&arguments).exec()).context("cannot run the real nerdctl")
        }
        "hold-noted" => {
            hold(&log)?;
            let said = Command::new(REAL).args(&arguments).output()?;
            note(&log, "ended")?;
            std::io::stdout().write_all(&said.stdout)?;
            std::io::stderr().write_all(&said.stderr)?;
            Ok(if said.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        "delay" => {
            std::thread::sleep(Duration::from_secs(2));
            Err(Command::new(REAL).args(&arguments).exec()).context("cannot run the real nerdctl")
        }
        other => bail!("no such fault: {other}"),
    }
}

/// Answers without a container's process, or an image's configuration (nerdctl 2.2.1,
/// pkg/containerinspector and pkg/imageinspector).
fn partial(arguments: &[String]) -> Result<ExitCode> {
    let said = Command::new(REAL).args(arguments).output()?;
    let mut part = "Task";
    for document in serde_json::Deserializer::from_slice(&said.stdout).into_iter::<Value>() {
        let mut document = document?;
        let all = document.as_array_mut().into_iter().flatten();
        let mut without = |document: &mut Value| {
            if let Some(config) = document.get_mut("ImageConfig") {
                part = "image config";
                *config = json!({"architecture": "", "os": "", "config": {}});
                document["ImageConfigDesc"] = json!({"digest": "", "size": 0});
            } else if let Some(process) = document.get_mut("Process") {
                process.take();
            }
        };
        all.for_each(&mut without);
        without(&mut document);
        println!("{document}");
    }
    eprintln!("time=\"2026-01-01T00:00:00Z\" level=warning msg=\"failed to inspect {part}\"");
    Ok(ExitCode::SUCCESS)
}

/// The call, with a container's number in place of its ID. Two calls may run side by side.
fn with_numbers(call: String) -> Result<String> {
    let mut file =
        OpenOptions::new().create(true).read(true).append(true).open(format!("{FOLDER}/ids"))?;
    file.lock()?;
    let mut known = String::new();
    file.read_to_string(&mut known)?;
    let mut ids: Vec<&str> = known.lines().collect();
    let words = call.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64);
    for id in words {
        if !ids.contains(&id) {
            writeln!(file, "{id}")?;
            ids.push(id);
        }
    }
    let numbered = ids
        .iter()
        .enumerate()
        .fold(call.clone(), |text, (n, id)| text.replace(id, &format!("{{{}}}", n + 1)));
    Ok(numbered)
}

/// Waits until the call may continue.
fn hold(log: &str) -> Result<()> {
    note(log, "held")?;
    until("the word to go on", HOLD_LIMIT, || {
        Ok(Path::new(FOLDER).join("go").exists().then_some(()))
    })
}

/// Ends as nerdctl does.
fn fatal(message: &str) -> Result<ExitCode> {
    eprintln!("time=\"2026-01-01T00:00:00Z\" level=fatal msg={message:?}");
    Ok(ExitCode::FAILURE)
}

fn note(log: &str, line: &str) -> Result<()> {
    Ok(OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)?
        .write_all(format!("{line}\n").as_bytes())?)
}
