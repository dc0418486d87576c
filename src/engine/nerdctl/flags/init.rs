//! What runs before the command. Pure.

use serde_json::{Value, json};

use super::Flags;
use crate::engine::json::{list, text};

impl Flags {
    /// Sets the init that nerdctl mounts, and systemd's mounts.
    pub(super) fn init(&mut self, spec: &Value) {
        let at = |place: &Value| {
            list(&spec["mounts"]).iter().find(|mount| mount["destination"] == *place)
        };
        if let [first, second, ..] = list(&spec["process"]["args"])
            && second == "--"
            && let Some(init) = at(first)
        {
            self.say("init-binary", text(&init["source"]));
        }
        if at(&"/sys/fs/cgroup".into()).is_some_and(|mount| mount["options"] == json!(["rw"])) {
            self.say("systemd", "always");
        }
    }
}
