//! The engine's socket, as the action sees it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::machine::namespaces;

/// The template lines that give access to the host's socket.
pub const SOCKET_LINES: &str =
    "add to the action:  pid: host  or  volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]";

/// Where the host's engine listens, on HookOS and others.
const HOSTS_SOCKETS: [&str; 3] =
    ["/var/run/docker.sock", "/run/docker/docker.sock", "/var/run/docker/docker.sock"];

/// True if there is a socket at this path.
pub fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Returns the host's Docker sockets, as this process reaches them through PID 1.
pub fn of_host() -> impl Iterator<Item = PathBuf> {
    let through_init = |path| namespaces::path_through_init(Path::new(path));
    HOSTS_SOCKETS.into_iter().filter_map(through_init).filter(|path| is_socket(path))
}

/// True if the socket's owner is not the user that we run as.
pub fn belongs_to_another(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw())
}
