//! What our own process can be asked: the traces in /proc.

use crate::procfs;

/// The IDs that our own traces name; see [`procfs::candidates`]. A trace that cannot be read names
/// nothing.
pub fn own_candidates() -> Vec<String> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    procfs::candidates(
        &read("/proc/self/mountinfo"),
        &read("/proc/self/cgroup"),
        &rustix::system::uname().nodename().to_string_lossy(),
    )
}

/// Our own program's name and arguments, as the engine gave them.
pub fn own_command() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}
