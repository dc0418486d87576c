//! Builds the nerdctl call that creates and starts the waiter. Pure.

use serde_json::Value;

use super::flags::Creation;
use crate::engine::json::{cleaned, list, text};
use crate::names::WAITER_PROGRAM;

/// What entering the host's namespaces needs (setns(2), ptrace(2) for /proc/1).
const CAPABILITIES: [&str; 3] = ["SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"];

/// What the waiter's container is made of.
pub struct WaiterParts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The image, which is our own.
    pub image: &'a str,
    /// The program's only argument.
    pub argument: &'a str,
    /// Our labels.
    pub labels: &'a [(&'a str, String)],
    /// The action's volumes that it needs, as values of `--volume`.
    pub volumes: Vec<String>,
    /// True if it enters the host's namespaces, and so needs nothing in its own.
    pub in_host: bool,
    /// True if it may have to ask the kernel to take the machine down.
    pub ends_machine: bool,
    /// True if it may have to unload a kernel.
    pub unloads_kernel: bool,
    /// True if it has to reach a server through a network.
    pub needs_network: bool,
}

/// Builds the call that creates and starts the waiter. The waiter waits for the user container, so
/// one call is enough, which saves a process.
pub fn waiter(parts: &WaiterParts<'_>) -> Creation {
    let mut arguments: Vec<String> =
        ["run", "--detach", "--name", parts.name].map(str::to_owned).into();
    let mut say = |flag: &str, value: &str| arguments.extend([flag.to_owned(), value.to_owned()]);
    for (key, value) in parts.labels {
        say("--label", &format!("{key}={value}"));
    }
    say("--cap-drop", "ALL");
    CAPABILITIES.into_iter().for_each(|capability| say("--cap-add", capability));
    if parts.ends_machine {
        // Calling reboot(2) needs this too.
        say("--cap-add", "SYS_BOOT");
    }
    say("--security-opt", "apparmor=unconfined");
    say("--security-opt", "no-new-privileges");
    if parts.unloads_kernel {
        // nerdctl's own profile lists reboot(2) but not kexec_file_load(2).
        say("--security-opt", "seccomp=unconfined");
    }
    say("--pid", "host");
    // In the host's namespaces it has the host's network anyway.
    say("--network", if parts.needs_network && !parts.in_host { "host" } else { "none" });
    say("--cgroupns", "host");
    say("--log-driver", "json-file");
    say("--pull", "never");
    // A waiter that ends before it is done is started again, however often, and continues from its
    // journal. A waiter that fails prevents this itself.
    say("--restart", "on-failure");
    say("--entrypoint", WAITER_PROGRAM);
    parts.volumes.iter().for_each(|volume| say("--volume", volume));
    if parts.in_host {
        arguments.push("--read-only".into());
    }
    arguments.extend([parts.image, "--", parts.argument].map(str::to_owned));
    Creation { arguments, input: String::new() }
}

/// Returns the action's volumes on these places, as values of `--volume`.
pub fn volumes_on(action: &Value, places: &[&str]) -> Vec<String> {
    let on = list(&action["Spec"]["mounts"])
        .iter()
        .filter(|mount| places.contains(&cleaned(text(&mount["destination"])).as_str()));
    on.map(|mount| format!("{}:{}", text(&mount["source"]), cleaned(text(&mount["destination"]))))
        .collect()
}
