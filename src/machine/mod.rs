//! The machine, as a container with the host's PIDs sees it.

use std::path::Path;

use crate::end::Init;

pub mod clock;
pub mod command_line;
pub mod filesystem;
pub mod kexec;
pub mod namespaces;
pub mod pidfd;
pub mod power;
pub mod procfs;
pub mod readable;

/// What does not change while this process runs. `Process::current` reads it once; a simulation
/// makes its own.
pub struct Machine {
    /// The kernel's command line.
    pub command_line: String,
    /// What PID 1 is.
    pub init: Init,
    /// The ID of this boot (random(4), `boot_id`); may be empty.
    pub boot: String,
    /// This container's network has more than the loopback interface.
    pub has_network: bool,
}

impl Machine {
    /// Reads the machine's properties. One that cannot be read is empty, [`Init::Other`] or false.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            command_line: read_command_line(),
            init: power::init(),
            boot: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            has_network: procfs::has_network(&text("/proc/self/net/dev")),
        }
    }
}

/// Reads the kernel's command line, as the host's PID 1 sees it if this process can see PID 1: an
/// OSIE may mount another file over it.
fn read_command_line() -> String {
    let own = Path::new("/proc/cmdline");
    let hosts =
        namespaces::path_through_init(own).and_then(|path| std::fs::read_to_string(path).ok());
    hosts.or_else(|| std::fs::read_to_string(own).ok()).unwrap_or_default()
}
