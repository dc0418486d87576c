//! The steps of a run on Docker, the faults that happen there, and the required outcome of each.

use lab::system::System;

/// A request of the handoff or of the waiter.
#[derive(Debug)]
pub struct Step {
    /// The purpose of the request.
    pub name: &'static str,
    /// What identifies the request: method, a part of the path, and which of the matching requests.
    pub request: (&'static str, &'static str, usize),
    /// True if only an engine that supports API versions newer than 1.51 gets this request, in an
    /// older version.
    pub newer_only: bool,
}

const fn step(name: &'static str, method: &'static str, path: &'static str, nth: usize) -> Step {
    Step { name, request: (method, path, nth), newer_only: false }
}

/// The steps in the order in which they are made; some run side by side. A container's ID reads as
/// fault-proxy shows it: `{1}` is the action's, `{2}` the waiter's, `{3}` the user container's.
pub const STEPS: [Step; 24] = [
    step("handoff: ping the engine", "GET", "/_ping", 1),
    step("handoff: list our containers", "GET", "waitdaemon.action", 1),
    step("handoff: inspect the candidate", "GET", "{1}/json", 1),
    Step { newer_only: true, ..step("handoff: inspect with an older API", "GET", "/v1.51/", 1) },
    step("handoff: inspect IMAGE", "GET", "/images/alpine/json", 1),
    step("handoff: listen to our own output", "POST", "{1}/attach", 1),
    step("handoff: inspect our own image", "GET", "/images/sha256", 1),
    step("handoff: create the user container", "POST", "create?name=tinkerbell_last_a0-user", 1),
    step("handoff: create the waiter", "POST", "create?name=tinkerbell_last_a0-waiter", 1),
    step("handoff: listen to the waiter", "POST", "{2}/attach", 1),
    step("handoff: look at the waiter before its start", "GET", "{2}/json", 1),
    step("handoff: start the waiter", "POST", "{2}/start", 1),
    step("waiter: inspect itself", "GET", "a0-waiter/json", 1),
    step("waiter: inspect the user container", "GET", "a0-user/json", 1),
    step("waiter: wait for the action's end", "POST", "{1}/wait", 1),
    step("handoff: give the word", "POST", "{2}/kill", 1),
    step("waiter: listen to the user container", "POST", "{3}/attach", 1),
    step("waiter: look at the user container before its start", "GET", "{3}/json", 1),
    step("waiter: start the user container", "POST", "{3}/start", 1),
    step("waiter: wait for the user container's end", "POST", "{3}/wait", 1),
    step("waiter: ask how the user container ended", "GET", "{3}/json", 2),
    step("waiter: remove the user container", "DELETE", "{3}", 1),
    step("waiter: check that the user container is gone", "GET", "{3}/json", 3),
    step("waiter: remove itself", "DELETE", "{2}", 1),
];

/// The requests with which a failed handoff removes what it made. The waiter is the second
/// container that it names.
pub const CLEAN_UP: [Step; 4] = [
    step("clean-up: list what this handoff created", "GET", "waitdaemon.handoff", 1),
    step("clean-up: look at the waiter", "GET", "{2}/json", 1),
    step("clean-up: remove the waiter", "DELETE", "{2}", 1),
    step("clean-up: check that the waiter is gone", "GET", "{2}/json", 2),
];

/// A fault that happens once.
#[derive(Debug)]
pub struct Fault {
    /// The fault proxy's name for the fault.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
}

const fn fault(name: &'static str, what: &'static str) -> Fault {
    Fault { name, what }
}

/// All faults of the fault proxy.
pub const FAULTS: [Fault; 13] = [
    fault("refuse", "the connection is closed before the engine has the request"),
    fault("lost", "the engine carries out the request, but its answer is lost"),
    fault("half", "only half of the answer arrives"),
    fault("half-closed", "the head of the answer arrives, then the stream ends"),
    fault("500", "HTTP status 500"),
    fault("503", "HTTP status 503"),
    fault("garbage", "the answer is not HTTP"),
    fault("not-json", "the answer is not JSON"),
    fault("empty", "status 200 and an empty body"),
    fault("not-object", "status 200 and `null`"),
    fault("delay", "the answer comes 2 s late"),
    fault("stall", "no answer, ever"),
    fault("stall-after", "the engine carries out the request, but never answers"),
];

/// The required outcome of a fault at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The action succeeds, the user container runs exactly once, nothing is left.
    Ran,
    /// The action fails, the user container never runs, nothing is left.
    Failed,
}

impl Step {
    /// True if the step is made on this system.
    pub fn is_on(&self, system: System) -> bool {
        !self.newer_only || system.api() > 51
    }

    /// The required outcome of this fault at this step.
    pub fn expect(&self, fault: &Fault) -> Expect {
        // The handoff waits 30 s for the waiter and no longer, so it gives up on a start that
        // stalls.
        let gives_up = self.name == "handoff: start the waiter" && fault.name.starts_with("stall");
        if gives_up { Expect::Failed } else { Expect::Ran }
    }
}

/// A call of nerdctl by the handoff or the waiter.
#[derive(Debug)]
pub struct Call {
    /// The purpose of the call.
    pub name: &'static str,
    /// A part of the arguments.
    pub pattern: &'static str,
    /// Which of the matching calls, counted from 1.
    pub nth: usize,
    /// Counts only calls after a call with these words; may be empty.
    pub after: &'static str,
    /// True if the call changes nothing and can be repeated.
    pub question: bool,
}

const fn question(name: &'static str, pattern: &'static str, nth: usize) -> Call {
    Call { name, pattern, nth, after: "", question: true }
}

const fn change(name: &'static str, pattern: &'static str, nth: usize) -> Call {
    Call { name, pattern, nth, after: "", question: false }
}

/// The calls in the order in which they are made; some run side by side. A container's ID reads as
/// fault-nerdctl shows it: `{1}` is the action's, `{2}` the user container's, `{3}` the waiter's.
pub const CALLS: [Call; 16] = [
    question("handoff: list our containers", "--filter label=waitdaemon.action", 1),
    question("handoff: inspect the candidate", "--mode=native {1}", 1),
    question(
        "handoff: inspect IMAGE",
        "image inspect --mode=native docker.io/library/alpine:latest",
        1,
    ),
    question("handoff: inspect our own image", "--mode=native docker.io/library/waitdaemon:dev", 1),
    change("handoff: create the user container", "create --name=", 1),
    question("handoff: inspect the user container", "container inspect --mode=native {", 2),
    change(
        "handoff: create and start the waiter",
        "run --detach --name tinkerbell_last_a0-waiter",
        1,
    ),
    question(
        "waiter: inspect itself and the user container",
        "tinkerbell_last_a0-waiter tinkerbell_last_a0-user",
        1,
    ),
    question("waiter: ask how the action ended", HOW_THE_ACTION_ENDED, 1),
    question("waiter: look at the user container before its start", ".Process}}} {2}", 1),
    change("waiter: start the user container", " start {2}", 1),
    Call {
        after: " start {2}",
        ..question("waiter: find the user container's process", ".Process}}} {2}", 1)
    },
    Call {
        after: " start {2}",
        ..question("waiter: ask how the user container ended", ".Process}}} {2}", 2)
    },
    change("waiter: remove the user container", " rm --volumes {2}", 1),
    Call {
        after: " rm --volumes {2}",
        ..question("waiter: check that the user container is gone", ".Process}}} {2}", 1)
    },
    change("waiter: remove itself", " rm --force --volumes {3}", 1),
];

/// The call with which the waiter asks about the action's container.
pub const HOW_THE_ACTION_ENDED: &str = ".Process}}} {1}";

/// The faults of nerdctl, each of which happens once.
pub const CALL_FAULTS: [Fault; 11] = [
    fault("refuse", "containerd is away"),
    fault("lost", "nerdctl makes the call and then reports that containerd is away"),
    fault("unknown", "an unrecognized error"),
    fault("mute", "nerdctl is killed before it makes the call"),
    fault("mute-after", "nerdctl is killed after it has made the call"),
    fault("empty", "a query gets an empty answer"),
    fault("not-json", "a query gets an answer that is not JSON"),
    fault("partial", "an inspection gets an answer without what nerdctl could not read"),
    fault("delay", "the answer comes 2 s late"),
    fault("stall", "nerdctl hangs before it makes the call"),
    fault("stall-after", "nerdctl makes the call and then hangs"),
];

impl Call {
    /// False if the fault cannot happen at this call.
    pub fn has(&self, fault: &Fault) -> bool {
        let inspects = self.question && !self.pattern.starts_with("--filter");
        (self.question || !["empty", "not-json"].contains(&fault.name))
            && (inspects || fault.name != "partial")
    }

    /// The required outcome of this fault at this call.
    pub fn expect(&self, fault: &Fault) -> Expect {
        match (fault.name, self.name) {
            // Before SUCCESS, a change that is refused with words that say no more is refused for
            // good.
            ("unknown", _) if self.name.starts_with("waiter") => Expect::Ran,
            ("unknown", _) if !self.question => Expect::Failed,
            // This is how nerdctl says that there is no such image, and there is no registry here
            // to pull it from.
            ("empty", "handoff: inspect IMAGE") => Expect::Failed,
            _ => Expect::Ran,
        }
    }
}
