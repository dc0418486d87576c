//! This process and its surroundings, as the journeys see them.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use crate::error::Failure;
use crate::logging;
use crate::machine::clock::Clock;
use crate::machine::procfs::Traces;
use crate::machine::{namespaces, power};
use crate::names::{HandoffId, JOURNAL_FILE};

/// Writes a line that another process waits for: the message and the handoff's mark.
pub type Announce = Box<dyn Fn(&'static str, &HandoffId)>;
/// Opens what outlives this process in a folder that its container keeps.
pub type Keep = Box<dyn Fn(&Path) -> io::Result<Kept>>;
/// Adds a line, in one piece.
pub type Add = Box<dyn Fn(&str) -> io::Result<()>>;

/// Lines that outlive this process.
pub struct Kept {
    /// Reads them all.
    pub read: Box<dyn Fn() -> io::Result<String>>,
    /// Adds one more.
    pub add: Add,
}

/// What a journey asks of its own process and machine. A simulation puts another one in its place.
pub struct Process {
    /// Our own program's name and arguments, as the engine gave them.
    pub command: Vec<String>,
    /// The kernel's command line.
    pub command_line: String,
    /// PID 1 is systemd.
    pub systemd_is_init: bool,
    /// The clock of the wait.
    pub clock: Clock,
    /// Reads which container this process may be in. Entering other namespaces changes what the kernel shows.
    pub traces: Box<dyn Fn() -> Traces>,
    /// Writes a line that another process waits for: the message and the handoff's mark.
    pub announce: Announce,
    /// Says at ERROR what failed.
    pub fail: Box<dyn Fn(&Failure)>,
    /// Opens what outlives this process.
    pub keep: Keep,
}

/// Reads the kernel's command line, as the host's PID 1 sees it if this process does: an OSIE may mount another over it.
fn read_command_line() -> String {
    let own = Path::new("/proc/cmdline");
    let hosts = namespaces::path_through_init(own).and_then(|path| std::fs::read_to_string(path).ok());
    hosts.or_else(|| std::fs::read_to_string(own).ok()).unwrap_or_default()
}

fn keep(folder: &Path) -> io::Result<Kept> {
    let path = folder.join(JOURNAL_FILE);
    let file = RefCell::new(OpenOptions::new().append(true).create(true).open(&path)?);
    // Not flushed to a disk: it need not outlive the machine.
    let add = move |line: &str| file.borrow_mut().write_all(format!("{line}\n").as_bytes());
    Ok(Kept { read: Box::new(move || std::fs::read_to_string(&path)), add: Box::new(add) })
}

impl Process {
    /// This very process.
    pub fn own() -> Self {
        Self {
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            command_line: read_command_line(),
            systemd_is_init: power::systemd_is_init(),
            clock: Clock::SinceBoot,
            traces: Box::new(Traces::read),
            announce: Box::new(logging::announce),
            fail: Box::new(logging::failure),
            keep: Box::new(keep),
        }
    }
}
