//! Turns the action container's native document (labels, OCI spec) into nerdctl's arguments. Pure.
//!
//! Where each flag of nerdctl 2.2.1 leaves its value was read in its source (`pkg/cmd/container`,
//! `pkg/labels`) and is proved row by row in docs/fidelity.md. A setting that no flag can express
//! is refused, here or in check.rs, never dropped silently.

mod by_nerdctl;
mod init;
mod mounts;
mod resources;
mod rights;

use serde_json::Value;

use super::spec::{
    environment, has_namespace, hostname_variable, is_hostname, label_json, made_by_nerdctl, quoted,
};
use crate::engine::json::{list, short, text};

/// A setting of the action that nerdctl cannot carry over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nerdctl cannot carry over {0}")]
pub struct NotCarried(pub String);

/// What to run nerdctl with.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    /// The flags and arguments after `nerdctl create`.
    pub arguments: Vec<String>,
    /// What it reads on its standard input: the action's seccomp profile, if it has one.
    pub input: String,
}

/// What flags depend on beside the documents: facts about the machine.
pub trait Host {
    /// Returns the path of a block device by major and minor number; the spec has no more.
    fn block_device(&self, major: u64, minor: u64) -> Option<String>;
    /// True if mounts below this path also show in copies of its mount.
    fn propagates(&self, path: &str) -> bool;
    /// False if the network of an action that the agent made cannot be created.
    fn makes_networks(&self) -> bool;
}

/// Files that the creator of a container binds into it, from its own places.
pub const NAME_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];
/// Volume options that have no effect on containerd and that nerdctl leaves out.
pub const WITHOUT_EFFECT: [&str; 6] = ["z", "Z", "cached", "delegated", "consistent", "nocopy"];
/// Options that take a right from a mount, and those that give it (mount(8)).
pub const RIGHTS_OF_MOUNTS: [(&str, &str); 3] =
    [("noexec", "exec"), ("nodev", "dev"), ("nosuid", "suid")];
/// Label in which nerdctl keeps a container's stop signal; the image's signal overrides
/// `--stop-signal`, but not this.
const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";
/// The sysctl that nerdctl sets in every container with its own network.
pub const USUAL_SYSCTL: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// What the user container does not have from the action.
pub struct Wanted<'a> {
    /// The name of its image.
    pub image: &'a str,
    /// Its own name.
    pub name: &'a str,
    /// Its labels beside the action's.
    pub labels: &'a [(&'a str, String)],
    /// Its arguments.
    pub arguments: &'a [String],
}

/// Builds the call that creates the user container.
///
/// `action` is the action's native document, `own_image` that of its image. `host` knows what the
/// documents do not say.
///
/// # Errors
/// If nerdctl has no flag for a setting ([`NotCarried`] names the first).
pub fn user_container(
    action: &Value,
    own_image: &Value,
    wanted: &Wanted<'_>,
    host: &dyn Host,
) -> Result<Creation, NotCarried> {
    let spec = &action["Spec"];
    let config = &own_image["ImageConfig"]["config"];
    let mut flags = Flags(vec![format!("--name={}", wanted.name)]);
    flags.labels(action, config);
    for (key, value) in wanted.labels {
        flags.say("label", format!("{key}={value}"));
    }
    for variable in environment(action, config) {
        flags.say("env", variable);
    }
    flags.namespaces(action)?;
    flags.network(action, host)?;
    flags.process(action, config);
    flags.init(spec);
    flags.resources(&spec["linux"], host)?;
    flags.mounts(action, config, host)?;
    let input = flags.rights(action);
    flags.by_nerdctl(action);
    // The image is already here; nerdctl would pull a missing image without the login and the
    // proxies.
    flags.say("pull", "never");
    let mut arguments = flags.0;
    arguments.push(wanted.image.to_owned());
    // nerdctl 2.2.1 eats exactly one `--`; the rest is the user's.
    arguments.push("--".into());
    arguments.extend_from_slice(wanted.arguments);
    Ok(Creation { arguments, input })
}

/// nerdctl's flags, each as one word, so that no value can be mistaken for another flag.
struct Flags(Vec<String>);

impl Flags {
    fn say(&mut self, flag: &str, value: impl AsRef<str>) {
        self.0.push(format!("--{flag}={}", value.as_ref()));
    }

    /// Adds the action's labels, without those of nerdctl, containerd and our own image.
    fn labels(&mut self, action: &Value, config: &Value) {
        for (key, value) in action["Labels"].as_object().into_iter().flatten() {
            let theirs = ["nerdctl/", "containerd.io/restart.", STOP_SIGNAL]
                .iter()
                .any(|start| key.starts_with(start));
            if !theirs && config["Labels"].get(key) != Some(value) {
                self.say("label", format!("{key}={}", text(value)));
            }
        }
        let signal = text(&action["Labels"][STOP_SIGNAL]);
        let of_image = config["StopSignal"].as_str().filter(|signal| !signal.is_empty());
        if !signal.is_empty() && signal != of_image.unwrap_or("SIGTERM") {
            self.say("label", format!("{STOP_SIGNAL}={signal}"));
        }
        for (key, value) in action["Spec"]["annotations"].as_object().into_iter().flatten() {
            // nerdctl keeps a copy of its labels there.
            if !key.contains("nerdctl/") {
                self.say("annotation", format!("{key}={}", text(value)));
            }
        }
    }

    /// Sets every namespace, because nerdctl's defaults are not the agent's. A namespace that the
    /// spec does not make is the host's.
    fn namespaces(&mut self, action: &Value) -> Result<(), NotCarried> {
        let spaces = list(&action["Spec"]["linux"]["namespaces"]);
        let own: Vec<&str> = spaces.iter().map(|space| text(&space["type"])).collect();
        if own.contains(&"user") {
            return Err(NotCarried(
                "a user namespace: nerdctl makes them by its own configuration only".into(),
            ));
        }
        match text(&action["Labels"]["nerdctl/pid-container"]) {
            "" if !own.contains(&"pid") => self.say("pid", "host"),
            "" => {}
            other => self.say("pid", format!("container:{other}")),
        }
        let ipc = label_json(action, "nerdctl/ipc");
        match text(&ipc["mode"]) {
            "container" => {
                self.say("ipc", format!("container:{}", text(&ipc["victimContainerId"])))
            }
            "shareable" => self.say("ipc", "shareable"),
            _ if !own.contains(&"ipc") => self.say("ipc", "host"),
            _ => {}
        }
        if !text(&ipc["shmSize"]).is_empty() {
            self.say("shm-size", text(&ipc["shmSize"]));
        }
        if !own.contains(&"uts") && own.contains(&"network") {
            self.say("uts", "host");
        }
        self.say("cgroupns", if own.contains(&"cgroup") { "private" } else { "host" });
        Ok(())
    }

    fn network(&mut self, action: &Value, host: &dyn Host) -> Result<(), NotCarried> {
        let spec = &action["Spec"];
        let has = |kind: &str| has_namespace(spec, kind);
        let labelled = label_json(action, "nerdctl/networks");
        let by_spec = match (has("network"), host.makes_networks()) {
            (true, true) => "bridge",
            (true, false) => "none",
            (false, _) => "host",
        };
        let by_spec = [Value::from(by_spec)];
        let networks = if list(&labelled).is_empty() { &by_spec[..] } else { list(&labelled) };
        for network in networks {
            self.say("network", quoted(text(network)));
        }
        let labels = &action["Labels"];
        for (flag, label) in
            [("ip", "nerdctl/ip"), ("ip6", "nerdctl/ip6"), ("mac-address", "nerdctl/mac-address")]
        {
            if let Some(value) = labels[label].as_str() {
                self.say(flag, value);
            }
        }
        // Another container's network comes with its names, and nerdctl refuses further ones.
        if networks.iter().any(|network| text(network).starts_with("container:")) {
            return Ok(());
        }
        let (hostname, id) = (text(&spec["hostname"]), text(&action["ID"]));
        let hosts_own = !has("network") && !made_by_nerdctl(action);
        if let Some(variable) =
            hostname_variable(action).filter(|variable| *variable != hostname || hosts_own)
        {
            // nerdctl's own variable comes last and wins, so only the hostname can set it.
            if !is_hostname(variable) {
                return Err(NotCarried(format!(
                    "the variable HOSTNAME={variable:?}: a hostname has 1 to 64 characters"
                )));
            }
            self.say("hostname", variable);
        } else if has("uts") && !hostname.is_empty() && !hosts_own && short(id) != hostname {
            self.say("hostname", hostname);
        }
        if let Some(domain) =
            labels["nerdctl/domainname"].as_str().filter(|domain| !domain.is_empty())
        {
            self.say("domainname", domain);
        }
        let dns = label_json(action, "nerdctl/dns");
        for (flag, field) in [
            ("dns", "DNSServers"),
            ("dns-option", "DNSResolvConfOptions"),
            ("dns-search", "DNSSearchDomains"),
        ] {
            for entry in list(&dns[field]) {
                self.say(flag, quoted(text(entry)));
            }
        }
        for host in list(&label_json(action, "nerdctl/extraHosts")) {
            self.say("add-host", quoted(text(host)));
        }
        // Shown only for a running container, which the action is.
        for port in list(&action["Process"]["NetNS"]["PortMappings"]) {
            let ip = text(&port["HostIP"]);
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            let ports = format!("{}:{}", port["HostPort"], port["ContainerPort"]);
            self.say("publish", format!("{ip}:{ports}/{}", text(&port["Protocol"])));
        }
        Ok(())
    }

    fn process(&mut self, action: &Value, own: &Value) {
        let process = &action["Spec"]["process"];
        let user = &process["user"];
        let (uid, gid) = (user["uid"].as_u64().unwrap_or(0), user["gid"].as_u64().unwrap_or(0));
        let said = action["Labels"]["nerdctl/user"].as_str();
        if said.map_or((uid, gid) != (0, 0), |said| said != text(&own["User"])) {
            self.say("user", format!("{uid}:{gid}"));
        }
        for group in list(&user["additionalGids"])
            .iter()
            .filter_map(Value::as_u64)
            .filter(|group| *group != gid)
        {
            self.say("group-add", group.to_string());
        }
        if let Some(mask) = user["umask"].as_u64() {
            self.say("umask", format!("{mask:04o}"));
        }
        let cwd = text(&process["cwd"]);
        if cwd != own["WorkingDir"].as_str().filter(|path| !path.is_empty()).unwrap_or("/") {
            self.say("workdir", cwd);
        }
        if process["terminal"] == true {
            self.say("tty", "true");
        }
        for limit in list(&process["rlimits"]) {
            let name = text(&limit["type"]).trim_start_matches("RLIMIT_").to_ascii_lowercase();
            let value = |value: &Value| {
                if value.as_u64() == Some(u64::MAX) { "-1".into() } else { value.to_string() }
            };
            self.say(
                "ulimit",
                format!("{name}={}:{}", value(&limit["soft"]), value(&limit["hard"])),
            );
        }
        if let Some(score) = process["oomScoreAdj"].as_i64() {
            self.say("oom-score-adj", score.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A machine about which nothing is known.
    struct Nothing;

    impl Host for Nothing {
        fn block_device(&self, _: u64, _: u64) -> Option<String> {
            None
        }
        fn propagates(&self, _: &str) -> bool {
            false
        }
        fn makes_networks(&self) -> bool {
            true
        }
    }

    /// The Tink Agent's container; see tests/fixtures/README.md.
    fn agents() -> Value {
        serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native-agent.json"))
            .unwrap()
    }

    fn copy(action: &Value) -> Result<Vec<String>, NotCarried> {
        copy_with(action, &["-c", "sleep 5"])
    }

    fn copy_with(action: &Value, arguments: &[&str]) -> Result<Vec<String>, NotCarried> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let own = json!({"ImageConfig": {"config": {"Entrypoint": ["/waitdaemon"]}}});
        let labels = [("waitdaemon.role", "user".into())];
        user_container(
            action,
            &own,
            &Wanted { image: "alpine", name: "a-user", labels: &labels, arguments: &arguments },
            &Nothing,
        )
        .map(|made| made.arguments)
    }

    #[test]
    fn the_agents_container_goes_across() {
        let expected = [
            "--name=a-user",
            "--label=waitdaemon.role=user",
            "--env=A=b",
            "--env=IMAGE=alpine",
            "--pid=host",
            "--cgroupns=host",
            "--network=bridge",
            "--ulimit=nofile=1024:1024",
            "--tmpfs=/run:nosuid,strictatime,mode=755,size=65536k,exec,dev",
            "--volume=/tmp:/hosttmp:rbind,ro",
            "--privileged=true",
            "--pull=never",
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
        action["Spec"]["process"]["env"] = json!(["A=", "B=x=y", "C=\n ", "PATH=/mine"]);
        let made = copy_with(&action, &words).unwrap();
        assert_eq!(made[made.iter().position(|word| word == "--").unwrap() + 1..], words);
        for variable in ["A=", "B=x=y", "C=\n ", "PATH=/mine"] {
            assert!(made.contains(&format!("--env={variable}")), "{variable:?}");
        }
    }

    #[test]
    fn the_variable_hostname_arrives_or_is_refused() {
        let long = "x".repeat(65);
        for (value, said) in [
            ("web", true),
            ("db-1.example.org", true),
            ("two words", true),
            ("a\nb", false),
            ("", false),
            (&long, false),
        ] {
            let mut action = agents();
            action["Spec"]["process"]["env"] = json!([format!("HOSTNAME={value}")]);
            let made =
                copy(&action).is_ok_and(|made| made.contains(&format!("--hostname={value}")));
            assert_eq!(made, said, "{value:?}");
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
            "--cgroupns=private",
            "--network=host",
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
    fn volumes_on_usual_places_are_carried() {
        let mut action = agents();
        let mounts = action["Spec"]["mounts"].as_array_mut().unwrap();
        for place in ["/dev", "/run"] {
            mounts.push(json!({"type": "bind", "source": place, "destination": place, "options": ["rbind", "rw"]}));
        }
        let made = copy(&action).unwrap();
        for flag in ["--volume=/dev:/dev", "--volume=/run:/run"] {
            assert!(made.iter().any(|word| word == flag), "{flag}: {made:?}");
        }
        assert!(!made.iter().any(|word| word.starts_with("--tmpfs=/run")), "{made:?}");
    }

    #[test]
    fn what_has_no_flag_is_refused() {
        for (path, value) in [
            ("/Spec/linux/resources", json!({"hugepageLimits": {"2MB": 10}})),
            (
                "/Spec/linux/resources",
                json!({"blockIO": {"weightDevice": [{"major": 1, "minor": 2, "weight": 3}]}}),
            ),
            ("/Spec/linux/namespaces", json!([{"type": "user"}])),
            ("/Spec/mounts", json!([{"type": "bind", "source": "/a:b", "destination": "/c"}])),
            ("/Spec/mounts", json!([{"type": "overlay", "source": "x", "destination": "/c"}])),
        ] {
            let mut action = agents();
            *action.pointer_mut(path).unwrap() = value;
            assert!(copy(&action).is_err(), "{path}");
        }
    }

    #[test]
    fn a_recorded_action_of_nerdctl_goes_across() {
        let recording: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native.json"))
                .unwrap();
        let made = user_container(
            &recording["container"],
            &recording["image"],
            &Wanted {
                image: "alpine",
                name: "a-user",
                labels: &[],
                arguments: &["reboot".to_owned()],
            },
            &Nothing,
        )
        .unwrap();
        for flag in [
            "--label=mine=1",
            "--env=A=b",
            "--volume=/tmp:/hosttmp:ro",
            "--volume=named:/named",
            "--memory=67108864",
            "--pids-limit=50",
            "--ulimit=nofile=100:200",
            "--sysctl=net.ipv4.ip_forward=1",
            "--cap-add=CAP_NET_ADMIN",
            "--add-host=db:10.1.1.3",
            "--dns=10.1.1.1",
            "--workdir=/work",
            "--user=0:5",
            "--label=io.containerd.image.config.stop-signal=SIGUSR1",
            "--security-opt=seccomp=/dev/stdin",
        ] {
            assert!(made.arguments.iter().any(|word| word == flag), "{flag}: {:?}", made.arguments);
        }
        assert_eq!(made.arguments[made.arguments.len() - 3..], ["alpine", "--", "reboot"]);
        assert!(made.input.contains("SCMP_ACT_"));
    }

    proptest::proptest! {
        #[test]
        fn any_document_is_answered(text in "\\PC{0,20}", number in proptest::num::i64::ANY) {
            for document in [json!(text), json!({"Spec": {"process": {"args": [number, text], "env": text}, "mounts": [number]}})] {
                let _ = user_container(
                    &document,
                    &document,
                    &Wanted { image: &text, name: &text, labels: &[], arguments: &[] },
                    &Nothing,
                );
            }
        }
    }
}
