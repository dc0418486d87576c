//! The seam: what a container engine can do, one attempt each.
//!
//! Nothing here decides. What to retry, what counts as done and what follows is decided once, above
//! (lifecycle.rs, identity.rs, handoff/, waiter/). Below is what only one engine needs.

pub mod docker;
#[cfg(test)]
pub(crate) mod fake;
pub mod json;
pub mod nerdctl;
pub mod platform;
mod refusal;
pub mod registry;
pub mod tail;

use std::any::Any;
use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use self::platform::Platform;
pub use self::refusal::{Kind, Refusal};
use crate::error::Failure;
use crate::login::Login;
use crate::names::{HandoffId, Origin, RequestMark, Role};
use crate::reference::Reference;
use crate::ticket::Duty;

/// An answer of the engine, boxed, so that each caller is compiled once for all engines.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + 'a>>;

/// The awaited end of a container: [`Life::Ended`] if the engine says how it ended, else the life
/// that it reports.
pub type PendingEnd = Pin<Box<dyn Future<Output = Result<Life, Refusal>>>>;

/// Primitives of a container engine. Each is tried once and has a time limit.
pub trait Engine {
    /// Returns the properties that all of its containers share.
    fn about(&self) -> About;

    /// Shows those of these containers, given by ID or name, that exist.
    fn inspect<'a>(&'a self, containers: &'a [&'a str], detail: Detail) -> Answer<'a, Vec<Seen>>;

    /// Lists the IDs of containers.
    fn list<'a>(&'a self, which: Which<'a>) -> Answer<'a, Vec<String>>;

    /// Shows an image by its name or its whole ID; returns `None` if it is not on this machine.
    fn image<'a>(&'a self, image: &'a str) -> Answer<'a, Option<Image>>;

    /// Asks the registry for an image. The caller limits the time of a pull. Returns the platforms
    /// for which the registry has the image; none if it does not say.
    fn pull<'a>(
        &'a self,
        image: &'a Reference,
        login: Option<&'a Login>,
        how: Pulling<'a>,
    ) -> Answer<'a, Vec<Platform>>;

    /// Builds the requests for both containers; changes nothing.
    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>>;

    /// Creates a container; also starts the waiter if the engine does both at once.
    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created>;

    /// Does or checks what creating leaves open, for a container that this request created.
    /// Idempotent.
    fn complete<'a>(&'a self, request: &'a Request, id: &'a str) -> Answer<'a, ()>;

    /// Starts a container that was seen as [`Life::Created`] or [`Life::Starting`].
    fn start<'a>(&'a self, container: &'a Seen) -> Answer<'a, ()>;

    /// Opens the wait for a container's end; nothing is missed from then on. `pid` is its process,
    /// if known.
    fn wait<'a>(&'a self, container: &'a str, pid: Option<u32>) -> Answer<'a, PendingEnd>;

    /// Gives a waiter the handoff's word: a line in its journal if we can see it, else SIGUSR1.
    fn give_word<'a>(&'a self, waiter: &'a str) -> Answer<'a, ()>;

    /// Opens a container's output.
    fn output<'a>(&'a self, listen: Listen<'a>) -> Answer<'a, Box<dyn Output>>;

    /// Removes a container with its anonymous volumes.
    fn remove<'a>(&'a self, container: &'a str, how: Removal) -> Answer<'a, ()>;

    /// Keeps the engine from starting a container again when it ends.
    fn retire<'a>(&'a self, container: &'a str) -> Answer<'a, ()>;
}

/// What is said of an answer that is not about a container.
pub const NOT_A_CONTAINER: &str = "the answer is not about a container";
/// How long a query may take; it can be repeated. Docker needs milliseconds and nerdctl 30 to 45 ms,
/// or 10 s if containerd hangs (observed).
pub const QUERY_LIMIT: Duration = Duration::from_secs(15);
/// How long a change may take; after that the caller looks at what became of it. Creating and
/// starting take under a second on a quiet machine; one that unpacks an image is not quiet.
pub const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// How long an engine may take to notice that a process has ended.
pub const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// Properties that all containers of an engine share.
#[derive(Debug, Clone)]
pub struct About {
    /// What kind of engine it is and where it was reached, in words.
    pub described: String,
    /// What to check if it does not answer.
    pub check: &'static str,
    /// True if container output stays on the machine unless it is sent elsewhere.
    pub keeps_logs: bool,
    /// True if the kernel shows the container's ID as the last part of its processes' cgroup.
    pub names_cgroups: bool,
    /// True if it still knows after a boot whether it had started a container.
    pub keeps_lives: bool,
    /// True if creating the waiter starts it, so that it may run before the user container exists.
    pub starts_waiter_early: bool,
    /// What to do if the engine does not trust a registry's certificate, or the registry has none.
    pub trust: &'static str,
    /// The Action's fields that select the engine, or the part of it, in which the action runs; and
    /// what to do with them.
    pub place: (&'static str, &'static str),
}

/// How much to ask about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Labels and life.
    Life,
    /// The engine's whole document as well.
    Whole,
}

/// Which containers to list.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All of ours, running or not.
    Ours,
    /// Those that this handoff created, running or not.
    OfHandoff(&'a HandoffId),
    /// All that are running, or may be: an engine may not have noted a start yet.
    Running,
}

/// A container's life, as an engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It never had a process.
    Created,
    /// It has a process that does not run its command yet: a start is under way, or was killed
    /// halfway.
    Starting {
        /// The process's PID on the host.
        pid: Option<u32>,
    },
    /// It runs.
    Running {
        /// Its process's PID on the host.
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
    Removing,
    /// The engine reports something else.
    Unknown(String),
}

impl Life {
    /// True if its command has not run yet.
    pub fn is_before_start(&self) -> bool {
        matches!(self, Self::Created | Self::Starting { .. })
    }

    /// True if its command is running.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// True if this tells how it ended.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// True if its command is running or has run.
    pub fn has_run(&self) -> bool {
        self.is_running() || self.is_ended()
    }

    /// Returns its process, if it has one and it is known.
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
    /// Its role, if it is one of ours.
    pub role: Option<Role>,
    /// The action that it belongs to, if it is one of ours.
    pub action: String,
    /// The mark of the handoff that created it, if it is one of ours.
    pub handoff: String,
    /// The action container that created it, if it is one of ours.
    pub made_by: String,
    /// What the action that created it had asked for, if it is one of ours.
    pub request: RequestMark,
    /// Its life.
    pub life: Life,
    /// A folder that goes away with the container, as a process in it sees it; known at least for
    /// our waiter.
    pub folder: Option<PathBuf>,
    /// True if its log was removed, as the Tink Agent on containerd does if the action succeeded,
    /// and only then.
    pub log_removed: bool,
    /// The rest; empty unless [`Detail::Whole`] was asked for.
    pub whole: Whole,
}

impl Seen {
    /// True if it is a user container of ours.
    pub fn is_user(&self) -> bool {
        self.role == Some(Role::User)
    }

    /// True if it is a waiter of ours.
    pub fn is_waiter(&self) -> bool {
        self.role == Some(Role::Waiter)
    }
}

/// What [`Detail::Whole`] shows in addition.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    /// The image it was created from, as [`Engine::image`] takes it.
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// True if it has a terminal.
    pub tty: bool,
    /// True if it sees the host's PIDs.
    pub has_host_pids: bool,
    /// True if it is deleted when it succeeded and kept when it failed (the Tink Agent on
    /// containerd, since Tinkerbell v0.24).
    pub deleted_on_success: bool,
    /// The engine's own document, untouched.
    pub document: Value,
}

/// An image on this machine.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// An ID that is the same for the same content.
    pub id: String,
    /// The name that creates a container from exactly this image.
    pub name: String,
    /// The platform it is built for; `None` if it does not say.
    pub platform: Option<Platform>,
    /// Its OCI configuration (`Entrypoint`, `Cmd` ...).
    pub config: Value,
    /// The engine's own document, untouched.
    pub document: Value,
}

impl Image {
    /// Returns the architecture of a machine that runs this image; if the image does not say, the
    /// architecture that this program was built for.
    pub fn architecture(&self) -> &str {
        let built_for = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        self.platform.as_ref().map_or(built_for, |platform| &platform.architecture)
    }
}

/// What both containers are made from.
pub struct Order<'a> {
    /// The action container, with its document.
    pub action: &'a Seen,
    /// What the user container is made from, if there is to be one.
    pub user: Option<UserOrder<'a>>,
    /// What the action asks for.
    pub request: &'a RequestMark,
    /// True if the action's own network leads somewhere: it has more than the loopback interface.
    pub has_network: bool,
    /// What the waiter has to do.
    pub duty: &'a Duty,
}

/// What the user container is made from, besides the action container.
pub struct UserOrder<'a> {
    /// `IMAGE`.
    pub image: &'a Reference,
    /// That image, if it is already on this machine.
    pub found: Option<&'a Image>,
    /// The action's image, which is our own.
    pub own_image: &'a Image,
    /// The action's arguments; if there are none, `IMAGE`'s count.
    pub arguments: &'a [String],
}

impl Order<'_> {
    /// Returns what the containers are made for.
    pub fn origin(&self) -> Origin<'_> {
        Origin {
            action: &self.action.name,
            handoff: &self.duty.handoff,
            made_by: &self.action.id,
            request: self.request,
        }
    }

    /// Builds the request for the container of this role, from the engine's own form of it.
    pub fn request(&self, role: Role, body: impl Any) -> Request {
        Request {
            role,
            name: role.container_name(&self.action.name),
            handoff: self.duty.handoff.clone(),
            body: Rc::new(body),
        }
    }
}

/// What would be requested from the engine.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The user container; `None` if it cannot be created, or none is wanted.
    pub user: Option<Request>,
    /// The waiter; `None` if it cannot be created.
    pub waiter: Option<Request>,
    /// Where the user container differs from the action: `field`, and what each has there that the
    /// other lacks.
    pub differences: Vec<Value>,
    /// Why the user container gets no network although the action was meant to have one; `None` if
    /// it gets the network that the action was meant to have.
    pub no_network: Option<String>,
    /// Refusals of the engine that are known beforehand.
    pub refusals: Vec<Refusal>,
    /// What else keeps something from being created.
    pub problems: Vec<Failure>,
}

/// A container to create.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// The handoff that creates it.
    pub handoff: HandoffId,
    /// The request in the engine's own form, which only the engine knows.
    pub body: Rc<dyn Any>,
}

impl Request {
    /// Returns the request in the engine's own form.
    ///
    /// # Errors
    /// If another engine built the request.
    pub fn body<T: 'static>(&self) -> Result<&T, Refusal> {
        self.body
            .downcast_ref()
            .ok_or_else(|| Refusal::new(Kind::Final, "the request is another engine's"))
    }
}

/// A created container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its ID.
    pub id: String,
    /// True if it is known to be started as well.
    pub started: bool,
}

/// Whose output to open, and how.
#[derive(Debug, Clone, Copy)]
pub struct Listen<'a> {
    /// The container's ID.
    pub container: &'a str,
    /// True if it has a terminal.
    pub tty: bool,
    /// True if earlier output counts too, if the engine still has it.
    pub replay: bool,
    /// True for one of our containers, whose log we know; false for an action container.
    pub ours: bool,
}

/// A container's output, both streams in one.
pub trait Output {
    /// Waits for more; returns `None` when no more will come. Cancelling the wait loses nothing.
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>>;
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// A running container is refused.
    Idle,
    /// A running container is ended.
    Any,
    /// The container may be the one in which this process runs; the process ends with it.
    Own,
}

/// What to ask the registry for.
#[derive(Debug, Clone, Copy)]
pub enum Pulling<'a> {
    /// Whether it has the image.
    Find,
    /// The image; progress is reported here.
    Whole(&'a RefCell<Progress>),
}

/// The progress of a pull.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes received, over the layers whose size is known.
    pub bytes: u64,
    /// Bytes in all of those layers.
    pub bytes_known: u64,
    /// The engine's latest status.
    pub status: String,
}
