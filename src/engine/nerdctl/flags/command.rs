//! What runs in the container, and before it. Pure.

use serde_json::{Value, json};

use super::Flags;
use crate::engine::json::{list, text};

impl Flags {
    /// Sets what runs before the command; returns the user's words: what our own image does not
    /// say.
    pub(super) fn command(&mut self, spec: &Value, config: &Value) -> Vec<String> {
        let mut words = list(&spec["process"]["args"]);
        if let [first, second, rest @ ..] = words
            && second == "--"
            && let Some(init) =
                list(&spec["mounts"]).iter().find(|mount| mount["destination"] == *first)
        {
            self.say("init-binary", text(&init["source"]));
            words = rest;
        }
        let at =
            |place: &str| list(&spec["mounts"]).iter().find(|mount| mount["destination"] == place);
        if at("/sys/fs/cgroup").is_some_and(|mount| mount["options"] == json!(["rw"])) {
            self.say("systemd", "always");
        }
        // An image made from ours may start our program by other words, and have arguments.
        let entrypoint = list(&config["Entrypoint"]);
        let words = match words.strip_prefix(entrypoint) {
            Some(arguments) if !entrypoint.is_empty() => arguments,
            _ => words.get(1..).unwrap_or_default(),
        };
        let given = Some(words).filter(|words| *words != list(&config["Cmd"]));
        given.unwrap_or_default().iter().map(|word| text(word).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_words_are_left() {
        let own = json!({"Entrypoint": ["/sbin/tini", "--", "/waitdaemon"], "Cmd": ["reboot"]});
        let plain = json!({"Entrypoint": ["/waitdaemon"]});
        for (config, args, words) in [
            (&plain, json!(["/waitdaemon", "reboot", "-d", "1"]), vec!["reboot", "-d", "1"]),
            (&plain, json!(["/waitdaemon"]), vec![]),
            (&plain, json!(["/elsewhere", "halt"]), vec!["halt"]),
            (&own, json!(["/sbin/tini", "--", "/waitdaemon", "halt"]), vec!["halt"]),
            (&own, json!(["/sbin/tini", "--", "/waitdaemon", "reboot"]), vec![]),
            (&Value::Null, json!(["/waitdaemon", "x"]), vec!["x"]),
        ] {
            let spec = json!({"process": {"args": args}});
            assert_eq!(Flags(Vec::new()).command(&spec, config), words, "{spec}");
        }
    }
}
