//! This process as the journeys see it: what it knows, and what it can do.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;

use crate::end::{End, Init};
use crate::error::Failure;
use crate::logging;
use crate::machine::clock::Clock;
use crate::machine::procfs::Traces;
use crate::machine::{Machine, power};
use crate::names::{HandoffId, JOURNAL_FILE, RequestMark};

/// Writes a line that another process waits for: the message and the handoff's mark.
pub type Announce = Box<dyn Fn(&'static str, &HandoffId)>;
/// Opens lines that outlive this process, in a folder that its container keeps.
pub type Keep = Box<dyn Fn(&Path) -> io::Result<Kept>>;
/// Asks for an end of the machine.
pub type Ask = Box<dyn Fn(Whom, End) -> io::Result<()>>;

/// Flushes data to the disks, which may take long.
pub type Sync = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>>>;

/// Who is asked for an end of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// PID 1, which ends everything in order.
    Init(Init),
    /// The kernel, at once.
    Kernel,
}

/// Adds a line in one piece.
pub type Add = Box<dyn Fn(&str) -> io::Result<()>>;

/// Lines that outlive this process.
pub struct Kept {
    /// Reads them all.
    pub read: Box<dyn Fn() -> io::Result<String>>,
    /// Adds one more.
    pub add: Add,
}

/// What a journey needs from its own process and machine. A simulation replaces it.
pub struct Process {
    /// Our own program's name and arguments, as the engine gave them.
    pub command: Vec<String>,
    /// The mark of what the action asks for.
    pub request: RequestMark,
    /// The machine on which it runs.
    pub machine: Machine,
    /// Asks the machine for an end.
    pub ask: Ask,
    /// Flushes data to the disks.
    pub sync: Sync,
    /// The clock of the wait.
    pub clock: Clock,
    /// Reads which container this process may be in. Entering other namespaces changes what the
    /// kernel shows.
    pub traces: Box<dyn Fn() -> Traces>,
    /// Writes a line that another process waits for: the message and the handoff's mark.
    pub announce: Announce,
    /// Logs a failure at ERROR.
    pub fail: Box<dyn Fn(&Failure)>,
    /// Opens lines that outlive this process.
    pub keep: Keep,
}

fn read_request() -> RequestMark {
    let (arguments, variables): (Vec<_>, Vec<_>) =
        (std::env::args_os().skip(1).collect(), std::env::vars_os().collect());
    let variables =
        variables.iter().map(|(name, value)| (name.as_encoded_bytes(), value.as_encoded_bytes()));
    RequestMark::of(arguments.iter().map(|word| word.as_encoded_bytes()), variables)
}

fn keep(folder: &Path) -> io::Result<Kept> {
    let path = folder.join(JOURNAL_FILE);
    let file = RefCell::new(OpenOptions::new().append(true).create(true).open(&path)?);
    // Not flushed to a disk: it need not outlive the machine.
    let add = move |line: &str| file.borrow_mut().write_all(format!("{line}\n").as_bytes());
    Ok(Kept { read: Box::new(move || std::fs::read_to_string(&path)), add: Box::new(add) })
}

impl Process {
    /// Describes this process.
    pub fn own() -> Self {
        Self {
            request: read_request(),
            command: std::env::args_os()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
            machine: Machine::read(),
            ask: Box::new(|whom, end| match whom {
                Whom::Init(init) => power::ask_init(init, end),
                Whom::Kernel => power::ask_kernel(end),
            }),
            clock: Clock::SinceBoot,
            sync: Box::new(|| {
                Box::pin(async { drop(tokio::task::spawn_blocking(rustix::fs::sync).await) })
            }),
            traces: Box::new(Traces::read),
            announce: Box::new(logging::announce),
            fail: Box::new(logging::failure),
            keep: Box::new(keep),
        }
    }
}
