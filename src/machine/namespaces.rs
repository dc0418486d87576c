//! The host, as a container with the host's PIDs sees it, and entering the host's namespaces.

use std::path::{Component, Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::procfs;
use crate::error::Failure;

/// How many links the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Returns the path of a block device by major and minor number (sysfs, `uevent`); `None` if there
/// is no such device.
pub fn block_device(major: u64, minor: u64) -> Option<String> {
    let event = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    event.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(|name| format!("/dev/{name}"))
}

/// True if mounts below this path show in copies of its mount (mountinfo); false if the path does
/// not exist.
pub fn propagates(path: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    std::fs::canonicalize(path).is_ok_and(|path| procfs::propagates(&mounts, &path))
}

/// Returns the mount point of one of our paths; `None` if the path does not exist.
pub fn mount_point(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    procfs::mount_point(&mounts, &std::fs::canonicalize(path).ok()?)
}

/// True if this process is in its own user namespace, in which not every user has the same number
/// as outside (user_namespaces(7)).
pub fn has_own_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// True if PID 1 is the host's and not our own container's.
pub fn pids_are_the_hosts() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    namespace("1") != namespace("self")
}

/// Returns an existing path of the host, as this process reaches it through PID 1's root; `None` if
/// there is none, or PID 1 is not the host's. Links on the way are resolved as the host's; the
/// kernel would follow them from our own root.
pub fn path_through_init(path: &Path) -> Option<PathBuf> {
    if !pids_are_the_hosts() {
        return None;
    }
    in_root(Path::new("/proc/1/root"), path)
}

/// True if the host has this device, as far as this process can see the host's devices.
pub fn has_device(path: &Path) -> bool {
    path.exists() || path_through_init(path).is_some()
}

/// Resolves a path in any root, as [`path_through_init`] does.
fn in_root(root: &Path, path: &Path) -> Option<PathBuf> {
    let names = |path: &Path| {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>()
    };
    let (mut todo, mut found, mut links) = (names(path), root.to_owned(), 0);
    while let Some(name) = todo.pop() {
        match Path::new(&name).components().next()? {
            Component::RootDir => found = root.to_owned(),
            Component::ParentDir if found == root => {}
            Component::ParentDir => drop(found.pop()),
            Component::Normal(name) => {
                let next = found.join(name);
                match std::fs::read_link(&next) {
                    Ok(target) if links < MAX_LINKS => {
                        links += 1;
                        todo.extend(names(&target));
                    }
                    Ok(_) => return None,
                    Err(_) => found = next,
                }
            }
            _ => {}
        }
    }
    found.exists().then_some(found)
}

/// True if a process that we see has this word as an argument, alone or as `--flag=word`
/// (proc_pid_cmdline(5)).
pub fn is_an_argument(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok()).any(
        |arguments| {
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments.any(|argument| {
                argument.rsplit(|byte| *byte == b'=').next() == Some(word.as_bytes())
            })
        },
    )
}

/// Moves this single-threaded process into the host's mount, uts, ipc, net and cgroup namespaces:
/// those of PID 1. Programs that it runs from then on are the host's.
///
/// # Errors
/// If PID 1 is not the host's, or the kernel does not allow it.
pub fn enter() -> Result<(), Failure> {
    if !pids_are_the_hosts() {
        return Err(Failure::new("the host is not visible: PID 1 belongs to this container")
            .field("pid")
            .fix("add to the action:  pid: host"));
    }
    let denied = |error: rustix::io::Errno| {
        Failure::new("cannot enter the host's namespaces")
            .field("pid")
            .fix("add to the action:  pid: host, and do not drop its privileges")
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

/// Moves this process into PID 1's cgroups, so that ending our container's cgroup does not end the
/// programs that we run. Needs the host's PIDs and cgroup namespace.
///
/// PID 1's cgroups exist on every machine and accept processes; the root of the tree may not, if it
/// is not the real one (cgroups(7), no internal processes).
///
/// # Errors
/// If the tree cannot be read, or none of its cgroups can be joined.
pub fn leave_cgroup() -> std::io::Result<()> {
    let groups = std::fs::read_to_string("/proc/1/cgroup")?;
    let mut result = Err(std::io::Error::other("PID 1 is in no cgroup"));
    for (hierarchy, path) in procfs::cgroups(&groups) {
        let top = "/proc/1/root/sys/fs/cgroup";
        // Version 2 is the whole tree, or lies beside version 1, which has a folder for each
        // hierarchy.
        let tops = [format!("{top}/{hierarchy}"), format!("{top}/unified")];
        let Some(top) = tops.iter().find(|top| Path::new(top).join("cgroup.procs").exists()) else {
            continue;
        };
        // "0" is the writing process: cgroups(7).
        let joined = std::fs::write(format!("{top}{path}/cgroup.procs"), "0");
        result = if result.is_ok() { result } else { joined };
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_places_of_the_same_root() {
        let root = std::env::temp_dir().join(format!("waitdaemon-links-{}", std::process::id()));
        fs::create_dir_all(root.join("run/docker")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        fs::write(root.join("run/docker/docker.sock"), "").unwrap();
        for (target, link) in [
            ("/run", "var/run"),
            ("../run", "var/up"),
            ("/loop", "loop"),
            ("../../../run", "var/out"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let there = Some(root.join("run/docker/docker.sock"));
        for path in ["/run", "/var/run", "/var/up", "/var/out", "/../run", "/var/../run/./"] {
            assert_eq!(
                in_root(&root, &Path::new(path).join("docker/docker.sock")),
                there,
                "{path}"
            );
        }
        assert_eq!(in_root(&root, Path::new("/loop/x")), None);
        assert_eq!(in_root(&root, Path::new("/run/docker.sock")), None);
        fs::remove_dir_all(root).unwrap();
    }
}
