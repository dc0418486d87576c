//! Runs the rows on a real Docker Engine. The engine itself is the measure: the user container must
//! be what the engine makes of the action's own create request when that names IMAGE, as inspected
//! and as the OCI runtime gets it.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lab::machine::{Machine, Variant};
use lab::system::System;
use lab::until::until;
use serde_json::{Value, json};

use super::bench::{IMAGES, filled, prepare, run_all, take_our_labels};
use super::compare::{differences, merge, without_id};
use super::rows::{Became, Row, Set};
use crate::world::{ACTION, LIMIT, USER, WAITER, images, machine_variant, own_program};

/// Fields that differ between containers without anybody's choice.
const INCIDENTAL: [&str; 10] = [
    "/Spec/root/path",
    "/Spec/hooks",
    "/Spec/linux/rootfsPropagation",
    "/NetworkID",
    "/EndpointID",
    "/Gateway",
    "/IPv6Gateway",
    "/IPPrefixLen",
    "/GlobalIPv6PrefixLen",
    "/SandboxID",
];

/// Runs all rows of a group that this engine supports.
pub fn run(system: System, group: &str, rows: &[Row]) -> Result<()> {
    let bench = Bench::new(system, group)?;
    run_all(rows.iter().filter(|row| row.is_in(bench.api)), |row| bench.row(row), || bench.clear())
}

/// A machine with everything that rows refer to.
struct Bench {
    machine: Machine,
    api: u32,
    words: Vec<(&'static str, String)>,
    fixtures: Vec<String>,
    /// The fixtures' anonymous volumes.
    known: Vec<String>,
    baselines: std::cell::RefCell<HashMap<(&'static str, bool), Value>>,
}

impl Bench {
    fn new(system: System, group: &str) -> Result<Self> {
        // The resources are those of cgroup v1.
        let host_cgroups = system == System::HookOS && group == "resources";
        let machine = machine_variant(
            system,
            if host_cgroups { Variant::HostCgroups } else { Variant::Usual },
        )?;
        for image in IMAGES {
            crate::world::load(&machine, image)?;
        }
        prepare(&machine, "chmod 666 /run/docker.sock")?;
        machine.engine(&[
            "network",
            "create",
            "--subnet",
            "10.9.0.0/24",
            "--ipv6",
            "--subnet",
            "fd00:9::/64",
            "front",
        ])?;
        machine.engine(&["network", "create", "--subnet", "10.8.0.0/24", "back"])?;
        machine.engine(&["run", "--rm", "-v", "named:/v", "probe:1", "mkdir", "/v/sub"])?;
        let other = with_volumes(&machine, "other", &["--ipc", "shareable"])?;
        machine.engine(&["run", "-d", "--name", "fronted", "--network", "front", "probe:1"])?;
        let front = machine.engine(&["network", "inspect", "-f", "{{.Id}}", "front"])?;
        let words = vec![
            ("@OUT", machine.out().display().to_string()),
            ("@CGROUP", machine.cgroup().to_owned()),
            ("@OTHER", other),
            ("@FRONT", front),
            ("@DISK", disk()?),
        ];
        let fixtures = machine.ids()?;
        let known = anonymous(&machine.inspect("other")?);
        Ok(Self {
            machine,
            api: system.api(),
            words,
            fixtures,
            known,
            baselines: HashMap::new().into(),
        })
    }

    fn row(&self, row: &Row) -> Result<Became> {
        let Set::Body(set) = &row.set else { bail!("no row of Docker") };
        let set: Value = serde_json::from_str(&filled(&self.words, set.to_string()))?;
        let mut body = plain(row.own, row.image, row.networked);
        merge(&mut body, &set);
        let action = match self.start(ACTION, &body)? {
            Ok(id) => id,
            Err(word) => return Ok(Became::EngineRefused(word)),
        };
        let (_, document) = self.ask("GET", &format!("/containers/{action}/json"), None)?;
        let anonymous: Vec<String> =
            anonymous(&document).into_iter().filter(|name| !self.known.contains(name)).collect();
        let (_, end) = self.ask("POST", &format!("/containers/{action}/wait"), None)?;
        if end["StatusCode"] != 0 {
            let log = self.machine.log_of(&action)?;
            let left = self.machine.engine(&["ps", "-a", "--format", "{{.Names}}"])?;
            ensure!(!left.contains(USER) && !left.contains(WAITER), "a failed handoff left {left}");
            return Ok(Became::Refused(format!("{end} {log:?}")));
        }
        self.ask("DELETE", &format!("/containers/{action}?force=1&v=1"), None)?;
        let user = until("the user container's start", LIMIT, || {
            let (_, user) = self.ask("GET", &format!("/containers/{USER}/json"), None)?;
            Ok((user["State"]["Status"] == "running").then_some(user))
        });
        let user = user.with_context(|| format!("{:?}", self.machine.log_of(WAITER)))?;
        let mut user = self.all_of(&user, &anonymous)?;
        self.ask("DELETE", &format!("/containers/{WAITER}?force=1"), None)?;
        self.ask("DELETE", &format!("/containers/{USER}?force=1"), None)?;

        body["Image"] = row.image.into();
        if let Some(instead) = &row.stands_for {
            for (field, _) in set.as_object().into_iter().flatten() {
                body[field] = Value::Null;
            }
            merge(&mut body, instead);
        }
        let expected = self.made(&body)?;
        take_our_labels(&mut user["Config"]["Labels"], &expected["Config"]["Labels"])?;
        let shows = expected != self.baseline(row)?;
        let silent = row.without_effect.contains(&self.machine.system());
        ensure!(shows != silent, "the setting {} effect", if shows { "has an" } else { "has no" });
        Ok(Became::Copied(differences(&user, &expected)))
    }

    /// What the engine makes of a create request, under the user container's name.
    fn made(&self, body: &Value) -> Result<Value> {
        let id = match self.start(USER, body)? {
            Ok(id) => id,
            Err(word) => bail!("the engine refuses the user container's own request: {word}"),
        };
        let (_, document) = self.ask("GET", &format!("/containers/{id}/json"), None)?;
        let all = self.all_of(&document, &[])?;
        self.ask("DELETE", &format!("/containers/{id}?force=1&v=1"), None)?;
        Ok(all)
    }

    /// What the engine makes of a request that sets nothing; null if the image alone has nothing to
    /// run.
    fn baseline(&self, row: &Row) -> Result<Value> {
        let key = (row.image, row.networked);
        if let Some(known) = self.baselines.borrow().get(&key) {
            return Ok(known.clone());
        }
        let made = self.made(&plain(row.image, row.image, row.networked)).unwrap_or_default();
        self.baselines.borrow_mut().insert(key, made.clone());
        Ok(made)
    }

    /// Everything that matters about a running container: its document and its OCI spec. The name
    /// of an anonymous volume is replaced by a word: the action's or a new one.
    fn all_of(&self, document: &Value, of_action: &[String]) -> Result<Value> {
        let id = document["Id"].as_str().context("no ID")?;
        let bundle =
            format!("docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{id}/config.json");
        let spec = fs::read_to_string(self.machine.run_path_of_host(&bundle))
            .with_context(|| format!("no OCI spec of {id}: {}", document["State"]))?;
        let mut spec = serde_json::from_str::<Value>(&spec)?;
        // The engine returns them in no fixed order.
        let sort = |mounts: &mut Value, key: &str| {
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.sort_by_key(|mount| mount[key].to_string());
            }
        };
        let mut mounts = document["Mounts"].clone();
        sort(&mut mounts, "Destination");
        sort(&mut spec["mounts"], "destination");
        if let Some(groups) = spec["process"]["user"]["additionalGids"].as_array_mut() {
            groups.sort_by_key(Value::as_u64);
        }
        if let Some(variables) = spec["process"]["env"].as_array_mut() {
            // The variables of links come in any order; Config has the order of all others.
            variables.sort_by_key(Value::to_string);
        }
        let new: Vec<String> = anonymous(document)
            .into_iter()
            .filter(|name| !of_action.contains(name) && !self.known.contains(name))
            .collect();
        let mut host = document["HostConfig"].clone();
        if let Some(links) = host["Links"].as_array_mut() {
            links.sort_by_key(Value::to_string);
        }
        let mut networks = document["NetworkSettings"]["Networks"].clone();
        for (_, endpoint) in networks.as_object_mut().into_iter().flatten() {
            let set = !endpoint["IPAMConfig"].is_null();
            let mac = endpoint["MacAddress"]
                .as_str()
                .is_some_and(|mac| mac.starts_with("02:42:00:00:00"));
            let Some(fields) = endpoint.as_object_mut() else { continue };
            // An address that was not requested is the next free one.
            fields.retain(|field, _| match field.as_str() {
                "IPAddress" | "GlobalIPv6Address" => set,
                "MacAddress" => mac,
                _ => true,
            });
        }
        let all = json!({
            "Config": document["Config"], "HostConfig": host, "Path": document["Path"], "Args": document["Args"],
            "Mounts": mounts, "Networks": networks, "Spec": spec,
        });
        let named = |names: &[String], word: &str, text: String| {
            names.iter().fold(text, |text, name| text.replace(name, word))
        };
        let text =
            named(of_action, "THE-ACTIONS-VOLUME", named(&new, "A-NEW-VOLUME", all.to_string()));
        let all = serde_json::from_str(&numbered(&text))?;
        Ok(without(without_id(&all, id), &INCIDENTAL))
    }

    /// Creates and starts a container; returns its ID, or why the engine refuses.
    fn start(&self, name: &str, body: &Value) -> Result<Result<String, String>> {
        let (status, answer) =
            self.ask("POST", &format!("/containers/create?name={name}"), Some(body))?;
        if status != 201 {
            return Ok(Err(answer.to_string()));
        }
        let id = answer["Id"].as_str().context("no ID")?.to_owned();
        // Before API 1.44, create accepts one network; the docker command connects the others as we
        // do.
        let (status, answer) = self.ask("POST", &format!("/containers/{id}/start"), None)?;
        Ok(if status == 204 { Ok(id) } else { Err(answer.to_string()) })
    }

    /// Removes everything except the fixtures; what waitdaemon should have removed itself is an
    /// error.
    fn clear(&self) -> Result<()> {
        for id in self.machine.ids()?.iter().filter(|id| !self.fixtures.contains(id)) {
            self.ask("DELETE", &format!("/containers/{id}?force=1&v=1"), None)?;
        }
        Ok(())
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.machine.ask(method, &format!("/v1.{}{path}", self.api), body)
    }
}

/// A create request that sets only what waitdaemon needs, and no network unless the row is about
/// one.
fn plain(image: &str, user_image: &str, networked: bool) -> Value {
    json!({
        "Image": image,
        "Env": [format!("IMAGE={user_image}"), "WAIT_SECONDS=0", "WAITDAEMON_WATCH_SECONDS=0"],
        "NetworkDisabled": !networked,
        "HostConfig": {
            "Binds": ["/run/docker.sock:/var/run/docker.sock"],
            // The docker command always sets this; if it is left out, API 1.41 shows "" for it.
            "RestartPolicy": {"Name": "no"},
        },
    })
}

/// The volumes of a container that were named by the engine.
fn anonymous(document: &Value) -> Vec<String> {
    // The path is used because moby does not always show the name.
    let sources = document["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["Source"].as_str());
    let names = sources.filter_map(|path| path.strip_suffix("/_data")?.rsplit('/').next());
    names.filter(|name| name.len() == 64).map(str::to_owned).collect()
}

/// Removes the numbers of the engine's temporary folders and layers.
fn numbered(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = ["/safe-mount", "/overlay2/", "/rootfs/overlayfs/"]
        .iter()
        .filter_map(|word| Some(rest.find(word)? + word.len()))
        .min()
    {
        kept.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    kept + rest
}

/// Removes the fields whose pointer ends in one of these.
fn without(mut document: Value, ends: &[&str]) -> Value {
    fn prune(at: &str, value: &mut Value, ends: &[&str]) {
        if let Value::Object(fields) = value {
            fields.retain(|key, _| !ends.iter().any(|end| format!("{at}/{key}").ends_with(end)));
            for (key, value) in fields {
                prune(&format!("{at}/{key}"), value, ends);
            }
        }
    }
    prune("", &mut document, ends);
    document
}

/// Starts a container whose volumes others may take over; returns its ID.
pub fn with_volumes(machine: &Machine, name: &str, more: &[&str]) -> Result<String> {
    let volumes = ["-v", "named:/n", "-v", "/anonymous", "probe:1"];
    machine.engine(&[&["run", "-d", "--name", name], more, &volumes].concat())
}

/// The first disk of this machine, for limits on block devices.
pub fn disk() -> Result<String> {
    let listed = lab::nest::output(Command::new("lsblk").args(["-dnpo", "NAME,TYPE"]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let disk = text.lines().find_map(|line| line.strip_suffix(" disk")).context("no disk")?;
    Ok(disk.trim().to_owned())
}

/// Makes the images that rows name.
pub fn make_images() -> Result<()> {
    let probe = |name: &str, config: Value| {
        lab::image::busybox(
            &images().join(format!("{name}.tar")),
            &format!("{name}:1"),
            &config,
            &[],
        )
    };
    probe("probe", json!({"Cmd": ["/bin/sleep", "1000"]}))?;
    probe("entrypoint", json!({"Entrypoint": ["/bin/sh", "-c", "exec sleep 1000", "name"]}))?;
    probe("both", json!({"Entrypoint": ["/bin/sleep"], "Cmd": ["1009"]}))?;
    probe("neither", json!({}))?;
    probe("full", super::docker_rows::full_image())?;
    let config = super::docker_rows::own_full_image();
    lab::image::waitdaemon_with(
        &images().join("own-full.tar"),
        "own-full:1",
        &own_program(),
        None,
        &config,
    )
}
