//! The steps of a run on Docker, the faults that happen there, and what must come of each.

/// A request of the handoff or of the waiter.
#[derive(Debug)]
pub struct Step {
    /// What it is for.
    pub name: &'static str,
    /// By which it is known: method, a part of the path, and which of those that fit.
    pub request: (&'static str, &'static str, usize),
    /// The API versions that have it: only an engine newer than 1.51 is asked in an older version.
    pub newer_only: bool,
}

const fn step(name: &'static str, method: &'static str, path: &'static str, nth: usize) -> Step {
    Step { name, request: (method, path, nth), newer_only: false }
}

/// In the order in which they are made.
pub const STEPS: [Step; 19] = [
    step("handoff: is the engine there", "GET", "/_ping", 1),
    step("handoff: inspect the candidate", "GET", "/containers/", 1),
    step("handoff: listen to our own voice", "POST", "attach?stream=1&stdout=1", 1),
    step("handoff: inspect our own image", "GET", "/images/sha256", 1),
    Step { newer_only: true, ..step("handoff: inspect in an older version", "GET", "/v1.51/", 1) },
    step("handoff: list earlier attempts", "GET", "waitdaemon.action", 1),
    step("handoff: inspect IMAGE", "GET", "/images/alpine/json", 1),
    step("handoff: create the user container", "POST", "create?name=tinkerbell_last_a0-user", 1),
    step("handoff: create the waiter", "POST", "create?name=tinkerbell_last_a0-waiter", 1),
    step("handoff: listen to the waiter", "POST", "attach?stream=1&stdout=1&stderr=1", 1),
    step("handoff: start the waiter", "POST", "/start", 1),
    step("waiter: wait for the action's end", "POST", "/wait", 1),
    step("waiter: inspect itself", "GET", "a0-waiter/json", 1),
    step("waiter: inspect the user container", "GET", "a0-user/json", 1),
    step("waiter: listen to the user container", "POST", "attach?stream=1&stdout=1&stderr=1", 2),
    step("waiter: start the user container", "POST", "/start", 2),
    step("waiter: wait for the user container's end", "POST", "/wait", 2),
    step("waiter: remove the user container", "DELETE", "/containers/", 1),
    step("waiter: remove itself", "DELETE", "/containers/", 2),
];

/// The requests by which a handoff that failed removes what it made.
pub const CLEAN_UP: [Step; 2] = [
    step("clean-up: list what this handoff made", "GET", "waitdaemon.handoff", 1),
    step("clean-up: remove the waiter", "DELETE", "/containers/", 1),
];

/// Something that goes wrong once.
#[derive(Debug)]
pub struct Fault {
    /// The fault proxy's word for it.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// It is tried by `make test` too, not by `make soak` alone.
    pub quick: bool,
}

const fn fault(name: &'static str, what: &'static str) -> Fault {
    Fault { name, what, quick: false }
}

const fn quick(name: &'static str, what: &'static str) -> Fault {
    Fault { name, what, quick: true }
}

/// All of them.
pub const FAULTS: [Fault; 13] = [
    fault("refuse", "the connection is closed before the engine has the request"),
    quick("lost", "the engine does it, its answer is lost"),
    fault("half", "half of the answer arrives"),
    fault("half-closed", "the answer's head arrives, then the stream ends"),
    fault("500", "HTTP status 500"),
    quick("503", "HTTP status 503"),
    fault("garbage", "an answer that is no HTTP"),
    fault("not-json", "an answer that is no JSON"),
    fault("empty", "status 200 and nothing"),
    fault("not-object", "status 200 and null"),
    fault("delay", "2 s late"),
    fault("stall", "no answer, for ever"),
    fault("stall-after", "the engine does it, no answer, for ever"),
];

/// What must come of a fault at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The action succeeds, the user container runs exactly once, nothing is left.
    Ran,
    /// The action fails, the user container never runs, nothing is left.
    Failed,
    /// The action had succeeded; the user container never runs, and the waiter says so at ERROR.
    Said,
}

impl Step {
    /// What must come of this fault here.
    pub fn expect(&self, fault: &Fault) -> Expect {
        // The handoff waits 30 s for the waiter, no longer: a start that stalls is given up.
        let gives_up = self.name == "handoff: start the waiter" && fault.name.starts_with("stall");
        if gives_up { Expect::Failed } else { Expect::Ran }
    }
}

/// A call of nerdctl, by the handoff or the waiter.
#[derive(Debug)]
pub struct Call {
    /// What it is for.
    pub name: &'static str,
    /// A part of its arguments, and which of those that fit.
    pub pattern: &'static str,
    /// Counted from 1.
    pub nth: usize,
    /// It changes nothing and can be made twice.
    pub question: bool,
}

const fn question(name: &'static str, pattern: &'static str, nth: usize) -> Call {
    Call { name, pattern, nth, question: true }
}

const fn change(name: &'static str, pattern: &'static str, nth: usize) -> Call {
    Call { name, pattern, nth, question: false }
}

/// In the order in which they are made.
pub const CALLS: [Call; 10] = [
    question("handoff: list earlier attempts", "--filter label=waitdaemon.action", 1),
    question("handoff: inspect the candidate", "container inspect", 1),
    question("handoff: inspect IMAGE", "image inspect --mode=native alpine", 1),
    question("handoff: inspect our own image", "--mode=native docker.io/library/waitdaemon:dev", 1),
    change("handoff: create the user container", "create --name=", 1),
    question("handoff: inspect the user container", "container inspect", 2),
    change("handoff: create and start the waiter", "run --detach --name tinkerbell_last_a0-waiter", 1),
    question("waiter: inspect itself and the user container", "tinkerbell_last_a0-waiter tinkerbell_last_a0-user", 1),
    change("waiter: start the user container", " start ", 1),
    change("waiter: remove the user container", " rm ", 1),
];

/// What goes wrong once with nerdctl.
pub const CALL_FAULTS: [Fault; 10] = [
    fault("refuse", "containerd is away"),
    quick("lost", "nerdctl does it and then says that containerd is away"),
    quick("unknown", "an error that nobody knows"),
    fault("mute", "nerdctl is killed before it does it"),
    fault("mute-after", "nerdctl is killed after it has done it"),
    fault("empty", "a question is answered with nothing"),
    fault("not-json", "a question is answered with something else"),
    fault("delay", "2 s late"),
    fault("stall", "no end, for ever"),
    fault("stall-after", "nerdctl does it and does not end, for ever"),
];

impl Call {
    /// False where the fault cannot happen.
    pub fn has(&self, fault: &Fault) -> bool {
        self.question || !["empty", "not-json"].contains(&fault.name)
    }

    /// What must come of this fault here.
    pub fn expect(&self, fault: &Fault) -> Expect {
        match (fault.name, self.name) {
            // Whatever changes something and is refused with words that say no more is final.
            ("unknown", "waiter: start the user container") => Expect::Said,
            ("unknown", "waiter: remove the user container") => Expect::Ran,
            ("unknown", _) if !self.question => Expect::Failed,
            // It is how nerdctl says that there is no such image, and here is no registry to pull it from.
            ("empty", "handoff: inspect IMAGE") => Expect::Failed,
            _ => Expect::Ran,
        }
    }
}
