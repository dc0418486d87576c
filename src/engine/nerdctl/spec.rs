//! Reading a native document: its labels and its OCI specification. Pure.

use serde_json::Value;

use crate::engine::json::{cleaned, list, text};

/// Mounts that every container has, by nerdctl or containerd.
const USUAL_MOUNTS: [&str; 7] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
/// True for a container that nerdctl made; the agent's have only some of its labels.
pub fn made_by_nerdctl(action: &Value) -> bool {
    action["Labels"].get("nerdctl/networks").is_some()
}

/// Really privileged: nothing of /proc is hidden and /sys can be written, not merely all capabilities.
pub fn privileged(spec: &Value) -> bool {
    let linux = &spec["linux"];
    let sys = list(&spec["mounts"]).iter().find(|mount| mount["destination"] == "/sys");
    // Where a volume lies on /sys, all devices tell as well.
    let writable = match sys.filter(|sys| is_usual(sys)) {
        Some(sys) => list(&sys["options"]).iter().any(|option| option == "rw"),
        None => all_devices(spec),
    };
    writable && linux["seccomp"].is_null() && nothing(&linux["maskedPaths"]) && nothing(&linux["readonlyPaths"])
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

/// True for a mount that every container has: not where a volume lies on its place.
pub fn is_usual(mount: &Value) -> bool {
    USUAL_MOUNTS.contains(&cleaned(text(&mount["destination"])).as_str())
        && mount["type"] != "bind"
        && mount["type"] != "none"
}

/// Missing, zero or empty: what a spec writes for "not set".
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

/// A label that holds JSON; null where it is missing.
pub fn label_json(action: &Value, key: &str) -> Value {
    action["Labels"][key].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The variable HOSTNAME of an action that nerdctl did not make: its last value.
pub fn hostname_variable(action: &Value) -> Option<&str> {
    let all = list(&action["Spec"]["process"]["env"]).iter().rev().map(text);
    all.filter(|_| !made_by_nerdctl(action)).find_map(|variable| variable.strip_prefix("HOSTNAME="))
}

/// What the kernel takes as a hostname and resolvers as a name (hostname(7)).
pub fn is_hostname(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (1..=64).contains(&text.len()) && text.chars().all(known) && !text.starts_with(['-', '.'])
}
