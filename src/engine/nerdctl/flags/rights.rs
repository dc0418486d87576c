//! The flags for privileges and devices. Pure.

use serde_json::Value;

use super::super::spec::{all_devices, label_json, nothing, privileged, quoted};
use super::Flags;
use crate::engine::json::{list, text};

impl Flags {
    /// Adds the flags for privileges, devices and restrictions; returns the seccomp profile, if
    /// there is one.
    pub(super) fn rights(&mut self, action: &Value) -> String {
        let spec = &action["Spec"];
        let linux = &spec["linux"];
        if spec["root"]["readonly"] == true {
            self.say("read-only", "true");
        }
        let asked_for = label_json(action, "nerdctl/host-config");
        for device in list(&asked_for["Devices"]) {
            let part = |field: &str| text(&device[field]).to_owned();
            let device =
                [part("PathOnHost"), part("PathInContainer"), part("CgroupPermissions")].join(":");
            self.say("device", quoted(&device));
        }
        if privileged(spec) {
            // This overrides no-new-privileges, which the agent sets: nerdctl has no way to say
            // both.
            self.say("privileged", "true");
            if !all_devices(spec) {
                self.say("security-opt", "privileged-without-host-devices");
            }
            return String::new();
        }
        if spec["process"]["noNewPrivileges"] == true {
            self.say("security-opt", "no-new-privileges");
        }
        self.say("cap-drop", "ALL");
        for capability in list(&spec["process"]["capabilities"]["bounding"]) {
            self.say("cap-add", text(capability));
        }
        let profile = text(&spec["process"]["apparmorProfile"]);
        self.say(
            "security-opt",
            format!("apparmor={}", if profile.is_empty() { "unconfined" } else { profile }),
        );
        if nothing(&linux["maskedPaths"]) && nothing(&linux["readonlyPaths"]) {
            self.say("security-opt", "systempaths=unconfined");
        }
        let cgroups =
            list(&spec["mounts"]).iter().find(|mount| mount["destination"] == "/sys/fs/cgroup");
        let options = cgroups.map(|mount| list(&mount["options"])).unwrap_or_default();
        if options.len() > 1 && options.iter().any(|option| option == "rw") {
            self.say("security-opt", "writable-cgroups=true");
        }
        if linux["seccomp"].is_null() {
            self.say("security-opt", "seccomp=unconfined");
            return String::new();
        }
        // This includes nerdctl's own profile: it depends on the kernel and the capabilities, and
        // cannot be named.
        self.say("security-opt", "seccomp=/dev/stdin");
        linux["seccomp"].to_string()
    }
}
