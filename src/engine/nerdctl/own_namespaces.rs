//! nerdctl in our own namespaces: which program to run, and what it needs.

use std::path::Path;

use crate::error::Failure;

/// What nerdctl needs in our own namespaces, at the same places as on the host.
pub const VOLUMES: [&str; 5] = [
    "/run/containerd/containerd.sock",
    "/var/lib/containerd",
    "/var/lib/nerdctl",
    "/opt/cni/bin",
    "/etc/cni/net.d",
];
/// nerdctl in the image variant that bundles it. CaptainOS has it at the same place, which its
/// hooks need: they run on the host (nerdctl 2.2.1).
const BUNDLED: &str = "/usr/local/bin/nerdctl";
/// The host's nerdctl, seen from a container with the host's PIDs and from the host itself.
const HOSTS: &str = "/proc/1/root/usr/local/bin/nerdctl";

/// Returns the nerdctl to run in our own namespaces, if everything it needs is there.
///
/// # Errors
/// If something is missing.
pub fn own_program() -> Result<&'static str, Failure> {
    let missing: Vec<&str> = VOLUMES.into_iter().filter(|path| !Path::new(path).exists()).collect();
    if !missing.is_empty() {
        let what =
            format!("with NERDCTL_HOST false, nerdctl lacks these volumes: {}", missing.join(", "));
        let lines: Vec<String> = missing.iter().map(|path| format!("{path}:{path}")).collect();
        let fix =
            format!("add to the action's volumes: {}; or leave NERDCTL_HOST out", lines.join(", "));
        return Err(Failure::new(what).field("volumes").fix(fix));
    }
    let there = |path: &&str| Path::new(path).exists();
    [BUNDLED, HOSTS].into_iter().find(there).ok_or_else(|| {
        Failure::new("with NERDCTL_HOST false there is no nerdctl: this image has none, and none of the host's is visible at /usr/local/bin/nerdctl")
            .field("image")
            .fix("use the image variant that bundles nerdctl (tag ending in -nerdctl), add pid: host, or leave NERDCTL_HOST out")
    })
}
