//! The seam: what a container engine can do, one attempt each.
//!
//! Nothing here decides: what is tried again, what counts as done and what becomes of it all is said once, above
//! (lifecycle.rs, identity.rs, handoff/, waiter/). Below lies what only one engine needs.

pub mod docker;
#[cfg(test)]
pub(crate) mod fake;
pub mod json;
pub mod nerdctl;
pub mod registry;
pub mod tail;

use std::any::Any;
use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use serde_json::Value;

use crate::error::Failure;
use crate::login::Login;
use crate::names::{HandoffId, Role};
use crate::reference::Reference;
use crate::retry::{Retry, Transient};
use crate::ticket::Duty;

/// An answer of the engine, boxed, so that each journey is compiled once for all engines.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + 'a>>;

/// The end of a container that is awaited: [`Life::Ended`] if the engine says how with it, else [`Life::Unknown`].
pub type End = Pin<Box<dyn Future<Output = Result<Life, Refusal>>>>;

/// Primitives of a container engine. Each is tried once and bounded in time.
pub trait Engine {
    /// What is the same for all of its containers.
    fn about(&self) -> About;

    /// Shows those of these containers, by ID or name, that exist.
    fn look<'a>(&'a self, containers: &'a [&'a str], detail: Detail) -> Answer<'a, Vec<Seen>>;

    /// Lists the IDs of containers.
    fn list<'a>(&'a self, which: Which<'a>) -> Answer<'a, Vec<String>>;

    /// Shows an image by its name or ID; `None` if it is not on this machine.
    fn image<'a>(&'a self, image: &'a str) -> Answer<'a, Option<Image>>;

    /// Asks the registry for an image. The caller limits the time of a pull.
    fn pull<'a>(&'a self, image: &'a Reference, login: Option<&'a Login>, how: Pulling<'a>) -> Answer<'a, ()>;

    /// Builds the requests for both containers; changes nothing.
    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>>;

    /// Creates a container, and starts the waiter's with it if the engine does both at once.
    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created>;

    /// Does or checks what creating leaves open, for a container that this request created. Twice is as good as once.
    fn complete<'a>(&'a self, request: &'a Request, id: &'a str) -> Answer<'a, ()>;

    /// Starts a container that was seen [`Life::Created`] or [`Life::Starting`].
    fn start<'a>(&'a self, container: &'a Seen) -> Answer<'a, ()>;

    /// Opens the wait for a container's end; nothing is missed from then on. `pid` is its process, if it is known.
    fn wait<'a>(&'a self, container: &'a str, pid: Option<u32>) -> Answer<'a, End>;

    /// Gives a waiter the handoff's word: a line in its journal if we see that, else SIGUSR1.
    fn give_word<'a>(&'a self, waiter: &'a str) -> Answer<'a, ()>;

    /// Opens a container's output.
    fn output<'a>(&'a self, listen: Listen<'a>) -> Answer<'a, Box<dyn Output>>;

    /// Removes a container with its anonymous volumes.
    fn remove<'a>(&'a self, container: &'a str, how: Removal) -> Answer<'a, ()>;

    /// Keeps the engine from starting a container again once it ends.
    fn retire<'a>(&'a self, container: &'a str) -> Answer<'a, ()>;
}

/// What is the same for all containers of an engine.
#[derive(Debug, Clone)]
pub struct About {
    /// The engine in words: what it is and where it was reached.
    pub described: String,
    /// What to check if it does not answer.
    pub check: &'static str,
    /// What containers print stays on the machine unless somebody sends it.
    pub keeps_logs: bool,
    /// The kernel shows the container's ID as the last part of its processes' cgroup.
    pub names_cgroups: bool,
    /// Creating the waiter starts it, so it may run before the user container is there.
    pub starts_waiter_early: bool,
    /// The fields of the Action that say in which engine, or part of it, the action runs; and what to do with them.
    pub place: (&'static str, &'static str),
}

/// How much to ask about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Labels and life.
    Life,
    /// The engine's whole document too.
    Whole,
}

/// Which containers to list.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All of ours, running or not.
    Ours,
    /// What this handoff made, running or not.
    MadeBy(&'a HandoffId),
    /// All that run.
    Running,
}

/// What an engine says of a container's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It never had a process.
    Created,
    /// It has a process that does not run its command yet: somebody starts it, or was killed while he did.
    Starting {
        /// The process, as the host counts.
        pid: Option<u32>,
    },
    /// It runs.
    Running {
        /// Its process, as the host counts.
        pid: Option<u32>,
    },
    /// It ran and ended.
    Ended {
        /// The exit code.
        code: i64,
        /// What the engine says about the end, such as "out of memory"; may be empty.
        note: String,
    },
    /// It is being removed.
    Leaving,
    /// The engine says something else.
    Unknown(String),
}

impl Life {
    /// True if its command has not run yet.
    pub fn is_before_start(&self) -> bool {
        matches!(self, Self::Created | Self::Starting { .. })
    }

    /// Its process, if it has one that is known.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Starting { pid } | Self::Running { pid } => *pid,
            _ => None,
        }
    }
}

/// A container as an engine shows it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for, if it is one of ours.
    pub role: Option<Role>,
    /// The action that it belongs to, if it is one of ours.
    pub action: String,
    /// The mark of the handoff that made it, if it is one of ours.
    pub handoff: String,
    /// The action container that made it, if it is one of ours.
    pub made_by: String,
    /// Its life.
    pub life: Life,
    /// A folder that goes with the container, as a process in it sees it; of our waiter, else unknown.
    pub folder: Option<PathBuf>,
    /// Whoever ran it removed its log, as the Tink Agent on containerd does if it succeeded, and only then.
    pub log_removed: bool,
    /// The rest; empty unless the whole was asked for.
    pub whole: Whole,
}

/// What [`Detail::Whole`] shows besides.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    /// The image from which it was created, as [`Engine::image`] takes it.
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It has a terminal.
    pub tty: bool,
    /// Whoever runs it deletes it if it succeeded and keeps it if it failed (the Tink Agent on containerd, since
    /// Tinkerbell v0.24).
    pub deleted_on_success: bool,
    /// The engine's own document, untouched.
    pub document: Value,
}

/// An image on this machine.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// What is the same for the same content.
    pub id: String,
    /// Its OCI configuration (`Entrypoint`, `Cmd` ...).
    pub config: Value,
    /// The engine's own document, untouched.
    pub document: Value,
}

/// What both containers are made from.
pub struct Order<'a> {
    /// The action container, with its document.
    pub action: &'a Seen,
    /// The action's image, which is our own.
    pub own_image: &'a Image,
    /// `IMAGE`.
    pub image: &'a Reference,
    /// What the waiter has to do.
    pub duty: &'a Duty,
}

/// What would be asked of the engine.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The user container; `None` if it cannot be made.
    pub user: Option<Request>,
    /// The waiter; `None` if it cannot be made.
    pub waiter: Option<Request>,
    /// The action's arguments, all of which are the user's.
    pub words: Vec<Value>,
    /// Where the user container differs from the action: `field`, and what each has there that the other lacks.
    pub differences: Vec<Value>,
    /// What the engine would not take, in the words in which it is known before.
    pub refusals: Vec<Refusal>,
    /// What else keeps something from being made.
    pub problems: Vec<Failure>,
}

/// A container to be created.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// The handoff that makes it.
    pub handoff: HandoffId,
    /// The request in the engine's own form, which it alone knows.
    pub body: Rc<dyn Any>,
}

impl Request {
    /// The engine's own form.
    ///
    /// # Errors
    /// If another engine built the request.
    pub fn body<T: 'static>(&self) -> Result<&T, Refusal> {
        self.body.downcast_ref().ok_or_else(|| Refusal::new(Kind::Final, "the request is another engine's"))
    }
}

/// A container that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its ID.
    pub id: String,
    /// It is known to be started, too.
    pub started: bool,
}

/// Whose output to open, and how.
#[derive(Debug, Clone, Copy)]
pub struct Listen<'a> {
    /// The container's ID.
    pub container: &'a str,
    /// It has a terminal.
    pub tty: bool,
    /// What it said before counts too, if the engine still has it.
    pub replay: bool,
    /// It is one of ours, whose log we know; else an action container's.
    pub ours: bool,
}

/// A container's output, both streams in one.
pub trait Output {
    /// Waits for more; `None` when no more will come. Nothing is lost if the wait is given up.
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>>;
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// One that runs is refused.
    Idle,
    /// One that runs is ended.
    Any,
    /// It may be the one in which this process runs, which ends with it.
    Own,
}

/// What to ask the registry for.
#[derive(Debug, Clone, Copy)]
pub enum Pulling<'a> {
    /// Whether it has the image.
    Find,
    /// The image; how far it is, is told here.
    Whole(&'a RefCell<Progress>),
}

/// How far a pull is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes received, of the layers whose size is known.
    pub bytes: u64,
    /// Bytes in all of those layers.
    pub bytes_known: u64,
    /// What the engine said last.
    pub status: String,
}

/// The engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct Refusal {
    /// What it means.
    pub kind: Kind,
    /// The engine's own words, or why it could not be asked.
    pub said: String,
}

/// What a refusal means, whatever the engine's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The container, or its process that was to be awaited, is not there (any more).
    Gone,
    /// A container has this name; its ID, if the engine says so.
    NameTaken {
        /// The other's ID.
        by: Option<String>,
    },
    /// There is nothing to run.
    NoCommand,
    /// The command is not in the image, or must not be executed.
    NotExecutable,
    /// The image is not on this machine.
    ImageMissing,
    /// The image's name is not one.
    NotAnImageName,
    /// The container is being removed already.
    RemovalInProgress,
    /// A setting of the action cannot be carried over.
    NotCarried,
    /// Another answer that stands.
    Final,
    /// Words that nobody knows: they may stand or pass.
    Unrecognized,
    /// It may be done a little later.
    MayPass(Retry),
}

impl Refusal {
    /// A refusal of this kind, in these words.
    pub fn new(kind: Kind, said: impl Into<String>) -> Self {
        Self { kind, said: said.into() }
    }

    /// True if the container is not there.
    pub fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }
}

impl Transient for Refusal {
    fn retry(&self) -> Retry {
        match self.kind {
            Kind::MayPass(retry) => retry,
            Kind::RemovalInProgress => Retry::UntilDeadline,
            _ => Retry::Never,
        }
    }
}
