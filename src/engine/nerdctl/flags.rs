//! From the action container's native document (labels and OCI spec) to nerdctl's arguments. Pure.
//!
//! Where each flag of nerdctl 2.2.1 leaves its value was read in its source (`pkg/cmd/container`, `pkg/labels`) and is
//! proved row by row in docs/fidelity.md. What no flag can say is refused, here or in check.rs, never dropped in silence.

use serde_json::Value;

use super::spec::{
    all_devices, hostname_variable, is_hostname, is_usual, label_json, made_by_nerdctl, nothing, privileged,
};
use crate::engine::json::{cleaned, list, text};
use crate::login;

/// Something of the action that nerdctl cannot carry over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nerdctl cannot carry over {0}")]
pub struct NotCarried(pub String);

/// What nerdctl is to be run with.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    /// The flags and arguments after `nerdctl create`.
    pub arguments: Vec<String>,
    /// What it reads on its standard input: the action's seccomp profile, where it has one.
    pub input: String,
}

impl Creation {
    /// The user's arguments: what follows the only `--` that is ours.
    pub fn words(&self) -> &[String] {
        let ours = self.arguments.iter().position(|word| word == "--").map_or(self.arguments.len(), |ours| ours + 1);
        &self.arguments[ours..]
    }
}

/// What the machine on which the action runs must be asked.
pub trait Host {
    /// The path of a block device by its major and minor number: the spec has no more.
    fn block_device(&self, major: u64, minor: u64) -> Option<String>;
    /// True if what is mounted below this path shows in the mount's copies too.
    fn propagates(&self, path: &str) -> bool;
}

/// PATH as containerd sets it where neither image nor action does (`oci.WithDefaultPathEnv`).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that whoever makes a container binds into it, from places of his own.
pub const NAME_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];
/// Options of a volume that have no effect on containerd and that nerdctl leaves out.
pub const WITHOUT_EFFECT: [&str; 6] = ["z", "Z", "cached", "delegated", "consistent", "nocopy"];
/// What takes a right from a mount, and what gives it (mount(8)).
pub const RIGHTS_OF_MOUNTS: [(&str, &str); 3] = [("noexec", "exec"), ("nodev", "dev"), ("nosuid", "suid")];
/// What a mount can be to its source (mount_namespaces(7)).
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
/// Where nerdctl keeps a container's stop signal; the image's wins over `--stop-signal`, not over this.
const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";
/// What nerdctl sets in every container that has a network of its own.
pub const USUAL_SYSCTL: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// The call that makes the user container.
///
/// `action` is the action's native document, `own` that of its image. `host` knows what the documents do not say.
///
/// # Errors
/// [`NotCarried`] with the first thing that nerdctl has no flag for.
pub fn user_container(
    action: &Value,
    own: &Value,
    image: &str,
    name: &str,
    labels: &[(&str, String)],
    host: &dyn Host,
) -> Result<Creation, NotCarried> {
    let spec = &action["Spec"];
    let config = &own["ImageConfig"]["config"];
    let mut flags = Flags(vec![format!("--name={name}")]);
    flags.labels(action, own);
    for (key, value) in labels {
        flags.say("label", format!("{key}={value}"));
    }
    for variable in environment(action, config) {
        flags.say("env", variable);
    }
    flags.namespaces(action)?;
    flags.network(action)?;
    flags.process(action, config);
    let words = flags.start_up(spec)?;
    flags.resources(&spec["linux"], host)?;
    flags.mounts(action, config, host)?;
    let input = flags.rights(action);
    flags.by_nerdctl(action);
    let mut arguments = flags.0;
    arguments.push(image.to_owned());
    // Exactly one `--` is eaten (nerdctl 2.2.1); what follows is the user's.
    arguments.push("--".into());
    arguments.extend(words);
    Ok(Creation { arguments, input })
}

/// Variables of the action less our own image's and those that engines add.
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
        (!added && !login::is_of_login(variable) && !list(&own["Env"]).iter().any(|entry| entry == variable))
            .then_some(variable)
    })
}

/// A value of a flag that nerdctl reads as a line of CSV (pflag `StringSlice`).
fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// nerdctl's flags, each as one word, so that no value can be taken for another flag.
struct Flags(Vec<String>);

impl Flags {
    fn say(&mut self, flag: &str, value: impl AsRef<str>) {
        self.0.push(format!("--{flag}={}", value.as_ref()));
    }

    /// Labels of the action less those of nerdctl, containerd and our own image.
    fn labels(&mut self, action: &Value, own: &Value) {
        for (key, value) in action["Labels"].as_object().into_iter().flatten() {
            let theirs = ["nerdctl/", "containerd.io/restart.", STOP_SIGNAL].iter().any(|start| key.starts_with(start));
            if !theirs && own["ImageConfig"]["config"]["Labels"].get(key) != Some(value) {
                self.say("label", format!("{key}={}", text(value)));
            }
        }
        let signal = text(&action["Labels"][STOP_SIGNAL]);
        let of_image = own["ImageConfig"]["config"]["StopSignal"].as_str().filter(|signal| !signal.is_empty());
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

    /// Each namespace that the spec does not make is the host's; all are said, for nerdctl's defaults
    /// are not the agent's.
    fn namespaces(&mut self, action: &Value) -> Result<(), NotCarried> {
        let spaces = list(&action["Spec"]["linux"]["namespaces"]);
        let own: Vec<&str> = spaces.iter().map(|space| text(&space["type"])).collect();
        if own.contains(&"user") {
            return Err(NotCarried("a user namespace: nerdctl makes them by its own configuration only".into()));
        }
        match text(&action["Labels"]["nerdctl/pid-container"]) {
            "" if !own.contains(&"pid") => self.say("pid", "host"),
            "" => {}
            other => self.say("pid", format!("container:{other}")),
        }
        let ipc = label_json(action, "nerdctl/ipc");
        match text(&ipc["mode"]) {
            "container" => self.say("ipc", format!("container:{}", text(&ipc["victimContainerId"]))),
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

    fn network(&mut self, action: &Value) -> Result<(), NotCarried> {
        let spec = &action["Spec"];
        let has = |kind: &str| list(&spec["linux"]["namespaces"]).iter().any(|space| space["type"] == kind);
        let labelled = label_json(action, "nerdctl/networks");
        let by_spec = [Value::from(if has("network") { "bridge" } else { "host" })];
        let networks = if list(&labelled).is_empty() { &by_spec[..] } else { list(&labelled) };
        for network in networks {
            self.say("network", quoted(text(network)));
        }
        let labels = &action["Labels"];
        for (flag, label) in [("ip", "nerdctl/ip"), ("ip6", "nerdctl/ip6"), ("mac-address", "nerdctl/mac-address")] {
            if let Some(value) = labels[label].as_str() {
                self.say(flag, value);
            }
        }
        // A container's network comes with its names, and nerdctl refuses others beside it.
        if networks.iter().any(|network| text(network).starts_with("container:")) {
            return Ok(());
        }
        let (hostname, id) = (text(&spec["hostname"]), text(&action["ID"]));
        let hosts_own = !has("network") && !made_by_nerdctl(action);
        if let Some(variable) = hostname_variable(action).filter(|variable| *variable != hostname || hosts_own) {
            // nerdctl's own variable comes last and wins: it can be had by this name only.
            if !is_hostname(variable) {
                return Err(NotCarried(format!("the variable HOSTNAME={variable}: a hostname cannot be that")));
            }
            self.say("hostname", variable);
        } else if has("uts") && !hostname.is_empty() && !hosts_own && id.get(..12) != Some(hostname) {
            self.say("hostname", hostname);
        }
        if let Some(domain) = labels["nerdctl/domainname"].as_str().filter(|domain| !domain.is_empty()) {
            self.say("domainname", domain);
        }
        let dns = label_json(action, "nerdctl/dns");
        for (flag, field) in
            [("dns", "DNSServers"), ("dns-option", "DNSResolvConfOptions"), ("dns-search", "DNSSearchDomains")]
        {
            for entry in list(&dns[field]) {
                self.say(flag, quoted(text(entry)));
            }
        }
        for host in list(&label_json(action, "nerdctl/extraHosts")) {
            self.say("add-host", quoted(text(host)));
        }
        // Shown of a running container only, as the action is.
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
        for group in list(&user["additionalGids"]).iter().filter_map(Value::as_u64).filter(|group| *group != gid) {
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
            let value = |value: &Value| if value.as_u64() == Some(u64::MAX) { "-1".into() } else { value.to_string() };
            self.say("ulimit", format!("{name}={}:{}", value(&limit["soft"]), value(&limit["hard"])));
        }
        if let Some(score) = process["oomScoreAdj"].as_i64() {
            self.say("oom-score-adj", score.to_string());
        }
    }

    /// What runs before the command; returns the user's words, which are all after our own program.
    fn start_up(&mut self, spec: &Value) -> Result<Vec<String>, NotCarried> {
        let mut words = list(&spec["process"]["args"]);
        if let [first, second, rest @ ..] = words
            && second == "--"
            && let Some(init) = list(&spec["mounts"]).iter().find(|mount| mount["destination"] == *first)
        {
            self.say("init-binary", text(&init["source"]));
            words = rest;
        }
        let at = |place: &str| list(&spec["mounts"]).iter().find(|mount| mount["destination"] == place);
        if at("/sys/fs/cgroup").is_some_and(|mount| mount["options"] == serde_json::json!(["rw"])) {
            self.say("systemd", "always");
        }
        Ok(words.iter().skip(1).map(|word| text(word).to_owned()).collect())
    }

    fn resources(&mut self, linux: &Value, host: &dyn Host) -> Result<(), NotCarried> {
        let known = [
            ("memory", "limit", "memory"),
            ("memory", "reservation", "memory-reservation"),
            ("memory", "swap", "memory-swap"),
            ("memory", "swappiness", "memory-swappiness"),
            ("memory", "disableOOMKiller", "oom-kill-disable"),
            ("cpu", "shares", "cpu-shares"),
            ("cpu", "quota", "cpu-quota"),
            ("cpu", "period", "cpu-period"),
            ("cpu", "realtimePeriod", "cpu-rt-period"),
            ("cpu", "realtimeRuntime", "cpu-rt-runtime"),
            ("cpu", "cpus", "cpuset-cpus"),
            ("cpu", "mems", "cpuset-mems"),
            ("pids", "limit", "pids-limit"),
            ("blockIO", "weight", "blkio-weight"),
            ("blockIO", "weightDevice", "blkio-weight-device"),
            ("blockIO", "throttleReadBpsDevice", "device-read-bps"),
            ("blockIO", "throttleWriteBpsDevice", "device-write-bps"),
            ("blockIO", "throttleReadIOPSDevice", "device-read-iops"),
            ("blockIO", "throttleWriteIOPSDevice", "device-write-iops"),
        ];
        let groups = linux["resources"].as_object().into_iter().flatten();
        for (group, values) in groups.filter(|(group, _)| *group != "devices" && *group != "unified") {
            // Where 0 is a value and not "not set".
            let counts = |field: &str| field == "swappiness";
            let values = values.as_object().into_iter().flatten();
            for (field, value) in values.filter(|(field, value)| counts(field) || !nothing(value)) {
                let Some((_, _, flag)) = known.iter().find(|(of, named, _)| of == group && named == field) else {
                    return Err(NotCarried(format!("the limit {group}.{field}")));
                };
                match value {
                    Value::Array(devices) => {
                        for limit in devices {
                            let number = |field: &str| limit[field].as_u64().unwrap_or_default();
                            let value = limit["weight"].as_u64().unwrap_or_else(|| number("rate"));
                            let path = host.block_device(number("major"), number("minor")).ok_or_else(|| {
                                NotCarried(format!(
                                    "{group}.{field}: there is no device {}:{}",
                                    limit["major"], limit["minor"]
                                ))
                            })?;
                            self.say(flag, format!("{path}:{value}"));
                        }
                    }
                    Value::String(text) => self.say(flag, text),
                    value => self.say(flag, value.to_string()),
                }
            }
        }
        for (key, value) in linux["resources"]["unified"].as_object().into_iter().flatten() {
            self.say("cgroup-conf", quoted(&format!("{key}={}", text(value))));
        }
        for (key, value) in linux["sysctl"].as_object().into_iter().flatten() {
            if (key.as_str(), text(value)) != USUAL_SYSCTL {
                self.say("sysctl", format!("{key}={}", text(value)));
            }
        }
        if let Some(class) = linux["intelRdt"]["closID"].as_str() {
            self.say("rdt-class", class);
        }
        Ok(())
    }

    fn mounts(&mut self, action: &Value, own: &Value, host: &dyn Host) -> Result<(), NotCarried> {
        if made_by_nerdctl(action) {
            self.labelled_mounts(action, own)
        } else {
            self.mounts_of_spec(&action["Spec"], host)
        }
    }

    /// nerdctl keeps what was asked for in a label: the spec alone does not tell a volume's name.
    fn labelled_mounts(&mut self, action: &Value, own: &Value) -> Result<(), NotCarried> {
        let anonymous = label_json(action, "nerdctl/anonymous-volumes");
        for mount in list(&label_json(action, "nerdctl/mounts")) {
            let (name, target, mode) = (text(&mount["Name"]), text(&mount["Destination"]), text(&mount["Mode"]));
            if list(&anonymous).iter().any(|volume| volume == name) && own["Volumes"].get(target).is_some() {
                continue;
            }
            if mount["Type"] == "tmpfs" {
                self.say("tmpfs", format!("{target}:{mode}").trim_end_matches(':'));
            } else {
                let source = if name.is_empty() { text(&mount["Source"]) } else { name };
                self.volume(source, target, mode)?;
            }
        }
        Ok(())
    }

    fn mounts_of_spec(&mut self, spec: &Value, host: &dyn Host) -> Result<(), NotCarried> {
        let mounts = list(&spec["mounts"]);
        for (index, mount) in mounts.iter().enumerate() {
            let (kind, target, source) = (text(&mount["type"]), text(&mount["destination"]), text(&mount["source"]));
            let agents_own = NAME_FILES.contains(&target) && source.contains("/tink-dns-");
            // A later one on the same place hides this one: the agent's /run and a volume on it.
            let hidden =
                mounts[index + 1..].iter().any(|later| cleaned(text(&later["destination"])) == cleaned(target));
            if is_usual(mount) || agents_own || hidden {
                continue;
            }
            let options: Vec<&str> = list(&mount["options"]).iter().map(text).collect();
            match kind {
                "bind" | "none" => {
                    // nerdctl refuses what is said twice and drops words without effect; `rw` is the default.
                    let mut said: Vec<&str> = Vec::new();
                    let has_effect =
                        |option: &&str| !["bind", "rw"].contains(option) && !WITHOUT_EFFECT.contains(option);
                    for option in options.into_iter().filter(has_effect) {
                        if !said.contains(&option) {
                            said.push(option);
                        }
                    }
                    // With a third part nerdctl says `rprivate`, where the action's has what runc does with
                    // a mount of which nothing is said: it is the source's slave, if that propagates.
                    if said == ["rbind"] {
                        said.clear();
                    } else if !said.iter().any(|option| PROPAGATIONS.contains(option)) && host.propagates(source) {
                        said.push("rslave");
                    }
                    self.volume(source, target, &said.join(","))?;
                }
                "tmpfs" => {
                    // nerdctl adds the negatives where the positives are not said.
                    let said = |option: &str| options.contains(&option);
                    let rights = RIGHTS_OF_MOUNTS.iter().filter(|(not, right)| !said(not) && !said(right));
                    let all: Vec<&str> = options.iter().copied().chain(rights.map(|(_, right)| *right)).collect();
                    self.say("tmpfs", format!("{target}:{}", all.join(",")));
                }
                _ => return Err(NotCarried(format!("the mount of type {kind} on {target}"))),
            }
        }
        Ok(())
    }

    fn volume(&mut self, source: &str, target: &str, mode: &str) -> Result<(), NotCarried> {
        if source.contains(':') || target.contains(':') {
            return Err(NotCarried(format!("the volume {source} on {target}: there is a colon in its path")));
        }
        self.say("volume", format!("{source}:{target}:{mode}").trim_end_matches(':'));
        Ok(())
    }

    /// Privileges, devices, and what takes rights away; returns the seccomp profile, if there is one.
    fn rights(&mut self, action: &Value) -> String {
        let spec = &action["Spec"];
        let linux = &spec["linux"];
        if spec["root"]["readonly"] == true {
            self.say("read-only", "true");
        }
        let asked_for = label_json(action, "nerdctl/host-config");
        for device in list(&asked_for["Devices"]) {
            let part = |field: &str| text(&device[field]).to_owned();
            let device = [part("PathOnHost"), part("PathInContainer"), part("CgroupPermissions")].join(":");
            self.say("device", quoted(&device));
        }
        if privileged(spec) {
            // It overrides no-new-privileges, which the agent sets: nerdctl has no way to say both.
            self.say("privileged", "true");
            if !all_devices(spec) {
                self.say("security-opt", "privileged-without-host-devices");
            }
            return String::new();
        }
        if spec["process"]["noNewPrivileges"] == true {
            self.say("security-opt", "no-new-privileges");
        }
        self.say("cap-drop", "ALL");
        for capability in list(&spec["process"]["capabilities"]["bounding"]) {
            self.say("cap-add", text(capability));
        }
        let profile = text(&spec["process"]["apparmorProfile"]);
        self.say("security-opt", format!("apparmor={}", if profile.is_empty() { "unconfined" } else { profile }));
        if nothing(&linux["maskedPaths"]) && nothing(&linux["readonlyPaths"]) {
            self.say("security-opt", "systempaths=unconfined");
        }
        let cgroups = list(&spec["mounts"]).iter().find(|mount| mount["destination"] == "/sys/fs/cgroup");
        let options = cgroups.map(|mount| list(&mount["options"])).unwrap_or_default();
        if options.len() > 1 && options.iter().any(|option| option == "rw") {
            self.say("security-opt", "writable-cgroups=true");
        }
        if linux["seccomp"].is_null() {
            self.say("security-opt", "seccomp=unconfined");
            return String::new();
        }
        // Also nerdctl's own profile: it depends on the kernel and the capabilities, and cannot be named.
        self.say("security-opt", "seccomp=/dev/stdin");
        linux["seccomp"].to_string()
    }

    /// What only nerdctl's own containers have.
    fn by_nerdctl(&mut self, action: &Value) {
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
            // The exec form has no flag: it comes from an image only, and ours has none.
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
        if let Some(parent) = of_systemd.or(of_files).filter(|parent| *parent != "system.slice" && *parent != usual) {
            self.say("cgroup-parent", parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A machine of which nothing is known.
    struct Nothing;

    impl Host for Nothing {
        fn block_device(&self, _: u64, _: u64) -> Option<String> {
            None
        }
        fn propagates(&self, _: &str) -> bool {
            false
        }
    }

    /// What the Tink Agent's container looks like; see tests/fixtures/README.md.
    fn agents() -> Value {
        serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native-agent.json")).unwrap()
    }

    fn copy(action: &Value) -> Result<Vec<String>, NotCarried> {
        let own = json!({"ImageConfig": {"config": {"Entrypoint": ["/waitdaemon"]}}});
        let labels = [("waitdaemon.role", "user".into())];
        user_container(action, &own, "alpine", "a-user", &labels, &Nothing).map(|made| made.arguments)
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
            assert!(made.contains(&format!("--env={variable}")), "{variable:?}");
        }
    }

    #[test]
    fn the_variable_hostname_arrives_or_is_refused() {
        for (value, said) in [("web", true), ("db-1.example.org", true), ("two words", false), ("", false)] {
            let mut action = agents();
            action["Spec"]["process"]["env"] = json!([format!("HOSTNAME={value}")]);
            let made = copy(&action).is_ok_and(|made| made.contains(&format!("--hostname={value}")));
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
            ("/Spec/linux/resources", json!({"blockIO": {"weightDevice": [{"major": 1, "minor": 2, "weight": 3}]}})),
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
            serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native.json")).unwrap();
        let made =
            user_container(&recording["container"], &recording["image"], "alpine", "a-user", &[], &Nothing).unwrap();
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
                let _ = user_container(&document, &document, &text, &text, &[], &Nothing);
            }
        }
    }
}
