//! The seam: what both journeys ask of a container engine, and choosing one.
#![allow(async_fn_in_trait)] // Used by this program alone, on one thread: no caller needs Send bounds.

pub mod docker;
pub mod failures;
pub mod json;
pub mod nerdctl;
pub mod tail;

use std::time::Duration;

use serde_json::Value;

use crate::clock::Moment;
use crate::error::Failure;
use crate::login::Login;
use crate::names::HandoffId;
use crate::reference::Reference;
use crate::settings::{Runtime, Settings};
use crate::ticket::{EngineTicket, Ticket};

/// How long starting the waiter may take until it says that it is armed. Generous: 0.3 s is usual.
pub const ARMING_LIMIT: Duration = Duration::from_secs(30);

/// The action container's end, as far as the waiter can know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It exited with 0: the agent reports SUCCESS.
    Succeeded,
    /// It ended in another way; says how.
    Failed(String),
    /// It is gone and nothing tells how it ended; says why.
    Unknown(String),
}

/// What the waiter saw of the user container while it watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Still running when the time was over.
    Running,
    /// It ended.
    Exited {
        /// Its exit code.
        code: i64,
        /// What the engine says about the end, such as "out of memory"; may be empty.
        note: String,
        /// The last lines of its output, oldest first.
        last_lines: Vec<String>,
    },
    /// Somebody removed it.
    Removed,
    /// The engine went away; says how. A machine that goes down looks like this.
    Lost(String),
}

/// What became of a user container that shall not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It has not run and is gone.
    Removed,
    /// Too late: it was started. It is left alone.
    Started,
}

/// What an earlier attempt of the same action left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing that matters now: nothing was there, or it was pending and has been removed.
    Cleared,
    /// Its user container runs; the ID. It and its waiter are left alone.
    Running(String),
}

/// Who has the name of one of our containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody.
    Free,
    /// An earlier attempt of the same action; it does not run.
    Pending,
    /// An earlier attempt of the same action; it runs.
    Running,
    /// A container that is not this action's.
    Foreign,
}

/// What would become of the action, as far as it can be told without making anything.
#[derive(Debug, Default)]
pub struct Planned {
    /// The action's arguments, all of which are the user's.
    pub words: Vec<Value>,
    /// Where the user container differs from the action: `field`, and what each has there that the other lacks.
    pub differences: Vec<Value>,
    /// What would make the handoff fail.
    pub problems: Vec<Failure>,
}

/// A container engine, as the two journeys need it.
pub trait Engine {
    /// What the engine knows of the action container: our own container, identified with proof.
    type Action;
    /// The end of the action container, awaited since the waiter is armed.
    type Pending;
    /// The output of the user container.
    type Output;

    /// Finds our own container and proves it.
    async fn identify(&self, handoff: &HandoffId) -> Result<Self::Action, Failure>;

    /// The engine in words: what it is and where it was reached.
    fn described(&self) -> String;

    /// True where what containers print stays on the machine unless somebody sends it.
    fn keeps_logs(&self) -> bool;

    /// What proved that the container is ours, in words.
    fn proof(&self, action: &Self::Action) -> &'static str;

    /// The action container's ID and name.
    fn action_names<'a>(&self, action: &'a Self::Action) -> (&'a str, &'a str);

    /// True where the action has a terminal, and so the user container too.
    fn has_terminal(&self, action: &Self::Action) -> bool;

    /// How the waiter will reach this engine.
    fn ticket(&self, action: &Self::Action) -> EngineTicket;

    /// Pulls the image within `limit`, with the registry's login if there is one.
    async fn pull(&self, image: &Reference, login: Option<&Login>, limit: Duration) -> Result<(), Failure>;

    /// The image's OCI configuration (`Entrypoint`, `Cmd`), or `None` where it is not on this machine.
    async fn image(&self, image: &Reference) -> Result<Option<Value>, Failure>;

    /// Asks the registry for the image, without pulling it.
    async fn find_in_registry(&self, image: &Reference, login: Option<&Login>) -> Result<(), Failure>;

    /// Who has the name `container`, which is one of ours for the action of this name.
    async fn standing(&self, container: &str, action_name: &str) -> Result<Standing, Failure>;

    /// What the handoff would create.
    async fn plan(&self, action: &Self::Action, image: &Reference, ticket: &Ticket) -> Planned;

    /// Clears what an earlier attempt of the same action left pending.
    async fn clear_earlier(&self, action: &Self::Action) -> Result<Earlier, Failure>;

    /// Creates the user container with everything that the action was given.
    async fn create_user(&self, action: &Self::Action, image: &Reference, handoff: &HandoffId) -> Result<(), Failure>;

    /// Creates the waiter, and starts it where the engine does both at once.
    async fn create_waiter(&self, action: &Self::Action, ticket: &Ticket) -> Result<Made, Failure>;

    /// Starts the waiter if it was not, and returns when it says that it is armed.
    async fn start_waiter(&self, action: &Self::Action, waiter: &Made, handoff: &HandoffId) -> Result<(), Failure>;

    /// Removes every container that the handoff made; the waiter last, for it may be the caller.
    async fn remove_made_by(&self, handoff: &HandoffId) -> Result<(), Failure>;

    /// The waiter's first step: finds itself and the user container, and awaits the action's end.
    async fn arm(&self, ticket: &Ticket) -> Result<Armed<Self::Pending>, Failure>;

    /// Waits for the action container's end; returns how and when it ended.
    async fn verdict(&self, pending: Self::Pending) -> (Verdict, Moment);

    /// Listens to the user container's output, before it is started.
    async fn listen(&self, user: &str, tty: bool) -> Result<Self::Output, Failure>;

    /// Starts the user container exactly once, also where the engine's answer is lost.
    async fn start(&self, user: &str) -> Result<(), Failure>;

    /// Watches the started user container for at most `limit`.
    async fn watch(&self, user: &str, output: Option<Self::Output>, limit: Duration) -> Outcome;

    /// Removes the user container unless it was started.
    async fn discard(&self, user: &str) -> Result<Discarded, Failure>;

    /// Removes a container that ended.
    async fn remove_ended(&self, container: &str) -> Result<(), Failure>;

    /// Keeps the engine from starting our container again once we end.
    async fn retire(&self, waiter: &str) -> Result<(), Failure>;

    /// Removes the container in which we run; this process ends with it.
    async fn remove_self(&self, waiter: &str) -> Result<(), Failure>;
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its ID.
    pub id: String,
    /// True where it is known to be started, too.
    pub started: bool,
}

/// What the waiter knows when it is armed.
pub struct Armed<P> {
    /// The waiter's own container ID.
    pub waiter: String,
    /// The user container's ID.
    pub user: String,
    /// The action container's end.
    pub pending: P,
    /// True where the user container was started before: by an earlier life of this waiter, which was killed.
    pub started: bool,
}

/// An engine that answered.
pub enum Chosen {
    /// Docker Engine.
    Docker(docker::Docker),
    /// containerd through nerdctl.
    Nerdctl(nerdctl::Nerdctl),
}

/// Reaches the engine that the settings ask for; `auto` takes Docker where it answers, else nerdctl.
///
/// # Errors
/// For each engine that was tried, why it cannot be used; the program ends with
/// [`crate::error::exit::NO_ENGINE`].
pub async fn choose(settings: &Settings) -> Result<Chosen, Vec<Failure>> {
    let mut failures = Vec::new();
    if settings.runtime != Runtime::Nerdctl {
        match docker::Docker::reach(&settings.docker_host).await {
            Ok(docker) => return Ok(Chosen::Docker(docker)),
            Err(failure) => failures.push(failure),
        }
    }
    if settings.runtime != Runtime::Docker {
        match nerdctl::Nerdctl::reach(settings.nerdctl_host, &settings.nerdctl_namespace).await {
            Ok(nerdctl) => return Ok(Chosen::Nerdctl(nerdctl)),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
}
