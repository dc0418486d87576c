//! docs/reliability.md, made from the steps and faults that the cases run.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use lab::paths;

use super::captain;
use super::kills;
use super::steps::{CALL_FAULTS, CALLS, CLEAN_UP, Expect, FAULTS, Fault, STEPS};

/// Fails where docs/reliability.md is not what the cases say; with `WRITE_DOCS` set, writes it.
pub fn page_is_the_cases() -> Result<()> {
    let path = paths::root().join("docs/reliability.md");
    let page = page();
    if std::env::var_os("WRITE_DOCS").is_some() {
        return fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()));
    }
    ensure!(fs::read_to_string(&path).unwrap_or_default() == page, "docs/reliability.md is stale; run `make docs`");
    Ok(())
}

const INTRODUCTION: &str = "# What happens when something fails

Made by `make docs` from the cases in tests/integration/faults, which run on the real engines: `make soak` runs all of them, `make test` the most telling.

Whatever goes wrong once, at any step, one of these is the result:

- **ran**: the action succeeded, the user container ran exactly once, and nothing is left.
- **failed**: the action failed, the user container never ran, and nothing is left.
- **said**: the action had succeeded; the user container did not run, the waiter logged it at ERROR, and what explains it is kept.

What may pass is tried again: a connection that is refused or breaks, no answer, HTTP 429, 502, 503 and 504, an answer that is cut off or no JSON; HTTP 500 three times. Each new try is a WARN line. The pauses double from 0.1 s to 5 s, less up to a half by chance. The handoff tries for 60 s, the waiter for 300 s, a pull for WAITDAEMON_PULL_TIMEOUT_SECONDS in all. What is final is not tried again: HTTP 400, 401, 403, 404, an unknown manifest, a refused login.

Before something is done a second time, the engine is asked what became of the first: a container that was created bears the handoff's own mark, one that was started is not `created` any more, and one that was removed is not there.

The same promises are held by a simulation in unit tests (`src/simulation`): handoff, agent, engine and waiter, their own code, on an engine in memory under a clock that jumps, with up to two faults at any request, kills and signals at any moment, engines that restart with and without their memory, and the same action again, also two at once. [design.md](design.md) says how; `make test` runs as many as 20 s allow.

";

fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    text += "## Docker: one request goes wrong\n\n";
    legend(&mut text, &FAULTS);
    table(
        &mut text,
        &FAULTS,
        STEPS.iter().map(|step| (step.name, FAULTS.iter().map(|fault| word(step.expect(fault))).collect())),
    );
    text += "\nWhere a handoff fails for another reason, it removes what it made; one request of that goes wrong:\n\n";
    let failed = |step: &super::steps::Step| (step.name, vec![word(Expect::Failed); FAULTS.len()]);
    table(&mut text, &FAULTS, CLEAN_UP.iter().map(failed));
    text += "\n## containerd: one call of nerdctl goes wrong\n\n";
    legend(&mut text, &CALL_FAULTS);
    let cell = |call: &super::steps::Call, fault: &Fault| if call.has(fault) { word(call.expect(fault)) } else { "-" };
    table(
        &mut text,
        &CALL_FAULTS,
        CALLS.iter().map(|call| (call.name, CALL_FAULTS.iter().map(|fault| cell(call, fault)).collect())),
    );
    text += "\n## The action is killed with SIGKILL\n\nThe engine has just done the step's request, or nerdctl the call. The user container never runs. What is left was created and never starts; the same action, served again, removes it and runs once.\n\n| step | left |\n| --- | --- |\n";
    for step in kills::steps() {
        let _ = writeln!(text, "| {} | {} |", step.name, kills::left(step).in_words());
    }
    text += "\nOn containerd:\n\n| call | left |\n| --- | --- |\n";
    for call in CALLS.iter().filter(|call| call.name.starts_with("handoff")) {
        let _ = writeln!(text, "| {} | {} |", call.name, captain::left(call).in_words());
    }
    text += "\n## The engine is killed with SIGKILL and started again\n\nOn Docker with live-restore, before it got each request of the handoff and the waiter: **ran**, or **failed**. A user container that ends while no engine is there has exit code 255 afterwards; the waiter says that and keeps it. Without live-restore the engine ends all containers when it stops: the user container then never runs, and the waiter, which gets SIGTERM, removes it. On containerd, before nerdctl made each call of the handoff and the waiter: **ran**, or **failed**; a user container that ends while no containerd is there is kept, and the waiter says that nobody saw how it ended.\n\nWhat the agent reports is seen on containerd, where it deletes the container of an action that it reported as SUCCESS and keeps any other; so an action whose agent died or lost containerd is no success. On Docker the waiter knows the exit code alone: an agent that loses the engine while the action goes on to its end reports FAILED, and the user container runs all the same. A container that somebody removes by force at that moment looks like success on containerd. An agent that cannot delete the container of an action that succeeded has removed its log, which counts as well.\n";
    text += "\n## The waiter is killed with SIGKILL\n\nOn Docker before and after the engine did each of the waiter's steps: **ran**, every time. The engine starts it again, up to three times, and it takes up where it was: it asks how the action ended, counts WAIT_SECONDS and WAITDAEMON_WAIT_MAX_SECONDS anew, and does not start what was started. On containerd before and after nerdctl made each of the waiter's calls, and while it waited: **ran**; containerd's restart monitor looks every 10 s.\n";
    text
}

fn legend(text: &mut String, faults: &[Fault]) {
    for fault in faults {
        let _ = writeln!(text, "- `{}`: {}", fault.name, fault.what);
    }
    text.push('\n');
}

fn table<'a>(text: &mut String, faults: &[Fault], rows: impl Iterator<Item = (&'a str, Vec<&'a str>)>) {
    let names: Vec<&str> = faults.iter().map(|fault| fault.name).collect();
    let _ = writeln!(text, "| step | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    for (step, cells) in rows {
        let _ = writeln!(text, "| {step} | {} |", cells.join(" | "));
    }
}

fn word(expect: Expect) -> &'static str {
    match expect {
        Expect::Ran => "ran",
        Expect::Failed => "failed",
        Expect::Said => "said",
    }
}
