//! Turns the action container's inspect document into the request that creates the user container.
//! Pure.
//!
//! The document is passed through, so a field that is not named here is copied as it is. Only these
//! fields are named: those that the engine returns in another form than it takes, those that came
//! from our own image, and the few that must not be copied; each with its reason.

use serde_json::{Map, Value, json};

use super::networks::{endpoints, is_mode};
use crate::engine::json::{cleaned, empty, list, short, text};
use crate::login;

/// What to request from the engine, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    /// The body of `POST /containers/create`.
    pub create: Value,
    /// Networks beyond the first: name and endpoint for `POST /networks/{name}/connect`. Before API
    /// 1.44, create accepts only one network.
    pub connect: Vec<(String, Value)>,
}

/// Fields of `Config` that create takes from the image if the action does not set them. A value
/// equal to our own image's is not the action's (moby `daemon/commit.go`, `merge`).
const FROM_IMAGE: [&str; 6] =
    ["User", "WorkingDir", "StopSignal", "StopTimeout", "OnBuild", "Shell"];
/// Fields that create merges entry by entry. `Env`, `Entrypoint` and `Cmd` are handled below.
const JOINED_WITH_IMAGE: [&str; 4] = ["Labels", "Volumes", "ExposedPorts", "Healthcheck"];

/// Builds the user container: everything that the action was given, without our own image's part.
///
/// `action` is the answer to `GET /containers/{id}/json`, `own_image` that to
/// `GET /images/{id}/json` for the action's image. The user image's ENTRYPOINT stands, and its CMD
/// if there are no `arguments`.
pub fn user_container(
    action: &Value,
    own_image: &Value,
    image: &str,
    arguments: &[String],
    labels: &[(&str, String)],
) -> Creation {
    let own = &own_image["Config"];
    let mut config = object(&action["Config"]);
    let mut host = object(&action["HostConfig"]);
    let id = text(&action["Id"]);

    config.insert("Image".into(), image.into());
    for field in FROM_IMAGE {
        if config.get(field).is_some_and(|value| same(value, &own[field])) {
            config.remove(field);
        }
    }
    for field in JOINED_WITH_IMAGE {
        if let Some(Value::Object(entries)) = config.get_mut(field) {
            entries.retain(|key, value| own[field].get(key) != Some(value));
            if entries.is_empty() {
                config.remove(field);
            }
        }
    }
    let mut env = without(get(&config, "Env"), &own["Env"]);
    env.retain(|variable| !login::is_of_login(text(variable)));
    config.insert("Env".into(), env.into());
    config.remove("Entrypoint");
    config.remove("Cmd");
    if !arguments.is_empty() {
        config.insert("Cmd".into(), arguments.into());
    }
    label(&mut config, labels);
    hostname(&mut config, &host, id);

    // The waiter decides when the user container starts and when it is removed.
    host.insert("AutoRemove".into(), false.into());
    host.insert("RestartPolicy".into(), json!({"Name": "no", "MaximumRetryCount": 0}));
    // A path for the docker command's own use; the engine ignores it.
    host.remove("ContainerIDFile");
    links(&mut host);
    anonymous_volumes(&mut config, &mut host, &action["Mounts"]);

    let mut connect = endpoints(action);
    let first = connect
        .iter()
        .position(|(name, _)| is_mode(action, name))
        .map(|index| connect.remove(index));
    config.insert("HostConfig".into(), host.into());
    if let Some((name, endpoint)) = first {
        config.insert("NetworkingConfig".into(), json!({"EndpointsConfig": {name: endpoint}}));
    }
    Creation { create: config.into(), connect }
}

fn label(config: &mut Map<String, Value>, labels: &[(&str, String)]) {
    let mut kept = object(get(config, "Labels"));
    kept.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
    config.insert("Labels".into(), kept.into());
}

/// Keeps the hostname only if the action set one and the engine takes one.
fn hostname(config: &mut Map<String, Value>, host: &Map<String, Value>, id: &str) {
    let mode = |field: &str| text(get(host, field)).to_owned();
    let generated = text(get(config, "Hostname")) == short(id);
    // "conflicting options: hostname and the UTS mode", "... and the network mode" (moby
    // runconfig).
    if generated || mode("UTSMode") == "host" || mode("NetworkMode").starts_with("container:") {
        config.remove("Hostname");
    }
    if mode("NetworkMode").starts_with("container:") {
        config.remove("Domainname");
    }
}

/// Inspect shows a link as `/target:/container/alias`; create takes `target:alias`.
fn links(host: &mut Map<String, Value>) {
    let Some(Value::Array(links)) = host.get_mut("Links") else { return };
    for link in links {
        let turned = link.as_str().and_then(|text| {
            let (target, alias) = text.split_once(':')?;
            Some(format!("{}:{}", target.trim_start_matches('/'), alias.rsplit('/').next()?))
        });
        if let Some(turned) = turned {
            *link = turned.into();
        }
    }
}

/// Binds anonymous volumes by name, so that the user container has the action's volumes and not new
/// ones. Only `Mounts` has their names. Those of our own image are no longer in `Config`;
/// `VolumesFrom` brings those of another container.
fn anonymous_volumes(
    config: &mut Map<String, Value>,
    host: &mut Map<String, Value>,
    mounts: &Value,
) {
    let bound = |destination: &str| {
        let targets =
            list(get(host, "Binds")).iter().filter_map(|bind| text(bind).split(':').nth(1));
        let listed =
            list(get(host, "Mounts")).iter().filter(|mount| !text(&mount["Source"]).is_empty());
        targets
            .chain(listed.map(|mount| text(&mount["Target"])))
            .any(|target| cleaned(target) == destination)
    };
    let volumes = list(mounts).iter().filter(|mount| mount["Type"] == "volume");
    let anonymous: Vec<&Value> =
        volumes.filter(|mount| !bound(text(&mount["Destination"]))).collect();
    let mut binds = list(get(host, "Binds")).to_vec();
    for mount in anonymous {
        let destination = text(&mount["Destination"]);
        let here = |target: &str| cleaned(target) == destination;
        let known = binds.len();
        binds.retain(|bind| !here(text(bind)));
        let mut anonymous = binds.len() < known;
        if let Some(Value::Object(volumes)) = config.get_mut("Volumes") {
            let known = volumes.len();
            volumes.retain(|target, _| !here(target));
            anonymous |= volumes.len() < known;
        }
        let listed = host.get_mut("Mounts").and_then(Value::as_array_mut).into_iter().flatten();
        let mut listed = listed.into_iter().filter_map(Value::as_object_mut);
        if let Some(listed) = listed.find(|listed| here(text(get(listed, "Target")))) {
            listed.insert("Source".into(), volume_name(mount).into());
        } else if anonymous {
            let mode = if mount["RW"] == false { ":ro" } else { "" };
            binds.push(format!("{}:{destination}{mode}", volume_name(mount)).into());
        }
    }
    if !binds.is_empty() {
        host.insert("Binds".into(), binds.into());
    }
    if config.get("Volumes").is_some_and(empty) {
        config.remove("Volumes");
    }
}

/// Returns a volume's name. moby v2.0.0-beta.7 does not show it if the volume came from a bind
/// without a source; the local driver's paths end in `/<name>/_data`.
fn volume_name(mount: &Value) -> &str {
    let from_path =
        text(&mount["Source"]).strip_suffix("/_data").and_then(|path| path.rsplit('/').next());
    mount["Name"].as_str().filter(|name| !name.is_empty()).or(from_path).unwrap_or_default()
}

/// Returns the entries of `whole` that are not in `part`.
fn without(whole: &Value, part: &Value) -> Vec<Value> {
    list(whole).iter().filter(|entry| !list(part).contains(entry)).cloned().collect()
}

/// True if equal; missing, null and empty are the same, because engines differ in which they write.
fn same(one: &Value, other: &Value) -> bool {
    one == other || (empty(one) && empty(other))
}

/// Returns the field, or null; indexing a map would panic if it is missing.
fn get<'a>(map: &'a Map<String, Value>, field: &str) -> &'a Value {
    map.get(field).unwrap_or(&Value::Null)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4e0b6c1f6a7d2a9b1c0d5e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a";

    fn action(config: Value, host: Value) -> Value {
        let mut full = json!({"Hostname": "3f4e0b6c1f6a", "Env": [], "Labels": {}, "Entrypoint": ["/waitdaemon"]});
        full.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        json!({"Id": ID, "Image": "sha256:1", "Config": full, "HostConfig": host,
               "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "b"}}}, "Mounts": []})
    }

    fn copy(action: &Value) -> Creation {
        let own = json!({"Config": {"Entrypoint": ["/waitdaemon"], "Env": ["OWN=1"], "Labels": {"own": "1"}}});
        user_container(action, &own, "alpine", &[], &[("waitdaemon.role", "user".into())])
    }

    #[test]
    fn our_image_leaves_no_trace_and_the_users_values_stand() {
        let config = json!({"Env": ["OWN=1", "A=", "B=x=y", "C=\n "], "Labels": {"own": "1", "mine": "2"}, "User": "", "WorkingDir": "/w"});
        let create = copy(&action(config, json!({}))).create;
        assert_eq!(create["Env"], json!(["A=", "B=x=y", "C=\n "]));
        assert_eq!(create["Labels"], json!({"mine": "2", "waitdaemon.role": "user"}));
        assert_eq!(create["WorkingDir"], "/w");
        for absent in ["Entrypoint", "Cmd", "User", "Hostname"] {
            assert_eq!(create.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn the_command_is_what_was_given() {
        let action = action(json!({"Cmd": ["/waitdaemon", "reboot"]}), json!({}));
        let create = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            user_container(&action, &Value::Null, "alpine", &words, &[]).create
        };
        assert_eq!(create(&["", "--", "-x"])["Cmd"], json!(["", "--", "-x"]));
        assert_eq!((create(&[]).get("Cmd"), create(&[]).get("Entrypoint")), (None, None));
    }

    #[test]
    fn unknown_fields_are_carried() {
        let create =
            copy(&action(json!({"New": {"a": [1]}}), json!({"Newer": 2, "AutoRemove": true})))
                .create;
        assert_eq!(
            (&create["New"], &create["HostConfig"]["Newer"]),
            (&json!({"a": [1]}), &json!(2))
        );
        assert_eq!(create["HostConfig"]["AutoRemove"], false);
    }

    #[test]
    fn a_hostname_is_copied_where_it_was_set_and_is_taken() {
        for (name, host, kept) in [
            ("3f4e0b6c1f6a", json!({"NetworkMode": "default"}), None),
            ("web", json!({"NetworkMode": "default"}), Some("web")),
            ("web", json!({"NetworkMode": "host"}), Some("web")),
            ("3", json!({"NetworkMode": "default"}), Some("3")),
            ("web", json!({"UTSMode": "host"}), None),
            ("web", json!({"NetworkMode": "container:x"}), None),
        ] {
            let create = copy(&action(json!({"Hostname": name}), host)).create;
            assert_eq!(create.get("Hostname").and_then(Value::as_str), kept);
        }
    }

    #[test]
    fn links_and_anonymous_volumes_are_turned_round() {
        let mut action =
            action(json!({"Volumes": {"/v/": {}}}), json!({"Links": ["/db:/act/alias"]}));
        action["HostConfig"]["Binds"] = json!(["n:/named:ro", "m:/slash/"]);
        action["Mounts"] = json!([
            {"Type": "volume", "Name": "abc", "Destination": "/v", "RW": true},
            {"Type": "volume", "Name": "n", "Destination": "/named", "RW": false},
            {"Type": "volume", "Name": "m", "Destination": "/slash", "RW": true},
        ]);
        let create = copy(&action).create;
        assert_eq!(create["HostConfig"]["Links"], json!(["db:alias"]));
        assert_eq!(create["HostConfig"]["Binds"], json!(["n:/named:ro", "m:/slash/", "abc:/v"]));
        assert_eq!(create.get("Volumes"), None);
        // A volume that comes from another container, and one that our own image declares.
        action["Config"]["Volumes"] = Value::Null;
        assert_eq!(copy(&action).create["HostConfig"]["Binds"], action["HostConfig"]["Binds"]);
    }

    #[test]
    fn networks_keep_what_the_user_set() {
        let mut action = action(json!({}), json!({"NetworkMode": "front"}));
        action["NetworkSettings"]["Networks"] = json!({
            "front": {"IPAMConfig": {"IPv4Address": "10.9.0.5"}, "Aliases": ["web", "3f4e0b6c1f6a"], "MacAddress": "02:42:0a:09:00:05",
                      "IPAddress": "10.9.0.5", "EndpointID": "e"},
            "back": {"IPAMConfig": null, "Aliases": ["3f4e0b6c1f6a"]},
        });
        let creation = copy(&action);
        assert_eq!(
            creation.create["NetworkingConfig"],
            json!({"EndpointsConfig": {"front": {"IPAMConfig": {"IPv4Address": "10.9.0.5"}, "Aliases": ["web"]}}})
        );
        assert_eq!(creation.connect, [("back".into(), json!({}))]);
        action["NetworkSettings"]["Networks"]["bridge"] =
            json!({"MacAddress": "02:42:ac:11:00:02"});
        assert_eq!(
            copy(&action).connect.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["back", "bridge"]
        );
        let mut action = self::action(
            json!({"MacAddress": "02:00:00:00:00:01"}),
            json!({"NetworkMode": "default"}),
        );
        action["NetworkSettings"]["Networks"]["bridge"]["MacAddress"] = json!("02:00:00:00:00:01");
        assert_eq!(
            copy(&action).create["NetworkingConfig"]["EndpointsConfig"]["bridge"],
            json!({"MacAddress": "02:00:00:00:00:01"})
        );
        assert_eq!(
            copy(&self::action(json!({}), json!({"NetworkMode": "default"})))
                .create
                .get("NetworkingConfig"),
            None
        );
    }

    /// Recordings of real engines for an action with many settings; see tests/fixtures/README.md.
    fn recordings() -> [Value; 2] {
        [
            include_str!("../../../tests/fixtures/docker-debian.json"),
            include_str!("../../../tests/fixtures/docker-moby.json"),
        ]
        .map(|text| serde_json::from_str(text).unwrap())
    }

    fn copy_of(recording: &Value) -> Creation {
        user_container(
            &recording["container"],
            &recording["image"],
            "alpine",
            &["reboot".to_owned()],
            &[("waitdaemon.role", "user".into())],
        )
    }

    #[test]
    fn recorded_actions_go_across() {
        for recording in recordings() {
            let action = &recording["container"];
            let create = copy_of(&recording).create;
            let (of_action, host) = (&action["HostConfig"], &create["HostConfig"]);
            let changed = ["Binds", "AutoRemove", "RestartPolicy", "ContainerIDFile"];
            for (field, value) in of_action
                .as_object()
                .unwrap()
                .iter()
                .filter(|(field, _)| !changed.contains(&field.as_str()))
            {
                assert_eq!(host[field], *value, "{field}");
            }
            let anonymous = list(&action["Mounts"])
                .iter()
                .find(|mount| mount["Destination"] == "/anonymous")
                .unwrap();
            let bind = format!("{}:/anonymous", text(&anonymous["Name"]));
            let binds: Vec<&str> = list(&host["Binds"]).iter().map(text).collect();
            assert!(
                ["/tmp:/hosttmp:ro", "named:/named", &bind].iter().all(|bind| binds.contains(bind))
                    && binds.len() == 3
            );
            assert_eq!(create["Env"], json!(["IMAGE=alpine", "A=b"]));
            assert_eq!((&create["Cmd"], &create["User"]), (&json!(["reboot"]), &json!("0:5")));
            assert_eq!(host["RestartPolicy"]["Name"], "no");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_document_gives_a_creation(text in "\\PC{0,40}", number in proptest::num::i64::ANY) {
            for document in [json!(text), json!({"Config": text, "HostConfig": {"Binds": number, "Links": [text]}, "Mounts": [{"Type": "volume"}]})] {
                let made = user_container(&document, &document, &text, &[], &[]);
                proptest::prop_assert_eq!(&made.create["Image"], &json!(text));
            }
        }

        #[test]
        fn fields_of_tomorrow_survive(name in "New[A-Za-z]{1,12}", value in proptest::collection::vec("\\PC{0,12}", 0..4)) {
            for mut recording in recordings() {
                recording["container"]["Config"][&name] = json!({&name: value});
                recording["container"]["HostConfig"][&name] = json!(value);
                let create = copy_of(&recording).create;
                proptest::prop_assert_eq!(&create[&name], &json!({&name: value}));
                proptest::prop_assert_eq!(&create["HostConfig"][&name], &json!(value));
            }
        }

        #[test]
        fn twice_is_once(environment in proptest::collection::vec("[A-Z]{1,3}=\\PC{0,12}", 0..4), words in proptest::collection::vec("\\PC{0,12}", 0..4)) {
            for mut recording in recordings() {
                recording["container"]["Config"]["Env"] = json!(environment);
                recording["container"]["Config"]["Cmd"] = json!(words);
                let once = copy_of(&recording).create;
                // The user container as an action, with the same image.
                recording["container"]["Config"] = once.clone();
                recording["container"]["HostConfig"] = once["HostConfig"].clone();
                recording["container"]["Config"].as_object_mut().unwrap().remove("HostConfig");
                recording["container"]["Config"].as_object_mut().unwrap().remove("NetworkingConfig");
                proptest::prop_assert_eq!(copy_of(&recording).create, once);
            }
        }

        #[test]
        fn nothing_of_our_image_leaks(key in "OWN[A-Z]{1,6}", value in "own-[a-z0-9]{1,12}") {
            for mut recording in recordings() {
                let own = json!({
                    "Env": [format!("{key}={value}")], "Labels": {&key: value}, "WorkingDir": value, "User": value,
                    "Volumes": {format!("/{value}"): {}}, "ExposedPorts": {format!("{value}/tcp"): {}}, "StopSignal": value,
                    "Healthcheck": {"Test": ["CMD", value]}, "Shell": [value], "OnBuild": [value], "Cmd": [value],
                    "Entrypoint": ["/waitdaemon"],
                });
                // As the engine merges it into an action that sets none of these.
                let config = recording["container"]["Config"].as_object_mut().unwrap();
                for (field, value) in own.as_object().unwrap().iter().filter(|(field, _)| *field != "Entrypoint") {
                    match (config.get_mut(field), value) {
                        (Some(Value::Array(list)), Value::Array(more)) if field == "Env" => list.extend(more.clone()),
                        (Some(Value::Object(map)), Value::Object(more)) => map.extend(more.clone()),
                        _ => drop(config.insert(field.clone(), value.clone())),
                    }
                }
                let mounts = recording["container"]["Mounts"].as_array_mut().unwrap();
                mounts.push(json!({"Type": "volume", "Name": "f".repeat(64), "Destination": format!("/{value}"), "RW": true}));
                recording["image"]["Config"] = own;
                let made = copy_of(&recording).create.to_string();
                proptest::prop_assert!(!made.contains(&value) && !made.contains(&key) && !made.contains(&"f".repeat(64)), "{}", made);
            }
        }
    }
}
