//! The engine's socket, as the action sees it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The template lines that give access to the host's socket.
pub const SOCKET_LINES: &str =
    "add to the action:  pid: host  or  volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]";

/// True if the socket's owner is not the user that we run as.
pub fn belongs_to_another(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw())
}
