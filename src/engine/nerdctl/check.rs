//! Checks that the created user container lost nothing of the action's OCI spec. Pure.
//!
//! nerdctl's flags are copied one by one, so a setting that no flag can express, or that nerdctl
//! accepts and drops, would be lost silently. This check finds it before SUCCESS, whatever made the
//! action.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::flags::{NAME_FILES, NotCarried, RIGHTS_OF_MOUNTS, USUAL_SYSCTL, WITHOUT_EFFECT};
use super::spec::{environment, is_usual, made_by_nerdctl, nothing, privileged};
use crate::engine::json::{cleaned, list, text};

/// Compares the native documents of the action and of the created user container; `own` is that of
/// the action's image.
///
/// # Errors
/// If the user container lacks a setting or has it otherwise ([`NotCarried`] names the first).
pub fn nothing_was_lost(action: &Value, own: &Value, user: &Value) -> Result<(), NotCarried> {
    same("", &essence(action), &essence(user))?;
    same("namespaces", &namespaces(action), &namespaces(user))?;
    // The agent leaves the runtime to containerd, and nerdctl to its own configuration.
    if made_by_nerdctl(action) {
        same("runtime", &runtime(action), &runtime(user))?;
    }
    variables(action, &own["ImageConfig"]["config"], user)?;
    mounts(action, &own["ImageConfig"]["config"]["Volumes"], user)?;
    let hooks = action["Spec"]["hooks"]
        .as_object()
        .into_iter()
        .flat_map(|kinds| kinds.values().flat_map(list));
    match hooks.into_iter().find(|hook| !is_nerdctls(hook)) {
        Some(hook) => Err(NotCarried(format!("a hook that runs {}", text(&hook["path"])))),
        None => Ok(()),
    }
}

/// Checks that every variable of the action has its value; of duplicates, the last counts.
fn variables(action: &Value, own: &Value, user: &Value) -> Result<(), NotCarried> {
    let value_of = |all: &[(&str, &str)], name: &str| {
        all.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let split = |variable| str::split_once(variable, '=');
    let of_user: Vec<(&str, &str)> =
        list(&user["Spec"]["process"]["env"]).iter().map(text).filter_map(split).collect();
    let of_action: Vec<(&str, &str)> = environment(action, own).filter_map(split).collect();
    for (name, _) in &of_action {
        let value = value_of(&of_action, name);
        // nerdctl also overrides it in its own containers, with the container's hostname.
        let is_nerdctls = *name == "HOSTNAME" && made_by_nerdctl(action);
        if value_of(&of_user, name) != value && !is_nerdctls {
            return Err(NotCarried(format!("the variable {name}")));
        }
    }
    Ok(())
}

/// Returns the spec without what is copied by other means or is each container's own. The rest must
/// be equal.
fn essence(container: &Value) -> Value {
    let mut spec = container["Spec"].clone();
    let privileged = privileged(&spec);
    // Environment, arguments, user and folder are merged with the user image's. Names, paths and
    // hooks are each container's own. The others are compared separately.
    drop_fields(
        &mut spec,
        "",
        &["ociVersion", "hostname", "domainname", "annotations", "hooks", "mounts"],
    );
    drop_fields(&mut spec, "/root", &["path"]);
    drop_fields(&mut spec, "/process", &["args", "env", "cwd"]);
    drop_fields(&mut spec, "/process/user", &["uid", "gid", "additionalGids"]);
    // The mounts' propagation follows from the mounts.
    drop_fields(&mut spec, "/linux", &["cgroupsPath", "namespaces", "rootfsPropagation"]);
    // nerdctl sets it for every container with its own network.
    if spec["linux"]["sysctl"][USUAL_SYSCTL.0] == USUAL_SYSCTL.1 {
        drop_fields(&mut spec, "/linux/sysctl", &[USUAL_SYSCTL.0]);
    }
    if privileged {
        // Privileged overrides no-new-privileges, and device nodes come and go.
        drop_fields(&mut spec, "/process", &["noNewPrivileges"]);
        drop_fields(&mut spec, "/linux", &["devices"]);
    }
    for list in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        sort(&mut spec, &format!("/process/capabilities/{list}"));
    }
    sort(&mut spec, "/process/rlimits");
    spec
}

fn namespaces(container: &Value) -> Value {
    let spaces = list(&container["Spec"]["linux"]["namespaces"]).iter();
    let mut spaces: Vec<Value> =
        spaces.map(|space| json!([space["type"], space["path"]])).collect();
    order(&mut spaces);
    spaces.into()
}

/// Returns the runtime without the choice of the cgroup manager (`systemd_cgroup`, the options'
/// field 9), which is nerdctl's own and not the action's.
fn runtime(container: &Value) -> Value {
    let mut runtime = container["Runtime"].clone();
    if ["SAE=", "SAA="].iter().any(|manager| runtime["Options"]["value"] == **manager) {
        drop_fields(&mut runtime, "/Options", &["value"]);
    }
    runtime
}

/// Checks that every mount of the action is there, with all its options; the user image may add
/// more. The volumes of our own image are not the action's.
fn mounts(action: &Value, own: &Value, user: &Value) -> Result<(), NotCarried> {
    let of_action = list(&action["Spec"]["mounts"]);
    let place = |mount: &Value| cleaned(text(&mount["destination"]));
    // Some lie in a folder that is named after the container's ID.
    let source =
        |mount: &Value, of: &Value| cleaned(&text(&mount["source"]).replace(text(&of["ID"]), "ID"));
    for (index, mount) in of_action.iter().enumerate() {
        let target = place(mount);
        let hidden = of_action[index + 1..].iter().any(|later| place(later) == target);
        // The creator of a container binds the name files, from its own place.
        if NAME_FILES.contains(&target.as_str()) || own.get(&target).is_some() || hidden {
            continue;
        }
        let options = |mount: &Value| -> Vec<String> {
            let options = list(&mount["options"])
                .iter()
                .map(text)
                .filter(|option| !WITHOUT_EFFECT.contains(option));
            options.map(str::to_owned).collect()
        };
        let of_user = list(&user["Spec"]["mounts"]).iter().rfind(|mount| place(mount) == target);
        let carried = of_user.is_some_and(|of_user| {
            let (wanted, given) = (options(mount), options(of_user));
            let has = |option: &str| given.iter().any(|given| given == option);
            let wants = |option: &str| wanted.iter().any(|wanted| wanted == option);
            // `rbind` includes `bind`, and a mount that is not `ro` is `rw`.
            let is_met = |option: &String| match option.as_str() {
                "bind" => has("bind") || has("rbind"),
                "rw" => !has("ro") || wants("ro") || wants("rro"),
                option => has(option),
            };
            let same_source = is_usual(mount) || source(mount, action) == source(of_user, user);
            same_source && wanted.iter().all(is_met) && taken(of_user).is_subset(&taken(mount))
        });
        // If a volume lies on /dev, nerdctl leaves everything below it to the volume.
        let below_a_volume = is_usual(mount)
            && of_user.is_none()
            && of_action.iter().any(|other| {
                !is_usual(other) && Path::new(&target).starts_with(text(&other["destination"]))
            });
        if !carried && !below_a_volume {
            return Err(NotCarried(format!("the mount on {target}: {mount}")));
        }
    }
    Ok(())
}

/// Returns the rights that a mount's options take; of an option and its opposite, the later counts.
fn taken(mount: &Value) -> BTreeSet<&'static str> {
    let mut taken = BTreeSet::new();
    for option in list(&mount["options"]).iter().map(text) {
        for (takes, gives) in RIGHTS_OF_MOUNTS.iter().chain(&[("ro", "rw")]) {
            if option == *takes {
                taken.insert(*takes);
            } else if option == *gives {
                taken.remove(takes);
            }
        }
    }
    taken
}

/// True for nerdctl's own hook: its name and network.
fn is_nerdctls(hook: &Value) -> bool {
    list(&hook["args"]).iter().any(|word| word == "oci-hook")
        && list(&hook["args"]).iter().any(|word| word == "internal")
}

/// Compares two values; missing, zero and empty are the same.
fn same(at: &str, action: &Value, user: &Value) -> Result<(), NotCarried> {
    match (action, user) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            keys.try_for_each(|key| {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                same(&at, &action[key], &user[key])
            })
        }
        _ if action == user || (nothing(action) && nothing(user)) => Ok(()),
        _ => {
            let short = |value: &Value| value.to_string().chars().take(200).collect::<String>();
            Err(NotCarried(format!(
                "{at}: the action has {}, the user container would have {}",
                short(action),
                short(user)
            )))
        }
    }
}

fn drop_fields(document: &mut Value, at: &str, fields: &[&str]) {
    if let Some(Value::Object(map)) = document.pointer_mut(at) {
        map.retain(|key, _| !fields.contains(&key.as_str()));
    }
}

fn sort(document: &mut Value, at: &str) {
    if let Some(Value::Array(list)) = document.pointer_mut(at) {
        order(list);
    }
}

/// Sorts values into one order. They are few, and the standard library's sort takes 8 KB for each
/// type.
fn order(list: &mut [Value]) {
    let is_less = |one: &Value, other: &Value| one.to_string().cmp(&other.to_string()).is_lt();
    for end in 1..list.len() {
        let mut at = end;
        while at > 0 && is_less(&list[at], &list[at - 1]) {
            list.swap(at, at - 1);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> Value {
        serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native-agent.json"))
            .unwrap()
    }

    #[test]
    fn a_container_is_its_own_copy() {
        nothing_was_lost(&agents(), &Value::Null, &agents()).unwrap();
    }

    #[test]
    fn whatever_is_lost_is_found() {
        for (path, value) in [
            ("/Spec/linux/resources/memory", json!({"limit": 1})),
            ("/Spec/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 1}])),
            ("/Spec/linux/maskedPaths", json!(["/proc/mine"])),
            ("/Spec/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})),
            ("/Spec/linux/aFieldOfTomorrow", json!("x")),
            ("/Spec/process/oomScoreAdj", json!(1)),
            ("/Spec/process/apparmorProfile", json!("mine")),
            ("/Spec/root/readonly", json!(true)),
            ("/Spec/linux/namespaces", json!([{"type": "pid"}])),
            ("/Spec/hooks", json!({"createRuntime": [{"path": "/usr/bin/gpu", "args": ["gpu"]}]})),
            ("/Spec/hooks", json!({"prestart": [{"path": "/usr/bin/gpu", "args": ["gpu"]}]})),
            ("/Spec/process/env", json!(["A=other"])),
        ] {
            let mut action = agents();
            let (parent, field) = path.rsplit_once('/').unwrap();
            action.pointer_mut(parent).unwrap()[field] = value;
            assert!(nothing_was_lost(&action, &Value::Null, &agents()).is_err(), "{path}");
        }
        let mut user = agents();
        user["Spec"]["mounts"][7]["options"] = json!(["rbind", "ro", "rprivate"]);
        nothing_was_lost(&agents(), &Value::Null, &user).unwrap();
        for (mount, taken) in [(6, "noexec"), (6, "nodev"), (6, "ro")] {
            let mut user = user.clone();
            user["Spec"]["mounts"][mount]["options"].as_array_mut().unwrap().push(json!(taken));
            assert!(nothing_was_lost(&agents(), &Value::Null, &user).is_err(), "{taken}");
        }
        user["Spec"]["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| mount["destination"] != "/hosttmp");
        assert_eq!(
            nothing_was_lost(&agents(), &Value::Null, &user).unwrap_err().0.split(':').next(),
            Some("the mount on /hosttmp")
        );
    }

    proptest::proptest! {
        #[test]
        fn a_field_of_tomorrow_is_not_lost(name in "new[A-Za-z]{1,12}", value in "\\PC{1,12}", place in 0..4_usize) {
            let recording: Value = serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native.json")).unwrap();
            for action in [agents(), recording["container"].clone()] {
                let mut with = action.clone();
                let at = ["/Spec", "/Spec/process", "/Spec/linux", "/Spec/linux/resources"][place];
                with.pointer_mut(at).unwrap()[&name] = json!(value);
                proptest::prop_assert!(nothing_was_lost(&with, &Value::Null, &action).is_err(), "{}", at);
            }
        }

        #[test]
        fn any_document_is_its_own_copy(text in "\\PC{0,20}", number in proptest::num::i64::ANY) {
            for document in [json!(text), json!({"Spec": {"process": text, "linux": {"namespaces": number, "x": [text]}, "mounts": [number]}})] {
                proptest::prop_assert!(nothing_was_lost(&document, &Value::Null, &json!(document)).is_ok());
            }
        }
    }
}
