//! docs/reliability.md, made from the steps and faults that the cases run.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, ensure};
use lab::paths;

use super::calls;
use super::kills;
use crate::case;

use super::steps::{CALL_FAULTS, CALLS, CLEAN_UP, Expect, FAULTS, Fault, STEPS};

// Fails if docs/reliability.md does not match the cases; with `WRITE_DOCS` set, writes it.
case!(page_is_the_cases, || {
    let path = paths::root().join("docs/reliability.md");
    let page = page();
    if std::env::var_os("WRITE_DOCS").is_some() {
        return fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()));
    }
    ensure!(
        fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/reliability.md is stale; run `make docs`"
    );
    Ok(())
});

const INTRODUCTION: &str = "# What happens when something fails

Made by `make docs` from the cases in tests/integration/faults, which run on the real engines: `make soak` runs all of them, `make test` the most telling.

Whatever goes wrong once, at any step, one of these is the result:

- **ran**: the action succeeded, the user container ran exactly once, and nothing is left.
- **failed**: the action failed, the user container never ran, and nothing is left.

What may pass is tried again: a connection that is refused or breaks, no answer, HTTP 429, 502, 503 and 504, an answer that is cut off or no JSON; HTTP 500, and words of nerdctl that nobody knows, three times where it is a question. The pauses double from 0.1 s to 5 s, less up to a half by chance; a new reason is a WARN line. The handoff tries for 60 s, the waiter for 300 s, a pull for WAITDAEMON_PULL_TIMEOUT_SECONDS in all. After SUCCESS the start is tried for 300 s whatever the refusal, as long as the container was not started. What is final is not tried again: HTTP 400, 401, 403, 404, a command that cannot be executed, an unknown manifest, a refused login. A start that is refused for good is said: the waiter logs it at ERROR, and what explains it is kept.

Before something is done a second time, the engine is asked what became of the first: a container that was created bears the handoff's own mark, one that was started is not `created` any more, and one that was removed is not there.

The same promises are held by a simulation in unit tests (`src/simulation`): handoff, agent, engine and waiter, their own code, on an engine in memory under a clock that jumps, with up to two faults at any request, kills and signals at any moment, engines that restart with and without their memory, and the same action again, also two at once. [design.md](design.md) says how; `make test` runs as many as 20 s allow.

";

const ENGINES_AND_WAITERS: &str = "
## The engine goes away and comes back

On Docker, before it got each request of the handoff and the waiter, by SIGKILL and by SIGTERM, with live-restore and without (HookOS ships so), back after 2 s, and after 10 and 30 s where the waiter awaits the action's end and where it starts the user container: **ran**, or **failed**. Without live-restore the engine ends its containers: an action in mid-handoff fails, and leaves at most what nobody starts; the waiter is started again with the engine and goes on from its journal, the count of WAIT_SECONDS included. A user container that ends with its engine, or while no engine is there to see how, is kept, and the waiter says so at ERROR.

On containerd, by SIGKILL before nerdctl made each call of the handoff and the waiter: **ran**, or **failed**; a user container that ends while no containerd is there is kept, and the waiter says that nobody saw how it ended.

## The waiter is killed with SIGKILL

On Docker before and after the engine did each of the waiter's steps, and as soon as each line of its journal could be seen: **ran**, every time. The same on containerd, before and after each of its calls of nerdctl, and at each line with the host's nerdctl and with its own; containerd's restart monitor looks every 10 s. It is started again however often, and goes on from its journal. Killed before it noted that it was armed, the handoff may see that and fail.

## What the agent reports

On containerd the agent shows it: it deletes the container of an action that it reported as SUCCESS, or at least that container's log, and keeps any other (v0.24 and later). So an action whose agent died or lost containerd is no success, whatever its exit code. On Docker the exit code decides: an agent that loses the engine while the action goes on to its end reports FAILED, and the user container runs all the same. The agent of v0.23 on containerd deletes the container of an action that failed, too, so there the exit code counts as well; and it leaves no other sign of success: if it cannot delete the container of an action that succeeded, the user container never runs, and the waiter says so at WARN.

## What can still make SUCCESS false

- The waiter and the machine's memory of it are destroyed: somebody removes the waiter, or the engine loses its containers.
- On Docker the waiter is killed before it has noted the word, and the engine has forgotten the exit code: the waiter says so at ERROR and is kept.
- The engine refuses the start for good, or for longer than 300 s: said at ERROR, both containers are kept.
- Docker cannot start the waiter again because the log driver, which is the action's, fails at that moment: Docker does not try again.

On containerd a user container may run twice: if containerd is killed while it starts one, and the command ends before containerd is back, the container looks as if it had never been started.

And the user container may run although the action was reported as failed: on Docker if the agent lost its engine (above), and if SIGKILL comes between the action's word and its exit, which are next to each other, where nobody knows the exit code.
";

fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    text += "## Docker: one request goes wrong\n\n";
    legend(&mut text, &FAULTS);
    table(
        &mut text,
        &FAULTS,
        STEPS
            .iter()
            .map(|step| (step.name, FAULTS.iter().map(|fault| word(step.expect(fault))).collect())),
    );
    text += "\nWhere a handoff fails for another reason, it removes what it made; one request of that goes wrong:\n\n";
    let failed = |step: &super::steps::Step| (step.name, vec![word(Expect::Failed); FAULTS.len()]);
    table(&mut text, &FAULTS, CLEAN_UP.iter().map(failed));
    text += "\n## containerd: one call of nerdctl goes wrong\n\n";
    legend(&mut text, &CALL_FAULTS);
    let cell = |call: &super::steps::Call, fault: &Fault| {
        if call.has(fault) { word(call.expect(fault)) } else { "-" }
    };
    table(
        &mut text,
        &CALL_FAULTS,
        CALLS
            .iter()
            .map(|call| (call.name, CALL_FAULTS.iter().map(|fault| cell(call, fault)).collect())),
    );
    text += "\n## The action is killed with SIGKILL\n\nThe engine has just done the step's request, or nerdctl the call. The user container never runs. What is left was created and never starts; the same action, served again, removes it and runs once.\n\n| step | left |\n| --- | --- |\n";
    for step in kills::steps() {
        let _ = writeln!(text, "| {} | {} |", step.name, kills::left(step).in_words());
    }
    text += "\nOn containerd:\n\n| call | left |\n| --- | --- |\n";
    for call in CALLS.iter().filter(|call| call.name.starts_with("handoff")) {
        let _ = writeln!(text, "| {} | {} |", call.name, calls::left(call).in_words());
    }
    text += ENGINES_AND_WAITERS;
    text
}

fn legend(text: &mut String, faults: &[Fault]) {
    for fault in faults {
        let _ = writeln!(text, "- `{}`: {}", fault.name, fault.what);
    }
    text.push('\n');
}

fn table<'a>(
    text: &mut String,
    faults: &[Fault],
    rows: impl Iterator<Item = (&'a str, Vec<&'a str>)>,
) {
    let names: Vec<&str> = faults.iter().map(|fault| fault.name).collect();
    let _ =
        writeln!(text, "| step | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    for (step, cells) in rows {
        let _ = writeln!(text, "| {step} | {} |", cells.join(" | "));
    }
}

fn word(expect: Expect) -> &'static str {
    match expect {
        Expect::Ran => "ran",
        Expect::Failed => "failed",
    }
}
