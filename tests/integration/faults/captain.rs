//! Faults between waitdaemon and nerdctl, by a program in nerdctl's place.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::nest::output;
use lab::paths;
use lab::until::until;
use serde_json::{Value, json};

use super::steps::{CALLS, Call, Expect, Fault};
use crate::world::{USER, WAITER, images, own_image};

/// Longer than two calls that stall.
const LIMIT: Duration = Duration::from_secs(150);

/// Runs an action for each call, and the fault happens there.
pub fn at_every_call(fault: &Fault) -> Result<()> {
    let bench = Bench::new()?;
    let mut wrong = Vec::new();
    for call in CALLS.iter().filter(|call| call.has(fault)) {
        if let Err(error) = bench.at_call(call, fault) {
            wrong.push(format!("{}: {error:#}", call.name));
        }
        bench.clear()?;
    }
    ensure!(wrong.is_empty(), "{} at {} calls is a violation:\n  {}", fault.what, wrong.len(), wrong.join("\n  "));
    Ok(())
}

struct Bench {
    captain: Captain,
    folder: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let captain = Captain::boot()?;
        captain.load(&own_image())?;
        captain.load(&images().join("alpine.tar"))?;
        let stand_in = paths::root().join("target/debug/fault-nerdctl");
        let script = "mv /usr/local/bin/nerdctl /usr/local/bin/nerdctl.real && cp \"$1\" /usr/local/bin/nerdctl && mkdir -p /run/fault-nerdctl";
        ensure!(captain.command("sh").args(["-c", script, "sh"]).arg(stand_in).status()?.success(), "cannot install");
        let folder = PathBuf::from(format!("/proc/{}/root/run/fault-nerdctl", captain.init()));
        Ok(Self { captain, folder })
    }

    fn at_call(&self, call: &Call, fault: &Fault) -> Result<()> {
        let captain = &self.captain;
        let runs = captain.out().join("runs");
        fs::write(self.folder.join("log"), "")?;
        fs::write(self.folder.join("rule"), format!("{}\n{}\n{}\n", call.pattern, call.nth, fault.name))?;
        let action = json!([{
            "name": "last", "image": "waitdaemon:dev", "timeout": 140, "pid": "host",
            "volumes": [format!("{}:/out", captain.out().display())],
            "command": ["sh", "-c", "echo run >> /out/runs"],
            "environment": {"IMAGE": "alpine", "WAIT_SECONDS": "0", "WAITDAEMON_PULL_TIMEOUT_SECONDS": "4"},
        }]);
        let file = captain.out().join("actions.yaml");
        fs::write(&file, action.to_string())?;
        let agent = Agent::start(captain, Runtime::Containerd, &file)?;
        let report = agent.final_report(LIMIT)?;
        let expected = call.expect(fault);
        let succeeded = report.state == "SUCCESS";
        ensure!(succeeded == (expected != Expect::Failed), "reported {}: {}", report.state, agent.log());
        // The agent keeps its own container of an action that failed, and nothing but the agent removes it.
        let nothing_left = || {
            let names = self.names()?;
            Ok((![USER, WAITER].iter().any(|name| names.contains(name))).then_some(()))
        };
        if expected == Expect::Ran {
            let gone = until("no container", LIMIT, nothing_left);
            gone.with_context(|| format!("{}\n{}", captain.container_logs(), self.log()))?;
        } else if expected == Expect::Said {
            until("the waiter's error", LIMIT, || Ok(self.waiters_errors()?.then_some(())))?;
        } else {
            ensure!(nothing_left()?.is_some(), "left: {}", self.names()?);
        }
        let ran = fs::read_to_string(&runs).unwrap_or_default();
        ensure!(ran == if expected == Expect::Ran { "run\n" } else { "" }, "it ran: {ran:?}");
        ensure!(self.log().lines().any(|line| line == "fault"), "the fault did not happen: {}", self.log());
        Ok(())
    }

    fn waiters_errors(&self) -> Result<bool> {
        let text = self.captain.container_logs();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut said = lines.filter_map(|line| serde_json::from_str::<Value>(line["log"].as_str()?).ok());
        Ok(said.any(|line| line["phase"] == "waiter" && line["level"] == "ERROR"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn names(&self) -> Result<String> {
        until("a list of containers", LIMIT, || Ok(self.real(&["ps", "-a", "--format", "{{.Names}}"]).ok()))
    }

    /// The real nerdctl.
    fn real(&self, arguments: &[&str]) -> Result<String> {
        let said = output(self.captain.command("nerdctl.real").args(["--namespace", "tinkerbell"]).args(arguments))?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }

    /// Removes what a cell left.
    fn clear(&self) -> Result<()> {
        for name in [WAITER, USER] {
            let _ = self.real(&["rm", "-f", name]);
        }
        let _ = fs::remove_file(self.captain.out().join("runs"));
        Ok(())
    }
}
