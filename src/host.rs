//! What our own process can be asked, and entering the host's namespaces.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::error::Failure;
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

/// True where PID 1 is the host's and not one in our own container.
pub fn pids_are_the_hosts() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    namespace("1") != namespace("self")
}

/// Moves this process, which has one thread, into the host's mount, uts, ipc, net and cgroup
/// namespaces: those of PID 1. Programs that it runs from then on are the host's.
///
/// # Errors
/// Where PID 1 is not the host's, or the kernel does not allow it.
pub fn enter() -> Result<(), Failure> {
    if !pids_are_the_hosts() {
        return Err(Failure::new("the host cannot be seen: PID 1 is in this very container")
            .field("pid")
            .fix("add to the action:  pid: host"));
    }
    let denied = |error: rustix::io::Errno| {
        Failure::new("cannot enter the host's namespaces")
            .field("pid")
            .fix("add to the action:  pid: host, and let nothing take its privileges")
            .cause(std::io::Error::from(error))
    };
    let init = pidfd_open(Pid::INIT, PidfdFlags::empty()).map_err(denied)?;
    let spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&init), spaces).map_err(denied)
}

/// Moves this process into PID 1's cgroup, so that what ends our container's cgroup does not end
/// the programs that we run. Needs the host's PIDs and cgroup namespace.
///
/// PID 1's is there on every machine and takes processes; the root of the tree may not, where it is
/// not the real one (cgroups(7), no internal processes).
///
/// # Errors
/// Where the tree cannot be read or written.
pub fn leave_cgroup() -> std::io::Result<()> {
    let groups = std::fs::read_to_string("/proc/1/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let tops = ["/proc/1/root/sys/fs/cgroup", "/proc/1/root/sys/fs/cgroup/unified"];
    let top = tops.into_iter().find(|top| std::path::Path::new(top).join("cgroup.controllers").exists());
    // "0" is the writing process: cgroups(7).
    std::fs::write(format!("{}{path}/cgroup.procs", top.unwrap_or(tops[0])), "0")
}
