//! From the action container's native document (its OCI spec) to nerdctl's arguments. Pure.
//!
//! What a spec says and nerdctl has no flag for is refused, never dropped in silence.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::engine::json::{list, text};

/// Something of the action that nerdctl cannot carry over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nerdctl cannot carry over {0}")]
pub struct Refused(pub String);

/// PATH as containerd sets it where neither image nor action does (`oci.WithDefaultPathEnv`).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Mounts that every container has, by nerdctl or containerd.
const USUAL_MOUNTS: [&str; 7] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
/// Files that whoever makes a container binds into it, from places of his own.
const NAME_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];

/// The flags and arguments after `nerdctl create` for the user container.
///
/// `action` is the action's native document, `own` the `config` of our own image's configuration.
///
/// # Errors
/// [`Refused`] with the first thing that nerdctl has no flag for.
pub fn user_container(
    action: &Value,
    own: &Value,
    image: &str,
    name: &str,
    labels: &[(&str, String)],
) -> Result<Vec<String>, Refused> {
    let spec = &action["Spec"];
    let mut out: Vec<String> = vec!["--name".into(), name.into()];
    let mut flag = |name: &str, value: &str| out.extend([name.to_owned(), value.to_owned()]);
    for (key, value) in user_labels(action, own) {
        flag("--label", &format!("{key}={value}"));
    }
    for (key, value) in labels {
        flag("--label", &format!("{key}={value}"));
    }
    for variable in environment(action, own) {
        flag("--env", variable);
    }
    namespaces(action, &mut flag);
    process(&spec["process"], own, &mut flag);
    resources(&spec["linux"], &mut flag)?;
    mounts(spec, &mut flag)?;
    rights(spec, &mut out)?;
    out.push(image.to_owned());
    // Exactly one `--` is eaten (nerdctl 2.2.1); what follows is the user's, `--` and '' included.
    out.push("--".into());
    out.extend(list(&spec["process"]["args"]).iter().skip(1).map(|word| text(word).to_owned()));
    Ok(out)
}

/// The action's volumes on these places, as values of `--volume`.
pub fn volumes_on(action: &Value, places: &[&str]) -> Vec<String> {
    let on = list(&action["Spec"]["mounts"]).iter().filter(|mount| places.contains(&text(&mount["destination"])));
    on.map(|mount| format!("{}:{}", text(&mount["source"]), text(&mount["destination"]))).collect()
}

/// Labels of the action less those of nerdctl, containerd and our own image.
fn user_labels<'a>(action: &'a Value, own: &'a Value) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = action["Labels"].as_object().into_iter().flatten();
    all.filter(|(key, value)| {
        let theirs =
            key.starts_with("nerdctl/") || key.starts_with("io.containerd.") || key.starts_with("containerd.io/");
        !theirs && own["Labels"].get(key.as_str()) != Some(value)
    })
    .map(|(key, value)| (key.as_str(), text(value)))
}

/// Variables of the action less our own image's and those that engines add.
fn environment<'a>(action: &'a Value, own: &'a Value) -> impl Iterator<Item = &'a str> {
    let hostname = format!("HOSTNAME={}", text(&action["Spec"]["hostname"]));
    let by_nerdctl = made_by_nerdctl(action);
    list(&action["Spec"]["process"]["env"]).iter().map(text).filter(move |variable| {
        let added = *variable == DEFAULT_PATH || (by_nerdctl && *variable == hostname);
        !added && !list(&own["Env"]).iter().any(|entry| entry == variable)
    })
}

/// Each namespace that the spec does not make is the host's; all are said, for nerdctl's defaults
/// are not the agent's.
fn namespaces(action: &Value, flag: &mut impl FnMut(&str, &str)) {
    let linux = &action["Spec"]["linux"];
    let own: BTreeSet<&str> = list(&linux["namespaces"]).iter().map(|namespace| text(&namespace["type"])).collect();
    let host_network = !own.contains("network");
    if !own.contains("pid") {
        flag("--pid", "host");
    }
    if !own.contains("ipc") {
        flag("--ipc", "host");
    }
    if !own.contains("uts") && !host_network {
        flag("--uts", "host");
    }
    flag("--cgroupns", if own.contains("cgroup") { "private" } else { "host" });
    let networks: Vec<String> = action["Labels"]["nerdctl/networks"]
        .as_str()
        .and_then(|label| serde_json::from_str(label).ok())
        .filter(|networks: &Vec<String>| !networks.is_empty())
        .unwrap_or_else(|| vec![if host_network { "host".into() } else { "bridge".into() }]);
    for network in &networks {
        flag("--network", network);
    }
    let hostname = text(&action["Spec"]["hostname"]);
    let id = text(&action["ID"]);
    if !hostname.is_empty() && !host_network && !id.starts_with(hostname) {
        flag("--hostname", hostname);
    }
}

fn process(process: &Value, own: &Value, flag: &mut impl FnMut(&str, &str)) {
    let user = &process["user"];
    let (uid, gid) = (user["uid"].as_u64().unwrap_or(0), user["gid"].as_u64().unwrap_or(0));
    if (uid, gid) != (0, 0) {
        flag("--user", &format!("{uid}:{gid}"));
    }
    for group in list(&user["additionalGids"]).iter().filter_map(Value::as_u64).filter(|group| *group != gid) {
        flag("--group-add", &group.to_string());
    }
    let cwd = text(&process["cwd"]);
    let own_cwd = own["WorkingDir"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
    if cwd != own_cwd {
        flag("--workdir", cwd);
    }
    for limit in list(&process["rlimits"]) {
        let name = text(&limit["type"]).trim_start_matches("RLIMIT_").to_lowercase();
        flag("--ulimit", &format!("{name}={}:{}", limit["soft"], limit["hard"]));
    }
    if let Some(score) = process["oomScoreAdj"].as_i64().filter(|score| *score != 0) {
        flag("--oom-score-adj", &score.to_string());
    }
}

fn resources(linux: &Value, flag: &mut impl FnMut(&str, &str)) -> Result<(), Refused> {
    let known = [
        ("memory", "limit", "--memory"),
        ("memory", "reservation", "--memory-reservation"),
        ("memory", "swap", "--memory-swap"),
        ("cpu", "shares", "--cpu-shares"),
        ("cpu", "quota", "--cpu-quota"),
        ("cpu", "period", "--cpu-period"),
        ("pids", "limit", "--pids-limit"),
    ];
    for (group, values) in linux["resources"].as_object().into_iter().flatten().filter(|(group, _)| *group != "devices")
    {
        for (field, value) in values.as_object().into_iter().flatten().filter(|(_, value)| !nothing(value)) {
            match known.iter().find(|(of, named, _)| of == group && named == field) {
                Some((_, _, name)) => flag(name, &value.to_string()),
                None if group == "cpu" && (field == "cpus" || field == "mems") => {
                    flag(&format!("--cpuset-{field}"), text(value));
                }
                None => return Err(Refused(format!("the limit {group}.{field}"))),
            }
        }
    }
    for (key, value) in linux["sysctl"].as_object().into_iter().flatten() {
        flag("--sysctl", &format!("{key}={}", text(value)));
    }
    Ok(())
}

fn mounts(spec: &Value, flag: &mut impl FnMut(&str, &str)) -> Result<(), Refused> {
    for mount in list(&spec["mounts"]) {
        let (kind, target, source) = (text(&mount["type"]), text(&mount["destination"]), text(&mount["source"]));
        let made_for_it = source.starts_with("/tmp/tink-dns-") || source.starts_with("/var/lib/nerdctl/");
        if USUAL_MOUNTS.contains(&target) || (NAME_FILES.contains(&target) && made_for_it) {
            continue;
        }
        let options: Vec<&str> = list(&mount["options"]).iter().map(text).collect();
        match kind {
            "bind" | "none" => {
                if source.contains(':') || target.contains(':') {
                    return Err(Refused(format!("the volume {source} on {target}: there is a colon in its path")));
                }
                let said: Vec<&str> = options.iter().copied().filter(|option| *option != "bind").collect();
                let volume = format!("{source}:{target}:{}", said.join(","));
                flag("--volume", volume.trim_end_matches(':'));
            }
            "tmpfs" => flag("--tmpfs", &format!("{target}:{}", options.join(","))),
            _ => return Err(Refused(format!("the mount of type {kind} on {target}"))),
        }
    }
    Ok(())
}

/// Privileges, devices, and what takes rights away.
fn rights(spec: &Value, out: &mut Vec<String>) -> Result<(), Refused> {
    let linux = &spec["linux"];
    let mut flag = |name: &str, value: &str| out.push(format!("{name}={value}"));
    if spec["root"]["readonly"] == true {
        flag("--read-only", "true");
    }
    if privileged(spec) {
        // It overrides no-new-privileges, which the agent sets: nerdctl has no way to say both.
        flag("--privileged", "true");
        return Ok(());
    }
    if spec["process"]["noNewPrivileges"] == true {
        flag("--security-opt", "no-new-privileges");
    }
    flag("--cap-drop", "ALL");
    for capability in list(&spec["process"]["capabilities"]["bounding"]) {
        flag("--cap-add", text(capability));
    }
    for device in list(&linux["devices"]) {
        flag("--device", text(&device["path"]));
    }
    if linux["seccomp"].is_null() {
        flag("--security-opt", "seccomp=unconfined");
    }
    if spec["process"]["apparmorProfile"].as_str().is_none_or(str::is_empty) {
        flag("--security-opt", "apparmor=unconfined");
    }
    Ok(())
}

/// Really privileged: every device allowed and nothing of /proc hidden, not merely all capabilities.
fn privileged(spec: &Value) -> bool {
    let linux = &spec["linux"];
    let all_devices = list(&linux["resources"]["devices"]).iter().any(|rule| {
        rule["allow"] == true
            && rule["access"] == "rwm"
            && rule["major"].is_null()
            && rule["type"].as_str().is_none_or(|kind| kind == "a")
    });
    all_devices && nothing(&linux["maskedPaths"]) && nothing(&linux["readonlyPaths"])
}

/// True for a container that nerdctl made; the agent's have only some of its labels.
fn made_by_nerdctl(action: &Value) -> bool {
    action["Labels"].get("nerdctl/networks").is_some()
}

/// Missing, zero or empty: what a spec writes for "not set".
fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(nothing),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the Tink Agent's container looks like; see tests/fixtures/README.md.
    fn agents() -> Value {
        serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native-agent.json")).unwrap()
    }

    fn copy(action: &Value) -> Result<Vec<String>, Refused> {
        user_container(
            action,
            &json!({"Entrypoint": ["/waitdaemon"]}),
            "alpine",
            "a-user",
            &[("waitdaemon.role", "user".into())],
        )
    }

    #[test]
    fn the_agents_container_goes_across() {
        let expected = [
            "--name",
            "a-user",
            "--label",
            "waitdaemon.role=user",
            "--env",
            "A=b",
            "--env",
            "IMAGE=alpine",
            "--pid",
            "host",
            "--cgroupns",
            "host",
            "--network",
            "bridge",
            "--ulimit",
            "nofile=1024:1024",
            "--tmpfs",
            "/run:nosuid,strictatime,mode=755,size=65536k",
            "--volume",
            "/tmp:/hosttmp:rbind,ro",
            "--privileged=true",
            "alpine",
            "--",
            "-c",
            "sleep 5",
        ];
        assert_eq!(copy(&agents()).unwrap(), expected);
    }

    #[test]
    fn arguments_and_variables_are_carried_byte_for_byte() {
        let mut action = agents();
        let words = ["", "--", "-x", "--privileged", "two words ", "a\nb", "ä\"'"];
        action["Spec"]["process"]["args"] = json!([&["/waitdaemon"][..], &words].concat());
        action["Spec"]["process"]["env"] = json!(["A=", "B=x=y", "C=\n ", "PATH=/mine"]);
        let made = copy(&action).unwrap();
        assert_eq!(made[made.iter().position(|word| word == "--").unwrap() + 1..], words);
        for variable in ["A=", "B=x=y", "C=\n ", "PATH=/mine"] {
            assert!(made.iter().any(|word| word == variable), "{variable:?}");
        }
    }

    #[test]
    fn namespaces_and_rights_are_those_of_the_action() {
        let mut action = agents();
        action["Spec"]["linux"]["namespaces"] =
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "cgroup"}]);
        action["Spec"]["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
        action["Spec"]["root"]["readonly"] = json!(true);
        let made = copy(&action).unwrap().join(" ");
        for part in [
            "--cgroupns private",
            "--network host",
            "--read-only=true",
            "--cap-drop=ALL",
            "--cap-add=CAP_SYS_ADMIN",
            "no-new-privileges",
        ] {
            assert!(made.contains(part), "{part} is missing: {made}");
        }
        for part in ["--pid", "--privileged"] {
            assert!(!made.contains(part), "{part}: {made}");
        }
    }

    #[test]
    fn what_has_no_flag_is_refused() {
        for (path, value) in [
            ("/Spec/linux/resources", json!({"blockIO": {"weight": 10}})),
            ("/Spec/mounts", json!([{"type": "bind", "source": "/a:b", "destination": "/c"}])),
            ("/Spec/mounts", json!([{"type": "overlay", "source": "x", "destination": "/c"}])),
        ] {
            let mut action = agents();
            *action.pointer_mut(path).unwrap() = value;
            assert!(copy(&action).is_err(), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_document_is_answered(text in "\\PC{0,20}", number in proptest::num::i64::ANY) {
            for document in [json!(text), json!({"Spec": {"process": {"args": [number, text], "env": text}, "mounts": [number]}})] {
                let _ = user_container(&document, &document, &text, &text, &[]);
            }
        }
    }
}
