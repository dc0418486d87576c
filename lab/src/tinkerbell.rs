//! The real Tinkerbell server: Tink Server, Tink Controller and Smee, with their own etcd and
//! Kubernetes API server, in their own namespaces. Machines are connected to its network.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::nest::Nest;
use crate::paths;
use crate::until::until;
use crate::watch::Watch;

/// The server's address for the machines.
pub const ADDRESS: &str = "10.99.0.1";
/// Smee's URL.
pub const SMEE: &str = "http://10.99.0.1:7080";
/// The port for agents, on all of the server's addresses.
pub const AGENTS_PORT: u16 = 42113;
/// How long the server may take to start; 8 to 12 s are usual.
const START_LIMIT: Duration = Duration::from_secs(90);
const GROUP: &str = "tinkerbell.org/v1alpha1";

/// A running server; dropping it ends it.
pub struct Server {
    nest: Nest,
    machines: Cell<u8>,
}

impl Server {
    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    /// Without root, if it was not built, or if it does not come up; the error shows the end of its
    /// log.
    pub fn start() -> Result<Self> {
        let program = paths::cache().join("tink-server/tinkerbell");
        ensure!(program.exists(), "{} is missing; run `make e2e`", program.display());
        let variables: [(&str, &OsStr); 2] =
            [("LAB_SERVER", program.as_ref()), ("LAB_ADDRESS", ADDRESS.as_ref())];
        let nest = Nest::boot(&paths::root().join("lab/tink-server/init"), &variables)?;
        let mut server = Self { nest, machines: Cell::new(0) };
        let serves = |nest: &Nest| {
            let look = format!(
                "curl -sf -o /dev/null http://127.0.0.1:7080/readyz && exec 3<>/dev/tcp/127.0.0.1/{AGENTS_PORT}"
            );
            Ok(nest
                .network_command("bash")
                .args(["-c", &look])
                .stderr(Stdio::null())
                .status()?
                .success())
        };
        server
            .nest
            .ready_within("the Tinkerbell server to serve", START_LIMIT, serves)
            .with_context(|| server.logs())?;
        Ok(server)
    }

    /// The end of the server's log, for error messages.
    pub fn logs(&self) -> String {
        self.nest.logs(&["boot.log", "server.log"])
    }

    /// A command of the host in the server's network; see [`Nest::network_command`].
    pub fn network_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.nest.network_command(program)
    }

    /// The PID of the server's init.
    pub fn init(&self) -> u32 {
        self.nest.init()
    }

    /// The server's resident memory, in MiB.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.nest.init()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024)
    }

    /// Connects a machine to the server's network.
    ///
    /// # Errors
    /// If ip(8) fails.
    pub fn connect(&self, machine: &Nest) -> Result<()> {
        let number = self.machines.get() + 1;
        self.machines.set(number);
        let (port, server) = (format!("machine{number}"), self.nest.init().to_string());
        let machine_init = machine.init().to_string();
        let ends =
            ["netns", &server, "type", "veth", "peer", "name", "eth0", "netns", &machine_init];
        ip(Command::new("ip").args(["link", "add", &port]).args(ends))?;
        ip(self.network_command("ip").args(["link", "set", &port, "master", "machines", "up"]))?;
        let address = format!("10.99.0.{}/24", number + 1);
        ip(machine.network_command("ip").args(["address", "add", &address, "dev", "eth0"]))?;
        ip(machine.network_command("ip").args(["link", "set", "eth0", "up"]))
    }

    /// Creates a machine's Hardware, a Template with the actions of a file like those in examples/,
    /// and a Workflow of both that switches netboot off at its end. All three have the same name.
    ///
    /// # Errors
    /// If the server does not accept one of them.
    pub fn create_workflow(&self, name: &str, hardware_address: &str, actions: &str) -> Result<()> {
        self.create_hardware(name, hardware_address)?;
        let actions: String = actions.lines().map(|line| format!("      {line}\n")).collect();
        let template = format!(
            "version: \"0.1\"\nname: {name}\nglobal_timeout: 600\ntasks:\n  - name: os\n    worker: \"{{{{.device_1}}}}\"\n    actions:\n{actions}"
        );
        self.create("templates", name, "Template", json!({"data": template}))?;
        let workflow = json!({
            "templateRef": name, "hardwareRef": name, "hardwareMap": {"device_1": hardware_address},
            "bootOptions": {"toggleAllowNetboot": true},
        });
        self.create("workflows", name, "Workflow", workflow)
    }

    /// Creates a Hardware that is allowed to netboot.
    ///
    /// # Errors
    /// If the server does not take it.
    pub fn create_hardware(&self, name: &str, hardware_address: &str) -> Result<()> {
        let interface = json!({
            "dhcp": {"mac": hardware_address, "hostname": name, "arch": "x86_64", "uefi": true, "lease_time": 86400,
                     "ip": {"address": "10.99.0.200", "netmask": "255.255.255.0", "gateway": ADDRESS}},
            "netboot": {"allowPXE": true, "allowWorkflow": true},
        });
        let hardware = json!({"agentID": hardware_address, "disks": [{"device": "/dev/sda"}], "interfaces": [interface]});
        self.create("hardware", name, "Hardware", hardware)
    }

    /// Switches a machine's netboot off by hand.
    ///
    /// # Errors
    /// If the server does not do it.
    pub fn switch_netboot_off(&self, name: &str) -> Result<()> {
        let patch = json!([{"op": "replace", "path": "/spec/interfaces/0/netboot/allowPXE", "value": false}]);
        let mut curl = self.curl(&path("hardware", name));
        curl.args([
            "-f",
            "-X",
            "PATCH",
            "-H",
            "Content-Type: application/json-patch+json",
            "-d",
            &patch.to_string(),
        ]);
        curl.args(["-o", "/dev/null"]);
        ensure!(curl.status()?.success(), "the Hardware {name} cannot be changed");
        Ok(())
    }

    /// The current document of a Workflow.
    ///
    /// # Errors
    /// If there is no Workflow of that name.
    pub fn workflow(&self, name: &str) -> Result<Value> {
        let output = self.curl(&path("workflows", name)).arg("-f").output()?;
        ensure!(
            output.status.success(),
            "no Workflow {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Follows `workflows` or `hardware` from now on.
    ///
    /// # Errors
    /// If curl cannot be started.
    pub fn watch(&self, kind: &str) -> Result<Watch> {
        Watch::of(self.curl(&format!("/apis/{GROUP}/namespaces/default/{kind}?watch=1")).arg("-N"))
    }

    fn create(&self, kind: &str, name: &str, word: &str, spec: Value) -> Result<()> {
        let object = json!({
            "apiVersion": GROUP, "kind": word, "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        });
        // The kinds are defined a moment after the server is ready.
        until(&format!("the server to take a {word}"), START_LIMIT, || {
            let mut curl = self.curl(&format!("/apis/{GROUP}/namespaces/default/{kind}"));
            curl.args([
                "-X",
                "POST",
                "-H",
                "Content-Type: application/json",
                "-w",
                "\n%{http_code}",
                "-d",
            ]);
            let output = curl.arg(object.to_string()).output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            let (body, status) = said.rsplit_once('\n').context("curl gave no status")?;
            match status {
                "201" => Ok(Some(())),
                "000" | "404" | "500" | "503" => Ok(None),
                _ => bail!("{status} {body}"),
            }
        })
    }

    fn curl(&self, path: &str) -> Command {
        let certificates = self.nest.folder().join("certificates");
        let mut curl = self.network_command("curl");
        curl.args(["-sS", "--cacert"]).arg(certificates.join("authority.crt"));
        curl.arg("--cert")
            .arg(certificates.join("server.crt"))
            .arg("--key")
            .arg(certificates.join("server.key"));
        curl.arg(format!("https://localhost:6443{path}")).stderr(Stdio::null());
        curl
    }
}

fn path(kind: &str, name: &str) -> String {
    format!("/apis/{GROUP}/namespaces/default/{kind}/{name}")
}

fn ip(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The states of the object of this name in a watch of the API, each with its time of arrival.
pub fn states(watch: &Watch, name: &str) -> Vec<(f64, Value)> {
    let states = watch.lines().into_iter().filter_map(|(time, line)| {
        let event: Value = serde_json::from_str(&line).ok()?;
        Some((time, event["object"].clone()))
    });
    states.filter(|(_, object)| object["metadata"]["name"] == name).collect()
}
