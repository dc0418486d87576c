//! The flags for what only nerdctl's own containers have, not those that the agent makes. Pure.

use serde_json::Value;

use super::super::spec::{label_json, made_by_nerdctl};
use super::Flags;
use crate::engine::json::{list, text};

impl Flags {
    /// Adds the flags for what only nerdctl's own containers have.
    pub(super) fn by_nerdctl(&mut self, action: &Value) {
        if !made_by_nerdctl(action) {
            return;
        }
        let labels = &action["Labels"];
        let health = label_json(action, "nerdctl/healthcheck");
        match list(&health["Test"]) {
            [none] if none == "NONE" => self.say("no-healthcheck", "true"),
            [shell, command] if shell == "CMD-SHELL" => {
                self.say("health-cmd", text(command));
                for (flag, field) in [
                    ("health-interval", "Interval"),
                    ("health-timeout", "Timeout"),
                    ("health-start-period", "StartPeriod"),
                ] {
                    if let Some(nanoseconds) = health[field].as_u64().filter(|time| *time != 0) {
                        self.say(flag, format!("{nanoseconds}ns"));
                    }
                }
                if let Some(retries) = health["Retries"].as_u64().filter(|retries| *retries != 0) {
                    self.say("health-retries", retries.to_string());
                }
            }
            // The exec form has no flag: it can only come from an image, and ours has none.
            _ => {}
        }
        if let Some(seconds) = labels["nerdctl/stop-timeout"].as_str() {
            self.say("stop-timeout", seconds);
        }
        if let Some(path) = labels["nerdctl/pid-file"].as_str().filter(|path| !path.is_empty()) {
            self.say("pidfile", path);
        }
        let log = label_json(action, "nerdctl/log-config");
        match text(&log["driver"]) {
            "" => {
                if let Some(uri) = labels["nerdctl/log-uri"].as_str() {
                    self.say("log-driver", uri);
                }
            }
            driver => self.say("log-driver", driver),
        }
        for (key, value) in log["opts"].as_object().into_iter().flatten() {
            self.say("log-opt", format!("{key}={}", text(value)));
        }
        let runtime = text(&action["Runtime"]["Name"]);
        if runtime != "io.containerd.runc.v2" && !runtime.is_empty() {
            self.say("runtime", runtime);
        }
        let path = text(&action["Spec"]["linux"]["cgroupsPath"]);
        let id = text(&action["ID"]);
        let of_systemd = path.strip_suffix(id).and_then(|path| path.strip_suffix(":nerdctl:"));
        let of_files = path.strip_suffix(id).and_then(|path| path.strip_suffix('/'));
        let usual = format!("/{}", text(&labels["nerdctl/namespace"]));
        if let Some(parent) =
            of_systemd.or(of_files).filter(|parent| *parent != "system.slice" && *parent != usual)
        {
            self.say("cgroup-parent", parent);
        }
    }
}
