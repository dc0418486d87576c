//! Faults between waitdaemon and nerdctl, injected by a program in nerdctl's place.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::machine::Machine;
use lab::nest::output;
use lab::paths;
use lab::until::until;
use serde_json::Value;

use super::kills::Left;
use super::steps::{CALLS, Call, Expect, Fault};
use crate::world::{ACTION, Action, RUN, USER, WAITER, is_meant, load, runs, waiter_log};

/// Longer than two calls that stall.
pub const LIMIT: Duration = Duration::from_secs(150);
/// A rule that matches no call.
pub const NO_FAULT: Rule =
    Rule { pattern: "no call has these words", nth: 1, after: "", fault: "refuse" };

/// A fault at the nth call that contains the pattern, counted after a call with the words `after`.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    pattern: &'a str,
    nth: usize,
    after: &'a str,
    fault: &'a str,
}

impl<'a> Rule<'a> {
    pub fn at(call: &'a Call, fault: &'a str) -> Self {
        Self { pattern: call.pattern, nth: call.nth, after: call.after, fault }
    }

    /// At the first call that contains the pattern.
    pub fn first(pattern: &'a str, fault: &'a str) -> Self {
        Self { pattern, nth: 1, after: "", fault }
    }
}

/// Runs an action for each call, with the fault at that call.
pub fn at_every_call(machine: &Machine, fault: &Fault) -> Result<()> {
    at_every(
        machine,
        |call| call.has(fault),
        &[fault.name],
        |calls, call, _| calls.at_call(call, fault),
    )
}

/// nerdctl cannot read the configuration of `IMAGE`, which says what to run.
pub fn partial_image(machine: &Machine) -> Result<()> {
    load(machine, "both")?;
    let calls = Calls::install(machine)?;
    calls
        .prepare(Rule::first("image inspect --mode=native docker.io/library/both:1", "partial"))?;
    let action = Action::new(machine).env("IMAGE", "both:1").wait("0");
    let action = action.env("WAITDAEMON_WATCH_SECONDS", "1");
    let agent = Agent::start(machine, &action.file()?)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    ensure!(calls.log().lines().any(|line| line == "fault"), "no fault: {}", calls.log());
    until("the user container", LIMIT, || {
        Ok(calls.ours()?.lines().any(|line| line.starts_with(&format!("{USER} Up"))).then_some(()))
    })
}

/// Kills the action at each call of the handoff, just after the call is done; the user container
/// never runs. Then the same action is served again.
pub fn action_is_killed(machine: &Machine) -> Result<()> {
    at_every(
        machine,
        |call| call.name.starts_with("handoff"),
        &["hold-after"],
        |calls, call, when| {
            let agent = calls.served(Rule::at(call, when))?;
            calls.held()?;
            calls.kill(ACTION)?;
            let report = agent.final_report(LIMIT)?;
            ensure!(report.state == "FAILED", "reported {}", report.state);
            calls.go()?;
            drop(agent);
            if left(call) == Left::Nothing {
                calls.nothing_left()?;
            }
            until("no container of ours that runs", LIMIT, || {
                Ok(calls.ours()?.lines().all(|line| line.ends_with(" Created")).then_some(()))
            })?;
            ensure!(calls.runs() == 0, "the user container ran although the action was killed");
            calls.real(&["rm", "-f", ACTION])?;
            let agent = calls.served(NO_FAULT)?;
            let report = agent.final_report(LIMIT)?;
            ensure!(report.state == "SUCCESS", "served again: {}", agent.log());
            calls.nothing_left()?;
            ensure!(calls.runs() == 1, "served again it ran {} times", calls.runs());
            Ok(())
        },
    )
}

/// Kills the agent while the action runs, so that nobody reports the exit code 0 and the server
/// serves the action again.
pub fn agent_is_killed(machine: &Machine) -> Result<()> {
    let calls = Calls::install(machine)?;
    let agent = calls.served(Rule::first("run --detach", "hold"))?;
    calls.held()?;
    drop(agent);
    calls.go()?;
    until("the action's end with 0", LIMIT, || {
        let said = calls.real(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])?;
        Ok(said.lines().any(|line| line.starts_with(&format!("{ACTION} Exited (0)"))).then_some(()))
    })?;
    calls.nothing_left()?;
    ensure!(calls.runs() == 0, "it ran although nobody reported success");
    Ok(())
}

/// nerdctl prints a warning after it has ended the waiter, whose container it removes at the
/// waiter's own request. nerdctl must still finish.
pub fn nerdctl_warns_after_the_waiters_end(machine: &Machine) -> Result<()> {
    let calls = Calls::install(machine)?;
    let agent = calls.served(Rule::first(" rm --force --volumes {3}", "warn-after"))?;
    calls.either(&agent)?;
    until("nerdctl's end", LIMIT, || {
        Ok(calls.log().lines().any(|line| line == "warned").then_some(()))
    })
}

/// Kills the waiter before and after each of its calls: containerd restarts it, and the user
/// container runs once.
pub fn waiter_is_killed(machine: &Machine) -> Result<()> {
    at_every(
        machine,
        |call| call.name.starts_with("waiter"),
        &["hold", "hold-after"],
        |calls, call, when| {
            // The waiter never gets an answer to its own removal.
            if call.name.ends_with("remove itself") && when == "hold-after" {
                return Ok(());
            }
            let agent = calls.served(Rule::at(call, when))?;
            calls.held()?;
            calls.kill(WAITER)?;
            calls.go()?;
            calls.either(&agent)
        },
    )
}

/// Kills containerd before each call and starts it again; containers survive that.
pub fn engine_is_killed(machine: &Machine) -> Result<()> {
    at_every(
        machine,
        |_| true,
        &["hold"],
        |calls, call, when| {
            let agent = calls.served(Rule::at(call, when))?;
            calls.held()?;
            calls.systemctl(&["kill", "--kill-whom=main", "--signal=KILL"])?;
            // A start before systemd has seen the end fails because of that end.
            until("containerd's end", LIMIT, || {
                let state = calls.systemctl(&["show", "--property=ActiveState"])?;
                Ok((state.trim() == "ActiveState=failed").then_some(()))
            })?;
            // systemd starts a unit at most five times in 10 s, unless told to forget.
            calls.systemctl(&["reset-failed"])?;
            calls.systemctl(&["start"])?;
            calls.go()?;
            if call.name == "waiter: find the user container's process" {
                return calls.ran_and_perhaps_unseen(&agent);
            }
            calls.either(&agent)
        },
    )
}

/// What is left of an action that is killed once this call is done.
pub fn left(call: &Call) -> Left {
    let meanwhile = ["create the user container", "inspect the user container"];
    if meanwhile.iter().any(|name| call.name == format!("handoff: {name}")) {
        Left::Perhaps
    } else {
        Left::Nothing
    }
}

/// Runs a test at each of these calls, in one machine.
fn at_every(
    machine: &Machine,
    which: impl Fn(&Call) -> bool,
    whens: &[&str],
    test: impl Fn(&Calls, &Call, &str) -> Result<()>,
) -> Result<()> {
    let calls = Calls::install(machine)?;
    let mut wrong = Vec::new();
    for (call, when) in CALLS
        .iter()
        .filter(|call| which(call) && is_meant(call.name))
        .flat_map(|call| whens.iter().map(move |when| (call, when)))
    {
        if let Err(error) = test(&calls, call, when) {
            wrong.push(format!("{} ({when}): {error:#}", call.name));
        }
        calls.clear()?;
    }
    ensure!(wrong.is_empty(), "{} violations:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

/// A machine with a stand-in for nerdctl, which can inject a fault at a call.
pub struct Calls<'a> {
    pub machine: &'a Machine,
    folder: PathBuf,
}

impl<'a> Calls<'a> {
    pub fn install(machine: &'a Machine) -> Result<Self> {
        let stand_in = paths::root().join("target/debug/fault-nerdctl");
        let script = "mv /usr/local/bin/nerdctl /usr/local/bin/nerdctl.real && cp \"$1\" /usr/local/bin/nerdctl && mkdir -p /run/fault-nerdctl";
        ensure!(
            machine.command("sh").args(["-c", script, "sh"]).arg(stand_in).status()?.success(),
            "cannot install"
        );
        let folder = PathBuf::from(format!("/proc/{}/root/run/fault-nerdctl", machine.init()));
        let calls = Self { machine, folder };
        calls.prepare(NO_FAULT)?;
        Ok(calls)
    }

    /// Runs systemctl on the containerd unit.
    pub fn systemctl(&self, words: &[&str]) -> Result<String> {
        let done = output(self.machine.command("systemctl").args(words).arg("containerd"))?;
        if !done.status.success() {
            let status = output(self.machine.command("systemctl").args([
                "status",
                "--lines=30",
                "containerd",
            ]))?;
            let said = [done.stderr, status.stdout].concat();
            bail!("systemctl {words:?}: {}", String::from_utf8_lossy(&said));
        }
        Ok(String::from_utf8(done.stdout)?)
    }

    fn at_call(&self, call: &Call, fault: &Fault) -> Result<()> {
        let agent = self.served(Rule::at(call, fault.name))?;
        let report = agent.final_report(LIMIT)?;
        let expected = call.expect(fault);
        let succeeded = report.state == "SUCCESS";
        ensure!(
            succeeded == (expected != Expect::Failed),
            "reported {}: {}",
            report.state,
            agent.log()
        );
        if expected == Expect::Ran {
            self.nothing_left()?;
        } else {
            ensure!(self.ours()?.is_empty(), "left: {}", self.ours()?);
        }
        ensure!(
            self.runs() == usize::from(expected == Expect::Ran),
            "it ran {} times",
            self.runs()
        );
        ensure!(
            self.log().lines().any(|line| line == "fault"),
            "the fault did not happen: {}",
            self.log()
        );
        Ok(())
    }

    /// Makes an agent run the action, with a fault at a call.
    pub fn served(&self, rule: Rule) -> Result<Agent> {
        self.served_with(rule, RUN, "0")
    }

    /// As [`Calls::served`], with the user container's script and WAIT_SECONDS.
    pub fn served_with(&self, rule: Rule, script: &str, wait: &str) -> Result<Agent> {
        self.prepare(rule)?;
        let action = Action::alpine(self.machine).wait(wait).script(script);
        let action = action
            .env("WAITDAEMON_WATCH_SECONDS", "600")
            .env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "4");
        Agent::start(self.machine, &action.file()?)
    }

    /// Forgets the calls so far, and sets a fault for a call.
    pub fn prepare(&self, rule: Rule) -> Result<()> {
        fs::write(self.folder.join("log"), "")?;
        fs::write(self.folder.join("ids"), "")?;
        let _ = fs::remove_file(self.folder.join("go"));
        self.rule(rule)
    }

    /// Sets a fault for a call.
    pub fn rule(&self, Rule { pattern, nth, after, fault }: Rule) -> Result<()> {
        Ok(fs::write(self.folder.join("rule"), format!("{pattern}\n{nth}\n{after}\n{fault}\n"))?)
    }

    /// Checks the invariant when either outcome is allowed: SUCCESS and one run, or neither.
    pub fn either(&self, agent: &Agent) -> Result<()> {
        let report = agent.final_report(LIMIT)?;
        self.nothing_left()?;
        ensure!(
            self.runs() == usize::from(report.state == "SUCCESS"),
            "{}: it ran {} times",
            report.state,
            self.runs()
        );
        Ok(())
    }

    /// Checks that the user container ran once. It may have ended while containerd was away and
    /// nothing saw how; then the waiter ends with 2 and both are kept. The waiter's output is not
    /// in its log: nerdctl's logger takes the end of containerd for the container's (seen with
    /// 2.2.1). It goes to syslog.
    fn ran_and_perhaps_unseen(&self, agent: &Agent) -> Result<()> {
        let report = agent.final_report(LIMIT)?;
        ensure!(report.state == "SUCCESS", "reported {}", report.state);
        until("no container, or a waiter that failed", LIMIT, || {
            let ours = self.ours()?;
            let failed = ours.lines().any(|line| line.starts_with(&format!("{WAITER} Exited (2)")));
            let kept = ours.lines().any(|line| line.starts_with(USER));
            Ok((ours.is_empty() || failed && kept).then_some(()))
        })
        .with_context(|| format!("{:?}", self.ours()))?;
        ensure!(self.runs() == 1, "it ran {} times", self.runs());
        Ok(())
    }

    /// Waits until a call is held.
    pub fn held(&self) -> Result<()> {
        until("the call that is held", LIMIT, || {
            Ok(self.log().lines().any(|line| line == "held").then_some(()))
        })
    }

    /// Lets the held call continue.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.folder.join("go"), "")?)
    }

    /// Kills a container's process with SIGKILL.
    pub fn kill(&self, container: &str) -> Result<()> {
        self.machine.signal(self.running(container)?.1, "KILL")
    }

    /// The ID and the process of a running container.
    pub fn running(&self, container: &str) -> Result<(String, i64)> {
        // Only running containers: the agent keeps its container of an earlier try, which has the
        // same name.
        let running = self.real(&["ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}"])?;
        let of_name = |line: &str| {
            line.split_once(' ').filter(|(name, _)| *name == container).map(|(_, id)| id.to_owned())
        };
        let id = running
            .lines()
            .find_map(of_name)
            .with_context(|| format!("{container} is not in {running}"))?;
        let said = self.real(&["container", "inspect", "--mode=native", &id])?;
        let documents: Value = serde_json::from_str(&said)?;
        let pid = documents[0]["Process"]["Pid"].as_i64().filter(|pid| *pid > 1);
        Ok((id, pid.with_context(|| format!("{container} does not run"))?))
    }

    /// How often the user container ran.
    pub fn runs(&self) -> usize {
        runs(self.machine)
    }

    /// Waits until the waiter and the user container are gone. The agent keeps its own container of
    /// a failed action.
    pub fn nothing_left(&self) -> Result<()> {
        let gone = until("no container", LIMIT, || {
            let named = [WAITER, USER].iter().any(|name| self.machine.has(name));
            Ok((!named && self.ours()?.is_empty()).then_some(()))
        });
        gone.with_context(|| {
            let named = [WAITER, USER].map(|name| self.machine.id_of(name));
            format!(
                "{named:?} {:?}\n{}\n{}",
                self.ours(),
                self.machine.container_logs(),
                self.log()
            )
        })
    }

    /// The waiter and the user container, if they exist.
    pub fn ours(&self) -> Result<String> {
        let all = until("a list of containers", LIMIT, || {
            Ok(self.real(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok())
        })?;
        let ours = |line: &&str| [WAITER, USER].iter().any(|name| line.starts_with(name));
        Ok(all.lines().filter(ours).collect::<Vec<_>>().join("\n"))
    }

    /// True if the waiter has logged such a line.
    pub fn waiter_said(&self, is_meant: impl Fn(&Value) -> bool) -> bool {
        waiter_log(self.machine).iter().any(is_meant)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A container's number, as the log shows it instead of the ID.
    pub fn number(&self, id: &str) -> String {
        let ids = fs::read_to_string(self.folder.join("ids")).unwrap_or_default();
        ids.lines()
            .position(|known| known == id)
            .map_or_else(|| "no number".into(), |at| format!("{{{}}}", at + 1))
    }

    /// Runs the real nerdctl.
    pub fn real(&self, arguments: &[&str]) -> Result<String> {
        let said = output(
            self.machine
                .command("nerdctl.real")
                .args(["--namespace", "tinkerbell"])
                .args(arguments),
        )?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }

    /// Removes what one run left.
    pub fn clear(&self) -> Result<()> {
        for name in [WAITER, ACTION, USER] {
            let _ = self.real(&["rm", "-f", name]);
        }
        let _ = fs::remove_file(self.machine.out().join("runs"));
        Ok(())
    }
}
