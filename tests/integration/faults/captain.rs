//! Faults between waitdaemon and nerdctl, by a program in nerdctl's place.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::nest::output;
use lab::paths;
use lab::until::until;
use serde_json::{Value, json};

use super::kills::Left;
use super::steps::{CALLS, Call, Expect, Fault};
use crate::captain::log;
use crate::world::{ACTION, USER, WAITER, images, is_meant, own_image};

/// Longer than two calls that stall.
pub const LIMIT: Duration = Duration::from_secs(150);
/// A rule that fits no call.
pub const NO_FAULT: Rule = Rule { pattern: "no call has these words", nth: 1, after: "", fault: "refuse" };

/// A fault at the nth call that has the pattern, of those after a call with the words `after`.
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

    /// At the first call that has the pattern.
    pub fn first(pattern: &'a str, fault: &'a str) -> Self {
        Self { pattern, nth: 1, after: "", fault }
    }
}

/// Runs an action for each call, and the fault happens there.
pub fn at_every_call(fault: &Fault) -> Result<()> {
    at_every(|call| call.has(fault), &[fault.name], |bench, call, _| bench.at_call(call, fault))
}

/// Kills the action at each call of the handoff, just after it was done; the user container never runs. Then the
/// same action is served again.
pub fn action_is_killed() -> Result<()> {
    at_every(
        |call| call.name.starts_with("handoff"),
        &["hold-after"],
        |bench, call, when| {
            let agent = bench.served(Rule::at(call, when))?;
            bench.held()?;
            bench.kill(ACTION)?;
            let report = agent.final_report(LIMIT)?;
            ensure!(report.state == "FAILED", "reported {}", report.state);
            bench.go()?;
            drop(agent);
            if left(call) == Left::Nothing {
                bench.nothing_left()?;
            }
            until("no container of ours that runs", LIMIT, || {
                Ok(bench.ours()?.lines().all(|line| line.ends_with(" Created")).then_some(()))
            })?;
            ensure!(bench.runs() == 0, "the user container ran although the action was killed");
            bench.real(&["rm", "-f", ACTION])?;
            let agent = bench.served(NO_FAULT)?;
            let report = agent.final_report(LIMIT)?;
            ensure!(report.state == "SUCCESS", "served again: {}", agent.log());
            bench.nothing_left()?;
            ensure!(bench.runs() == 1, "served again it ran {} times", bench.runs());
            Ok(())
        },
    )
}

/// The action is killed when its waiter is armed, before it can end by itself.
pub fn action_is_killed_after_the_waiter_is_armed() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.served(Rule::first("run --detach", "hold-after"))?;
    bench.held()?;
    until("the waiter to be armed", LIMIT, || Ok(bench.waiter_said(|line| line["message"] == "armed").then_some(())))?;
    bench.kill(ACTION)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "FAILED", "reported {}", report.state);
    bench.nothing_left()?;
    ensure!(bench.runs() == 0, "it ran");
    Ok(())
}

/// The agent dies while the action runs, so nobody reports its exit code 0: the server serves it again.
pub fn agent_is_killed() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.served(Rule::first("run --detach", "hold"))?;
    bench.held()?;
    drop(agent);
    bench.go()?;
    until("the action's end with 0", LIMIT, || {
        let said = bench.real(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])?;
        Ok(said.lines().any(|line| line.starts_with(&format!("{ACTION} Exited (0)"))).then_some(()))
    })?;
    bench.nothing_left()?;
    ensure!(bench.runs() == 0, "it ran although nobody reported success");
    Ok(())
}

/// nerdctl warns of something when it has ended the waiter, whose container it removes at the waiter's own word: it
/// must come to its end all the same.
pub fn nerdctl_warns_after_the_waiters_end() -> Result<()> {
    let bench = Bench::new()?;
    let agent = bench.served(Rule::first(" rm --force --volumes {3}", "warn-after"))?;
    bench.either(&agent)?;
    until("nerdctl's end", LIMIT, || Ok(bench.log().lines().any(|line| line == "warned").then_some(())))
}

/// Kills the waiter before and after each of its calls: containerd starts it again, and the user container runs
/// once.
pub fn waiter_is_killed() -> Result<()> {
    at_every(
        |call| call.name.starts_with("waiter"),
        &["hold", "hold-after"],
        |bench, call, when| {
            // Of its own removal it never gets an answer.
            if call.name.ends_with("remove itself") && when == "hold-after" {
                return Ok(());
            }
            let agent = bench.served(Rule::at(call, when))?;
            bench.held()?;
            bench.kill(WAITER)?;
            bench.go()?;
            bench.either(&agent)
        },
    )
}

/// Kills containerd before each call and starts it again; containers outlive that.
pub fn engine_is_killed() -> Result<()> {
    at_every(
        |_| true,
        &["hold"],
        |bench, call, when| {
            let agent = bench.served(Rule::at(call, when))?;
            bench.held()?;
            bench.systemctl(&["kill", "--kill-whom=main", "--signal=KILL"])?;
            // A start that comes before systemd has seen the end fails with that end.
            until("containerd's end", LIMIT, || {
                let state = bench.systemctl(&["show", "--property=ActiveState"])?;
                Ok((state.trim() == "ActiveState=failed").then_some(()))
            })?;
            // It starts a unit five times in 10 s at most, unless told to forget.
            bench.systemctl(&["reset-failed"])?;
            bench.systemctl(&["start"])?;
            bench.go()?;
            if call.name == "waiter: find the user container's process" {
                return bench.ran_and_perhaps_unseen(&agent);
            }
            bench.either(&agent)
        },
    )
}

/// What is left of an action that was killed when this call was done.
pub fn left(call: &Call) -> Left {
    let meanwhile = ["create the user container", "inspect the user container"];
    if meanwhile.iter().any(|name| call.name == format!("handoff: {name}")) { Left::Perhaps } else { Left::Nothing }
}

/// Runs a test at each of these calls, in one machine.
fn at_every(
    which: impl Fn(&Call) -> bool,
    whens: &[&str],
    test: impl Fn(&Bench, &Call, &str) -> Result<()>,
) -> Result<()> {
    let bench = Bench::new()?;
    let mut wrong = Vec::new();
    for (call, when) in CALLS
        .iter()
        .filter(|call| which(call) && is_meant(call.name))
        .flat_map(|call| whens.iter().map(move |when| (call, when)))
    {
        if let Err(error) = test(&bench, call, when) {
            wrong.push(format!("{} ({when}): {error:#}", call.name));
        }
        bench.clear()?;
    }
    ensure!(wrong.is_empty(), "{} violations:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

/// A machine with a stand-in for nerdctl, in which a fault can happen at a call.
pub struct Bench {
    pub captain: Captain,
    folder: PathBuf,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let captain = Captain::boot()?;
        captain.load(&own_image())?;
        captain.load(&images().join("alpine.tar"))?;
        let stand_in = paths::root().join("target/debug/fault-nerdctl");
        let script = "mv /usr/local/bin/nerdctl /usr/local/bin/nerdctl.real && cp \"$1\" /usr/local/bin/nerdctl && mkdir -p /run/fault-nerdctl";
        ensure!(captain.command("sh").args(["-c", script, "sh"]).arg(stand_in).status()?.success(), "cannot install");
        let folder = PathBuf::from(format!("/proc/{}/root/run/fault-nerdctl", captain.init()));
        Ok(Self { captain, folder })
    }

    /// Asks systemd about containerd, or for something.
    pub fn systemctl(&self, words: &[&str]) -> Result<String> {
        let done = output(self.captain.command("systemctl").args(words).arg("containerd"))?;
        if !done.status.success() {
            let status = output(self.captain.command("systemctl").args(["status", "--lines=30", "containerd"]))?;
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
        ensure!(succeeded == (expected != Expect::Failed), "reported {}: {}", report.state, agent.log());
        if expected == Expect::Ran {
            self.nothing_left()?;
        } else {
            ensure!(self.ours()?.is_empty(), "left: {}", self.ours()?);
        }
        ensure!(self.runs() == usize::from(expected == Expect::Ran), "it ran {} times", self.runs());
        ensure!(self.log().lines().any(|line| line == "fault"), "the fault did not happen: {}", self.log());
        Ok(())
    }

    /// Lets an agent run the action, with a fault at a call.
    pub fn served(&self, rule: Rule) -> Result<Agent> {
        self.served_with(rule, "echo run >> /out/runs", "0")
    }

    /// As [`Bench::served`]: what the user container's shell runs, and WAIT_SECONDS.
    pub fn served_with(&self, rule: Rule, script: &str, wait: &str) -> Result<Agent> {
        fs::write(self.folder.join("log"), "")?;
        fs::write(self.folder.join("ids"), "")?;
        self.rule(rule)?;
        let _ = fs::remove_file(self.folder.join("go"));
        let action = json!([{
            "name": "last", "image": "waitdaemon:dev", "timeout": 140, "pid": "host",
            "volumes": [format!("{}:/out", self.captain.out().display())],
            "command": ["sh", "-c", script],
            "environment": {"IMAGE": "alpine", "WAIT_SECONDS": wait, "WAITDAEMON_WATCH_SECONDS": "600",
                            "WAITDAEMON_PULL_TIMEOUT_SECONDS": "4"},
        }]);
        let file = self.captain.out().join("actions.yaml");
        fs::write(&file, action.to_string())?;
        Agent::start(&self.captain, Runtime::Containerd, &file)
    }

    /// Lets a fault happen at a call.
    pub fn rule(&self, Rule { pattern, nth, after, fault }: Rule) -> Result<()> {
        Ok(fs::write(self.folder.join("rule"), format!("{pattern}\n{nth}\n{after}\n{fault}\n"))?)
    }

    /// The invariant where either may be: SUCCESS, and it ran once; or not, and it never ran.
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

    /// It ran once; it may have ended while no containerd was there to see how, and then the waiter ends with 2 and both
    /// are kept. Its words are not in its log: nerdctl's logger takes the end of containerd for the container's (seen with
    /// 2.2.1); they go to syslog.
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
        until("the call that is held", LIMIT, || Ok(self.log().lines().any(|line| line == "held").then_some(())))
    }

    /// Lets it go on.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.folder.join("go"), "")?)
    }

    /// Kills a container's process with SIGKILL.
    pub fn kill(&self, container: &str) -> Result<()> {
        self.captain.signal(self.running(container)?.1, "KILL")
    }

    /// The ID and the process of a container that runs.
    pub fn running(&self, container: &str) -> Result<(String, i64)> {
        // Of those that run: the agent keeps its container of an earlier try, which has the same name.
        let running = self.real(&["ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}"])?;
        let of_name =
            |line: &str| line.split_once(' ').filter(|(name, _)| *name == container).map(|(_, id)| id.to_owned());
        let id = running.lines().find_map(of_name).with_context(|| format!("{container} is not in {running}"))?;
        let said = self.real(&["container", "inspect", "--mode=native", &id])?;
        let documents: Value = serde_json::from_str(&said)?;
        let pid = documents[0]["Process"]["Pid"].as_i64().filter(|pid| *pid > 1);
        Ok((id, pid.with_context(|| format!("{container} does not run"))?))
    }

    /// How often the user container ran.
    pub fn runs(&self) -> usize {
        fs::read_to_string(self.captain.out().join("runs")).unwrap_or_default().lines().count()
    }

    /// Waits until the waiter and the user container are gone. The agent keeps its own container of an action that
    /// failed.
    pub fn nothing_left(&self) -> Result<()> {
        let gone = until("no container", LIMIT, || {
            let named = [WAITER, USER].iter().any(|name| self.captain.id_of(name).is_some());
            Ok((!named && self.ours()?.is_empty()).then_some(()))
        });
        gone.with_context(|| {
            let named = [WAITER, USER].map(|name| self.captain.id_of(name));
            format!("{named:?} {:?}\n{}\n{}", self.ours(), self.captain.container_logs(), self.log())
        })
    }

    /// The waiter and the user container, where they are there.
    pub fn ours(&self) -> Result<String> {
        let all = until("a list of containers", LIMIT, || {
            Ok(self.real(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok())
        })?;
        let ours = |line: &&str| [WAITER, USER].iter().any(|name| line.starts_with(name));
        Ok(all.lines().filter(ours).collect::<Vec<_>>().join("\n"))
    }

    /// True where the waiter has logged such a line.
    pub fn waiter_said(&self, is_meant: impl Fn(&Value) -> bool) -> bool {
        log(&self.captain).iter().any(is_meant)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// How a container's ID reads in the log.
    pub fn number(&self, id: &str) -> String {
        let ids = fs::read_to_string(self.folder.join("ids")).unwrap_or_default();
        ids.lines().position(|known| known == id).map_or_else(|| "no number".into(), |at| format!("{{{}}}", at + 1))
    }

    /// The real nerdctl.
    pub fn real(&self, arguments: &[&str]) -> Result<String> {
        let said = output(self.captain.command("nerdctl.real").args(["--namespace", "tinkerbell"]).args(arguments))?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }

    /// Removes what a cell left.
    pub fn clear(&self) -> Result<()> {
        for name in [WAITER, ACTION, USER] {
            let _ = self.real(&["rm", "-f", name]);
        }
        let _ = fs::remove_file(self.captain.out().join("runs"));
        Ok(())
    }
}
