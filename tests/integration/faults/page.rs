//! docs/reliability.md, made from the steps and faults that the cases run.

use std::fmt::Write;

use super::calls;
use super::kills;
use crate::{case, docs};

use super::steps::{CALL_FAULTS, CALLS, CLEAN_UP, Expect, FAULTS, Fault, STEPS};

case!(page_is_the_cases, || docs::is_made("docs/reliability.md", &page()));

const INTRODUCTION: &str = "# What happens when something fails

`make docs` generates this page from the cases in tests/integration/faults. They run on the real engines: `make soak` runs all of them, and `make test` runs the most telling ones.

Whatever goes wrong once, at any step, there are only two possible results:

- **ran**: the action succeeded, the user container ran exactly once, and nothing is left.
- **failed**: the action failed, the user container never ran, and nothing is left.

Transient failures are retried: a connection that is refused or breaks, no answer, HTTP 429, 502, 503 and 504, and an answer that is cut off or is not JSON. HTTP 500 is tried three times, and so is an unrecognized message of nerdctl if the call is a query. The pauses double from 0.1 s to 5 s, and each is shortened at random by up to a half. A new reason is a WARN line. The handoff retries for 60 s (its first queries for 20 s, and 12 s until Docker answers at all), the waiter for 300 s, and a pull for WAITDAEMON_PULL_TIMEOUT_SECONDS in all. After SUCCESS the start is retried for 300 s unless the refusal is final, as long as the container has not been started.

A final answer is not retried: HTTP 400, 401, 403 (unless an IP address is in use), 404, a command that cannot be executed, an unknown manifest, a refused login. If the start is refused for good, the waiter logs it at ERROR and keeps what explains it.

Before anything is done a second time, the engine is asked what became of the first attempt. A container that was created bears the handoff's own mark, one that was started is no longer `created`, and one that was removed no longer exists.

A simulation in the unit tests (`src/simulation`) checks the same promises. It runs the code of handoff and waiter, with an agent, on an engine in memory and a clock that jumps. There are up to two faults at any request, and kills and signals at any moment. Engines restart with and without their memory, and the same action comes again, also two at once. [design.md](design.md) describes it. `make test` runs as many simulations as fit into 20 s.

";

const ENGINES_AND_WAITERS: &str = "
## The engine goes away and comes back

**On Docker** the engine is killed with SIGKILL, and stopped with SIGTERM, just before it gets each request of the handoff and the waiter. This is done with live-restore and without it, as HookOS ships. The engine is back after 2 s. At two steps, where the waiter waits for the action's end and where it starts the user container, it is also away for 10 s and for 30 s. The result is **ran** or **failed**.

Without live-restore the engine ends its containers. An action in mid-handoff then fails, and leaves at most containers that nobody starts. The waiter is started again with the engine and continues from its journal, including the count of WAIT_SECONDS. If a user container ends with its engine, or while there is no engine to see how, it is kept, and the waiter says so at ERROR.

**On containerd** the engine is killed with SIGKILL just before nerdctl makes each call of the handoff and the waiter. The result is **ran** or **failed**. A user container that ends while containerd is away is kept, and the waiter says that nobody saw how it ended.

## The waiter is killed with SIGKILL

On Docker the waiter is killed before and after the engine does each of its steps, and as soon as each line of its journal can be seen. The result is **ran**, unless the waiter is killed before it is armed: then the handoff may also fail and leave nothing.

The same holds on containerd, before and after each of its nerdctl calls, and at each line of its journal, both with the host's nerdctl and with its own. containerd's restart monitor checks every 10 s.

The waiter is started again however often it is killed, and continues from its journal.

## What the agent reports

**On containerd** the agent shows what it reports (v0.24 and later). If it reported an action as SUCCESS, it deletes the action's container, or at least that container's log. It keeps any other container. So an action whose agent died or lost containerd has not succeeded, whatever its exit code.

**On Docker** the exit code decides. If the agent loses the engine while the action goes on to its end, it reports FAILED, but the user container still runs.

**The agent of v0.23 on containerd** also deletes the container of a failed action, so there the exit code counts as well. It leaves no other sign of success. If it cannot delete the container of an action that succeeded, the user container never runs, and the waiter says so at WARN.

## What can still make SUCCESS false

- The waiter and the machine's memory of it are destroyed: somebody removes the waiter, or the engine loses its containers.
- On Docker the waiter is killed before it has noted the word, and the engine has forgotten the exit code. The waiter says so at ERROR and is kept.
- The engine refuses the start for good, or for longer than 300 s. The waiter says so at ERROR, and both containers are kept.
- Docker cannot start the waiter again because the log driver, which is the action's, fails at that moment. Docker does not try again.

On containerd a user container may run twice. If containerd is killed while it starts the container, and the command ends before containerd is back, the container looks as if it had never been started. And if the same action is served again in the very moment of the start, `nerdctl rm` may end a command that has just begun; the new attempt then runs it.

The user container may also run although the action was reported as failed. On Docker this happens if the agent lost its engine (see above). It can also happen if SIGKILL arrives between the action's word and its exit, which follow each other directly, and nobody knows the exit code.
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
    text += "\nIf a handoff fails for another reason, it removes what it created. Here one request of that clean-up goes wrong:\n\n";
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
    text += "\n## The action is killed with SIGKILL\n\nThe action is killed just after the engine has done the step's request, or nerdctl the call. The user container never runs. Containers that are left were created and never start. If the same action is served again, it removes them and runs once. A kexec action may also leave the kernel that it loaded: `kexec -u` unloads it.\n\n| step | left |\n| --- | --- |\n";
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
