//! From the action container's inspect document to the request that creates the waiter. Pure.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::console::DEVICE;
use crate::engine::json::{list, text};
use crate::names::JOURNAL_FOLDER;

/// Where the waiter sees the folder of the engine's socket.
const SOCKETS_FOLDER: &str = "/run/engine";

/// Log drivers that keep what containers print on the machine, or that cannot fail.
const LOCAL_LOGS: [&str; 5] = ["json-file", "local", "none", "journald", ""];

/// What the waiter's container is made of, besides the action's document.
pub struct WaiterParts<'a> {
    /// The program's path in our image.
    pub program: &'a str,
    /// The program's only argument.
    pub argument: String,
    /// Our labels.
    pub labels: &'a [(&'a str, String)],
    /// How the action reaches the engine, and so the waiter.
    pub way: Way<'a>,
    /// True if the socket belongs to another user than the one we run as.
    pub foreign_socket: bool,
    /// True if the waiter may have to signal the host's PID 1.
    pub signals_init: bool,
    /// True if it awaits a signal that comes through a network.
    pub needs_network: bool,
    /// True if the host has the kernel's log as a device.
    pub has_console: bool,
}

/// A way to the engine.
#[derive(Debug, Clone, Copy)]
pub enum Way<'a> {
    /// By a socket at this path, on a mount of the action.
    Mounted(&'a Path),
    /// By the host's socket, through PID 1's root.
    ThroughInit,
    /// By TCP.
    Network,
}

/// The waiter: the least that can reach the engine. No network unless it needs one, which is the action's then, a
/// read-only root, no capability, no mount but the socket's and its journal's. Where no mount leads to the socket it has
/// the host's PIDs and what looking at PID 1's root takes (ptrace(2), "Ptrace access mode checking").
///
/// Returns `None` if no mount of the action leads to the socket.
pub fn waiter(action: &Value, parts: &WaiterParts) -> Option<Value> {
    let from = &action["HostConfig"];
    let mut mounts = match parts.way {
        Way::Mounted(socket) => socket_mounts(&action["Mounts"], socket)?,
        Way::ThroughInit | Way::Network => Vec::new(),
    };
    // Without a name: it is removed with the container.
    mounts.push(json!({"Type": "volume", "Target": JOURNAL_FOLDER}));
    let through_init = matches!(parts.way, Way::ThroughInit);
    let network = match &from["NetworkMode"] {
        _ if !parts.needs_network && !matches!(parts.way, Way::Network) => "none",
        // There is nothing to be reached from the action's own.
        own if own == "none" => "host",
        own => text(own),
    };
    // Where the network is another container's, its names are too.
    let own_names = network != "none" && !network.starts_with("container:");
    let names = |field: &str| if own_names { &from[field] } else { &Value::Null };
    // Makes the namespace and nothing in it; `none` alone has Docker 20.10 run itself again to set one up.
    let disabled = network == "none";
    // SELinux would keep an unprivileged container from the socket; without SELinux it is ignored.
    let mut security = vec!["no-new-privileges", "label=disable"];
    if parts.signals_init || through_init {
        // Docker's AppArmor profile allows signals and ptrace to its own containers only.
        security.push("apparmor=unconfined");
    }
    // Root without it cannot open a socket that belongs to another user.
    let capabilities = [(parts.foreign_socket, "DAC_OVERRIDE"), (through_init, "SYS_PTRACE")];
    let capabilities: Vec<_> = capabilities.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name).collect();
    // What it says goes to a server, which may be away: to the console, too.
    let keeps = LOCAL_LOGS.contains(&text(&from["LogConfig"]["Type"]));
    let console = json!({"PathOnHost": DEVICE, "PathInContainer": DEVICE, "CgroupPermissions": "w"});
    let devices: Vec<Value> = (parts.has_console && !keeps).then_some(console).into_iter().collect();
    let mut labels = Map::new();
    labels.extend(parts.labels.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
    Some(json!({
        // The image's ID: its tag may move while we wait.
        "Image": action["Image"],
        "Entrypoint": [parts.program],
        "Cmd": [parts.argument],
        "User": action["Config"]["User"],
        // The default, said aloud: without it any signal through the engine, such as the word, makes the engine give up
        // starting it again (moby, `killWithSignal`; seen on 20.10 and moby 2).
        "StopSignal": "SIGTERM",
        "NetworkDisabled": disabled,
        // A repackaged image may have one; the waiter's own logs say how it is.
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": labels,
        "HostConfig": {
            "NetworkMode": network,
            "Dns": names("Dns"),
            "DnsOptions": names("DnsOptions"),
            "DnsSearch": names("DnsSearch"),
            "ExtraHosts": names("ExtraHosts"),
            "Mounts": mounts,
            "ReadonlyRootfs": true,
            // Ended without being done it is started again, however often, and goes on from its journal; where it fails it
            // keeps that from happening.
            "RestartPolicy": {"Name": "on-failure"},
            "Devices": devices,
            "CapDrop": ["ALL"],
            "CapAdd": capabilities,
            "SecurityOpt": security,
            "PidMode": if parts.signals_init || through_init { "host" } else { "" },
            "GroupAdd": from["GroupAdd"],
            "UsernsMode": from["UsernsMode"],
            "Runtime": from["Runtime"],
            "CgroupParent": from["CgroupParent"],
            "LogConfig": from["LogConfig"],
        },
    }))
}

/// The mount of the action that holds `socket`, read-only: connecting needs no more. Where it is the socket
/// alone, its folder too: an engine that restarts makes a new socket, and the mount keeps the old one.
fn socket_mounts(mounts: &Value, socket: &Path) -> Option<Vec<Value>> {
    let holds = |mount: &&Value| socket.starts_with(text(&mount["Destination"]));
    let mount = list(mounts).iter().filter(holds).max_by_key(|mount| text(&mount["Destination"]).len())?;
    let source = if mount["Type"] == "volume" { &mount["Name"] } else { &mount["Source"] };
    let mut all =
        vec![json!({"Type": mount["Type"], "Source": source, "Target": mount["Destination"], "ReadOnly": true})];
    let folder = Path::new(text(source)).parent().filter(|_| mount["Type"] == "bind");
    let alone = Path::new(text(&mount["Destination"])) == socket;
    // Not the whole machine, for a socket in its root.
    if let Some(folder) = folder.filter(|folder| alone && folder.parent().is_some()) {
        all.push(json!({"Type": "bind", "Source": folder, "Target": SOCKETS_FOLDER, "ReadOnly": true}));
    }
    Some(all)
}

/// The path of the engine's socket in the waiter where the action's own path leads nowhere any more.
pub fn socket_after_restart(action: &Value, socket: &Path) -> Option<PathBuf> {
    let mounts = socket_mounts(&action["Mounts"], socket)?;
    let [_, _] = mounts.as_slice() else { return None };
    let mount = list(&action["Mounts"]).iter().find(|mount| Path::new(text(&mount["Destination"])) == socket)?;
    Some(Path::new(SOCKETS_FOLDER).join(Path::new(text(&mount["Source"])).file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waiter_gets_the_sockets_mounts_and_nothing_else() {
        let mut action = json!({"Id": "1", "Image": "sha256:1", "Config": {"User": "0"},
            "HostConfig": {"Privileged": true, "NetworkMode": "host", "LogConfig": {"Type": "local"}}});
        action["Mounts"] = json!([
            {"Type": "bind", "Source": "/var/run", "Destination": "/var/run"},
            {"Type": "bind", "Source": "/var/run/docker.sock", "Destination": "/var/run/docker.sock"},
            {"Type": "bind", "Source": "/", "Destination": "/host"},
        ]);
        let parts = |way| WaiterParts {
            program: "/waiter",
            argument: "{}".into(),
            labels: &[],
            way,
            foreign_socket: false,
            signals_init: false,
            needs_network: false,
            has_console: true,
        };
        let made = waiter(&action, &parts(Way::Mounted(Path::new("/var/run/docker.sock")))).unwrap();
        let host = &made["HostConfig"];
        assert_eq!(
            host["Mounts"],
            json!([
                {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/var/run/docker.sock", "ReadOnly": true},
                {"Type": "bind", "Source": "/var/run", "Target": "/run/engine", "ReadOnly": true},
                {"Type": "volume", "Target": "/journal"},
            ])
        );
        let later = |source: &str| {
            let mut action = action.clone();
            action["Mounts"][1]["Source"] = json!(source);
            socket_after_restart(&action, Path::new("/var/run/docker.sock"))
        };
        assert_eq!(later("/run/docker/engine.sock"), Some("/run/engine/engine.sock".into()));
        assert_eq!(later("/docker.sock"), None);
        assert_eq!(host["Devices"], json!([]));
        let mut elsewhere = action.clone();
        elsewhere["HostConfig"]["LogConfig"]["Type"] = "syslog".into();
        let made = waiter(&elsewhere, &parts(Way::Mounted(Path::new("/var/run/docker.sock")))).unwrap();
        assert_eq!(made["HostConfig"]["Devices"][0]["PathOnHost"], "/dev/kmsg");
        assert_eq!(
            (&host["NetworkMode"], &host["CapDrop"], &host["Privileged"]),
            (&json!("none"), &json!(["ALL"]), &Value::Null)
        );
        assert_eq!(waiter(&action, &parts(Way::Network)).unwrap()["HostConfig"]["NetworkMode"], "host");
        assert_eq!(waiter(&action, &parts(Way::Mounted(Path::new("/elsewhere.sock")))), None);
    }
}
