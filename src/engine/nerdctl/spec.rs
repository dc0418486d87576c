//! Reads a native document: its labels and its OCI specification. Pure.

use serde_json::Value;

use crate::engine::json::{cleaned, list, text};
use crate::login;

/// Mounts that nerdctl or containerd gives to every container.
const USUAL_MOUNTS: [&str; 7] =
    ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
/// PATH as containerd sets it if neither image nor action does (`oci.WithDefaultPathEnv`).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// True for a container that nerdctl made; the agent's containers have only some of its labels.
pub fn made_by_nerdctl(action: &Value) -> bool {
    action["Labels"].get("nerdctl/networks").is_some()
}

/// True if the container has a namespace of its own of this kind.
pub fn has_namespace(spec: &Value, kind: &str) -> bool {
    list(&spec["linux"]["namespaces"]).iter().any(|space| space["type"] == kind)
}

/// True if really privileged, not merely with all capabilities: nothing of /proc is hidden and /sys
/// is writable.
pub fn privileged(spec: &Value) -> bool {
    let linux = &spec["linux"];
    let sys = list(&spec["mounts"]).iter().find(|mount| mount["destination"] == "/sys");
    // If a volume lies on /sys, access to all devices tells as well.
    let writable = match sys.filter(|sys| is_usual(sys)) {
        Some(sys) => list(&sys["options"]).iter().any(|option| option == "rw"),
        None => all_devices(spec),
    };
    writable
        && linux["seccomp"].is_null()
        && nothing(&linux["maskedPaths"])
        && nothing(&linux["readonlyPaths"])
}

/// True if every device is allowed.
pub fn all_devices(spec: &Value) -> bool {
    list(&spec["linux"]["resources"]["devices"]).iter().any(|rule| {
        rule["allow"] == true
            && rule["access"] == "rwm"
            && rule["major"].is_null()
            && rule["type"].as_str().is_none_or(|kind| kind == "a")
    })
}

/// True for a mount that every container has; false if a volume lies in its place.
pub fn is_usual(mount: &Value) -> bool {
    USUAL_MOUNTS.contains(&cleaned(text(&mount["destination"])).as_str())
        && mount["type"] != "bind"
        && mount["type"] != "none"
}

/// True if missing, zero or empty, which is how a spec writes "not set".
pub fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(nothing),
    }
}

/// Returns a label that holds JSON; null if it is missing.
pub fn label_json(action: &Value, key: &str) -> Value {
    action["Labels"][key]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Returns the volumes and tmpfs that nerdctl was asked for: from one label with them all, or since
/// 2.3.2 from one numbered label for each.
pub fn mounts_asked_for(action: &Value) -> Vec<Value> {
    let all = label_json(action, "nerdctl/mounts");
    if !list(&all).is_empty() {
        return list(&all).to_vec();
    }
    (0..)
        .map(|number| label_json(action, &format!("nerdctl/mounts.{number}")))
        .take_while(|mount| !mount.is_null())
        .collect()
}

/// Returns the action's variables, without our own image's and those that engines add.
pub fn environment<'a>(action: &'a Value, own: &'a Value) -> impl Iterator<Item = &'a str> {
    let hostname = format!("HOSTNAME={}", text(&action["Labels"]["nerdctl/hostname"]));
    let by_nerdctl = made_by_nerdctl(action);
    let terminal = action["Spec"]["process"]["terminal"] == true;
    let all = list(&action["Spec"]["process"]["env"]);
    let last = all.len().saturating_sub(1);
    all.iter().map(text).enumerate().filter_map(move |(index, variable)| {
        let added = variable == DEFAULT_PATH
            || (by_nerdctl && index == last && variable == hostname)
            || (terminal && variable == "TERM=xterm");
        (!added
            && !login::is_of_login(variable)
            && !list(&own["Env"]).iter().any(|entry| entry == variable))
        .then_some(variable)
    })
}

/// Quotes a flag's value that nerdctl reads as a line of CSV (pflag `StringSlice`).
pub fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// Returns the last value of the variable HOSTNAME of an action that nerdctl did not make.
pub fn hostname_variable(action: &Value) -> Option<&str> {
    let all = list(&action["Spec"]["process"]["env"]).iter().rev().map(text);
    all.filter(|_| !made_by_nerdctl(action)).find_map(|variable| variable.strip_prefix("HOSTNAME="))
}

/// True if the kernel takes this hostname (sethostname(2)) and it fits in a line of /etc/hosts,
/// whether or not a resolver takes it as a name: Docker asks no more of the variable.
pub fn is_hostname(text: &str) -> bool {
    (1..=64).contains(&text.len()) && !text.contains(char::is_control)
}
