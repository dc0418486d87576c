//! Turns the action container's inspect document into the request that creates the waiter. Pure.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::console::DEVICE;
use crate::engine::json::{list, text};
use crate::names::JOURNAL_FOLDER;

/// Where the waiter sees the folder of the engine's socket.
const SOCKETS_FOLDER: &str = "/run/engine";

/// Log drivers that keep container output on the machine, or that cannot fail.
const LOCAL_LOGS: [&str; 5] = ["json-file", "local", "none", "journald", ""];

/// What the waiter's container is made of, besides the action's document.
pub struct WaiterParts<'a> {
    /// The program's path in our image.
    pub program: &'a str,
    /// The program's only argument.
    pub argument: String,
    /// Our labels.
    pub labels: &'a [(&'a str, String)],
    /// How the action, and so the waiter, reaches the engine.
    pub way: Way<'a>,
    /// True if the socket belongs to a user other than the one we run as.
    pub foreign_socket: bool,
    /// True if the waiter may have to signal the host's PID 1.
    pub signals_init: bool,
    /// True if the waiter may have to ask the kernel to take the machine down.
    pub ends_machine: bool,
    /// True if the waiter may have to unload a kernel.
    pub unloads_kernel: bool,
    /// True if the waiter has to reach a server through a network.
    pub needs_network: bool,
    /// True if the host exposes the kernel's log as a device.
    pub has_console: bool,
}

/// A way to the engine.
#[derive(Debug, Clone, Copy)]
pub enum Way<'a> {
    /// Through a socket on a mount of the action.
    Mounted {
        /// The socket's path.
        socket: &'a Path,
        /// Mount point of the mount that holds the socket; it may lie below the action's mount.
        on: Option<&'a str>,
        /// True if mounts below it must come along: in a user namespace the kernel binds no mount
        /// without them (mount_namespaces(7), locked mounts; EINVAL).
        whole: bool,
    },
    /// Through the host's socket, by PID 1's root.
    ThroughInit,
    /// Over TCP.
    Network,
}

/// Builds the waiter with the least that can reach the engine: a read-only root, no mounts but the
/// socket's and its journal's, and no network unless it needs one, which is then the action's, or
/// the host's if the action has none. It has no capabilities, with three exceptions: to end the
/// machine; to open a socket that belongs to another user; and, if no mount leads to the socket, to
/// look at PID 1's root, for which it also has the host's PIDs (ptrace(2), "Ptrace access mode
/// checking").
///
/// Returns `None` if no mount of the action leads to the socket.
pub fn waiter(action: &Value, parts: &WaiterParts) -> Option<Value> {
    let from = &action["HostConfig"];
    let mut mounts = match parts.way {
        Way::Mounted { socket, on, whole } => socket_mounts(&action["Mounts"], socket, on, whole)?,
        Way::ThroughInit | Way::Network => Vec::new(),
    };
    // It has no name, so it is removed with the container. The mode of the folder in our image is
    // copied only if it matters, because the engine mounts the image for that (moby,
    // `populateVolume`).
    let user = text(&action["Config"]["User"]).split(':').next().unwrap_or_default();
    let is_owner = ["", "0", "root"].contains(&user) && from["UsernsMode"] != "host";
    mounts.push(
        json!({"Type": "volume", "Target": JOURNAL_FOLDER, "VolumeOptions": {"NoCopy": is_owner}}),
    );
    let through_init = matches!(parts.way, Way::ThroughInit);
    let network = match &from["NetworkMode"] {
        _ if !parts.needs_network && !matches!(parts.way, Way::Network) => "none",
        // The action's own network leads nowhere.
        own if own == "none" => "host",
        own => text(own),
    };
    // If the network is another container's, so are its names.
    let own_names = network != "none" && !network.starts_with("container:");
    let names = |field: &str| if own_names { &from[field] } else { &Value::Null };
    // Makes the namespace with nothing in it; with `none` alone, Docker 20.10 runs itself again to
    // set one up.
    let disabled = network == "none";
    // SELinux would keep an unprivileged container from the socket; without it this is ignored.
    let mut security = vec!["no-new-privileges", "label=disable"];
    if parts.signals_init || through_init {
        // Docker's AppArmor profile allows signals and ptrace only to its own containers.
        security.push("apparmor=unconfined");
    }
    if parts.unloads_kernel {
        // The engine's own profile lists reboot(2) but not kexec_file_load(2).
        security.push("seccomp=unconfined");
    }
    // Only root may signal PID 1 and call reboot(2).
    let as_root = parts.ends_machine && !is_owner;
    // Root without this cannot open a socket that belongs to another user.
    let opens_any = parts.foreign_socket || as_root;
    let capabilities = [
        (opens_any, "DAC_OVERRIDE"),
        (through_init, "SYS_PTRACE"),
        (parts.ends_machine, "SYS_BOOT"),
    ];
    let capabilities: Vec<_> =
        capabilities.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name).collect();
    // The log goes to a server, which may be away, so it also goes to the console.
    let keeps = LOCAL_LOGS.contains(&text(&from["LogConfig"]["Type"]));
    let console =
        json!({"PathOnHost": DEVICE, "PathInContainer": DEVICE, "CgroupPermissions": "w"});
    let devices: Vec<Value> =
        (parts.has_console && !keeps).then_some(console).into_iter().collect();
    let mut labels = Map::new();
    labels
        .extend(parts.labels.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
    Some(json!({
        // The image's ID: its tag may move while we wait.
        "Image": action["Image"],
        "Entrypoint": [parts.program],
        "Cmd": [parts.argument],
        "User": if as_root { json!("0:0") } else { action["Config"]["User"].clone() },
        // The default, set explicitly: without it, any signal through the engine, such as the word,
        // makes the engine give up starting the waiter again (moby, `killWithSignal`; seen on 20.10
        // and moby 2).
        "StopSignal": "SIGTERM",
        "NetworkDisabled": disabled,
        // A repackaged image may have a health check; the waiter's own logs tell its state.
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
            // A waiter that ends before it is done is started again, however often, and continues
            // from its journal. A waiter that fails prevents this itself.
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

/// Returns the mount of the action that holds `socket`, read-only: connecting needs no more. If it
/// is the socket alone, its folder is mounted too: an engine that restarts makes a new socket, and
/// the mount keeps the old one. Mounts below the folder are left out: they are not the waiter's,
/// and before Docker 25 they were writable (moby, `BindOptions.NonRecursive`, API 1.40).
fn socket_mounts(
    mounts: &Value,
    socket: &Path,
    on: Option<&str>,
    whole: bool,
) -> Option<Vec<Value>> {
    let holds = |mount: &&Value| socket.starts_with(text(&mount["Destination"]));
    let mount =
        list(mounts).iter().filter(holds).max_by_key(|mount| text(&mount["Destination"]).len())?;
    let source = if mount["Type"] == "volume" { &mount["Name"] } else { &mount["Source"] };
    let mut own = json!({"Type": mount["Type"], "Source": source, "Target": mount["Destination"], "ReadOnly": true});
    if !whole && mount["Type"] == "bind" && on == mount["Destination"].as_str() {
        own["BindOptions"] = json!({"NonRecursive": true});
    }
    let mut all = vec![own];
    let folder = Path::new(text(source)).parent().filter(|_| mount["Type"] == "bind");
    let alone = Path::new(text(&mount["Destination"])) == socket;
    // If the socket lies in the root, do not mount the whole machine.
    if let Some(folder) = folder.filter(|folder| alone && folder.parent().is_some()) {
        all.push(json!({
            "Type": "bind", "Source": folder, "Target": SOCKETS_FOLDER, "ReadOnly": true,
            "BindOptions": {"NonRecursive": !whole},
        }));
    }
    Some(all)
}

/// Returns the path of the engine's socket in the waiter, for when the action's own path no longer
/// leads anywhere.
pub fn socket_after_restart(action: &Value, socket: &Path) -> Option<PathBuf> {
    let mounts = socket_mounts(&action["Mounts"], socket, None, false)?;
    let [_, _] = mounts.as_slice() else { return None };
    let mount = list(&action["Mounts"])
        .iter()
        .find(|mount| Path::new(text(&mount["Destination"])) == socket)?;
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
            ends_machine: false,
            unloads_kernel: false,
            needs_network: false,
            has_console: true,
        };
        let mounted = |socket: &'static str| Way::Mounted {
            socket: Path::new(socket),
            on: Some(socket),
            whole: false,
        };
        let made = waiter(&action, &parts(mounted("/var/run/docker.sock"))).unwrap();
        let host = &made["HostConfig"];
        assert_eq!(
            host["Mounts"],
            json!([
                {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/var/run/docker.sock", "ReadOnly": true,
                    "BindOptions": {"NonRecursive": true}},
                {"Type": "bind", "Source": "/var/run", "Target": "/run/engine", "ReadOnly": true,
                    "BindOptions": {"NonRecursive": true}},
                {"Type": "volume", "Target": "/journal", "VolumeOptions": {"NoCopy": true}},
            ])
        );
        let later = |source: &str| {
            let mut action = action.clone();
            action["Mounts"][1]["Source"] = json!(source);
            socket_after_restart(&action, Path::new("/var/run/docker.sock"))
        };
        assert_eq!(later("/run/docker/engine.sock"), Some("/run/engine/engine.sock".into()));
        assert_eq!(later("/docker.sock"), None);
        for (user, userns, copied) in
            [("0:0", "", false), ("root", "", false), ("1000", "", true), ("0", "host", true)]
        {
            let mut action = action.clone();
            action["Config"]["User"] = user.into();
            action["HostConfig"]["UsernsMode"] = userns.into();
            let made = waiter(&action, &parts(Way::Network)).unwrap();
            assert_eq!(
                made["HostConfig"]["Mounts"][0]["VolumeOptions"]["NoCopy"], !copied,
                "{user} {userns}"
            );
        }
        assert_eq!(host["Devices"], json!([]));
        let mut elsewhere = action.clone();
        elsewhere["HostConfig"]["LogConfig"]["Type"] = "syslog".into();
        let made = waiter(&elsewhere, &parts(mounted("/var/run/docker.sock"))).unwrap();
        assert_eq!(made["HostConfig"]["Devices"][0]["PathOnHost"], "/dev/kmsg");
        assert_eq!(
            (&host["NetworkMode"], &host["CapDrop"], &host["Privileged"]),
            (&json!("none"), &json!(["ALL"]), &Value::Null)
        );
        // A waiter that ends the machine is root, with the host's PIDs and one more capability.
        for (user, capabilities) in
            [("0", json!(["SYS_BOOT"])), ("1000", json!(["DAC_OVERRIDE", "SYS_BOOT"]))]
        {
            let mut action = action.clone();
            action["Config"]["User"] = user.into();
            let made = waiter(
                &action,
                &WaiterParts { signals_init: true, ends_machine: true, ..parts(Way::Network) },
            )
            .unwrap();
            let host = &made["HostConfig"];
            assert_eq!(
                (&host["CapAdd"], &host["PidMode"]),
                (&capabilities, &json!("host")),
                "{user}"
            );
            assert_eq!(made["User"], if user == "0" { "0" } else { "0:0" });
        }
        // The socket's folder lies on a mount below the action's, which has to come along.
        let below = Way::Mounted {
            socket: Path::new("/host/run/docker.sock"),
            on: Some("/host/run"),
            whole: false,
        };
        let made = waiter(&action, &parts(below)).unwrap();
        assert_eq!(
            made["HostConfig"]["Mounts"][0],
            json!({"Type": "bind", "Source": "/", "Target": "/host", "ReadOnly": true})
        );
        assert_eq!(
            waiter(&action, &parts(Way::Network)).unwrap()["HostConfig"]["NetworkMode"],
            "host"
        );
        assert_eq!(waiter(&action, &parts(mounted("/elsewhere.sock"))), None);
    }
}
