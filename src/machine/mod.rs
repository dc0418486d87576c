//! The machine and this process, as the journeys see them.

pub mod clock;
pub mod command_line;
pub mod namespaces;
pub mod power;
pub mod procfs;
pub mod readable;

use std::path::Path;

use self::clock::Clock;
use self::procfs::Traces;
use crate::logging;
use crate::names::HandoffId;

/// Writes a line that another process waits for: the message and the handoff's mark.
pub type Announce = Box<dyn Fn(&'static str, &HandoffId)>;

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
}

/// Reads the kernel's command line, as the host's PID 1 sees it if this process does: an OSIE may mount another over it.
fn read_command_line() -> String {
    let own = Path::new("/proc/cmdline");
    let hosts = namespaces::path_through_init(own).and_then(|path| std::fs::read_to_string(path).ok());
    hosts.or_else(|| std::fs::read_to_string(own).ok()).unwrap_or_default()
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
        }
    }
}
