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
pub type OpenJournal = Box<dyn Fn(&Path) -> io::Result<JournalFile>>;
/// Asks for an end of the machine.
pub type RequestEnd = Box<dyn Fn(EndTarget, End) -> io::Result<()>>;

/// Flushes data to the disks, which may take long.
pub type FlushDisks = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>>>;

/// Who is asked for an end of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndTarget {
    /// PID 1, which ends everything in order.
    Init(Init),
    /// The kernel, at once.
    Kernel,
}

/// Adds a line in one piece.
pub type AddLine = Box<dyn Fn(&str) -> io::Result<()>>;

/// Lines that outlive this process.
pub struct JournalFile {
    /// Reads them all.
    pub read: Box<dyn Fn() -> io::Result<String>>,
    /// Adds one more.
    pub add: AddLine,
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
    pub request_end: RequestEnd,
    /// Flushes data to the disks.
    pub flush_disks: FlushDisks,
    /// The clock of the wait.
    pub clock: Clock,
    /// Reads which container this process may be in. Entering other namespaces changes what the
    /// kernel shows.
    pub read_traces: Box<dyn Fn() -> Traces>,
    /// Writes a line that another process waits for: the message and the handoff's mark.
    pub announce: Announce,
    /// Logs a failure at ERROR.
    pub log_failure: Box<dyn Fn(&Failure)>,
    /// Opens lines that outlive this process.
    pub open_journal: OpenJournal,
}

fn read_request() -> RequestMark {
    let (arguments, variables): (Vec<_>, Vec<_>) =
        (std::env::args_os().skip(1).collect(), std::env::vars_os().collect());
    let variables =
        variables.iter().map(|(name, value)| (name.as_encoded_bytes(), value.as_encoded_bytes()));
    RequestMark::of(arguments.iter().map(|word| word.as_encoded_bytes()), variables)
}

fn open_journal(folder: &Path) -> io::Result<JournalFile> {
    let path = folder.join(JOURNAL_FILE);
    let file = RefCell::new(OpenOptions::new().append(true).create(true).open(&path)?);
    // Not flushed to a disk: it need not outlive the machine.
    let add = move |line: &str| file.borrow_mut().write_all(format!("{line}\n").as_bytes());
    Ok(JournalFile { read: Box::new(move || std::fs::read_to_string(&path)), add: Box::new(add) })
}

impl Process {
    /// Describes this process.
    pub fn current() -> Self {
        Self {
            request: read_request(),
            command: std::env::args_os()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
            machine: Machine::read(),
            request_end: Box::new(|whom, end| match whom {
                EndTarget::Init(init) => power::ask_init(init, end),
                EndTarget::Kernel => power::ask_kernel(end),
            }),
            clock: Clock::SinceBoot,
            flush_disks: Box::new(|| {
                Box::pin(async { drop(tokio::task::spawn_blocking(rustix::fs::sync).await) })
            }),
            read_traces: Box::new(Traces::read),
            announce: Box::new(logging::announce),
            log_failure: Box::new(logging::failure),
            open_journal: Box::new(open_journal),
        }
    }
}
