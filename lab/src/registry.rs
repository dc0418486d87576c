//! Debian's image registry in a machine, on 127.0.0.1:5000, and other ways to it: a slow one on
//! 127.0.0.1:5001, one with faults on 127.0.0.1:5002, one with a login on 127.0.0.1:5003, and one
//! with TLS on port 5004.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine::Machine;
use crate::nest::{Nest, output};
use crate::paths;
use crate::until::until;

/// The image in the registry.
const OK: &str = "127.0.0.1:5000/ok:1";
/// The user name for the registry on 127.0.0.1:5003.
pub const USERNAME: &str = "fleet";
/// The password for it.
pub const PASSWORD: &str = "s3cret";
/// The login as htpasswd(1) writes it, with bcrypt.
const HTPASSWD: &str = "fleet:$2b$04$NCP8grLKZR31gIWqbBWlzeh6iQ9RIaP3y.qmdT75AJk77k.T9V7xq\n";
/// The first name in the certificate of the registry with TLS.
pub const TLS_NAME: &str = "tls.lab";
/// The name by which a proxy knows the registry; nothing else in a machine does.
pub const BEHIND: &str = "registry.lab";
/// How long the registry may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A registry that holds the machine's `alpine` as `ok:1`; dropping it ends its processes.
pub struct Registry {
    processes: Vec<Child>,
    blobs: PathBuf,
}

impl Registry {
    /// Starts the registry and pushes `alpine` as `127.0.0.1:5000/ok:1`; the local tag is removed.
    ///
    /// # Errors
    /// If the registry does not accept the image in time.
    pub fn start(machine: &Machine) -> Result<Self> {
        let (folder, config) = (machine.out().join("registry"), machine.out().join("registry.yml"));
        let storage = format!("storage: {{filesystem: {{rootdirectory: {}}}}}", folder.display());
        fs::write(&config, format!("version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:5000'}}\n"))?;
        let log = fs::File::create(machine.out().join("registry.log"))?;
        let mut serve = machine.network_command("docker-registry");
        let child = serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn()?;
        let registry =
            Self { processes: vec![child], blobs: folder.join("docker/registry/v2/blobs/sha256") };
        let run = |arguments: &[&str]| {
            Ok::<_, anyhow::Error>(
                output(machine.engine_command().args(arguments))?.status.success(),
            )
        };
        ensure!(run(&["tag", "alpine", OK])?, "there is no alpine");
        until("a push into the registry", START_LIMIT, || Ok(run(&["push", OK])?.then_some(())))?;
        ensure!(run(&["rmi", OK])?, "cannot remove the tag");
        Ok(registry)
    }

    /// Opens 127.0.0.1:5003, the same registry for clients with the login.
    ///
    /// # Errors
    /// If it does not start.
    pub fn with_login(&mut self, machine: &Nest) -> Result<()> {
        let file = machine.out().join("htpasswd");
        fs::write(&file, HTPASSWD)?;
        self.open(
            machine,
            5003,
            &format!("auth: {{htpasswd: {{realm: lab, path: {}}}}}", file.display()),
            "",
        )
    }

    /// Opens port 5004, the same registry with TLS; returns its self-signed certificate for
    /// [`TLS_NAME`] and [`BEHIND`].
    ///
    /// # Errors
    /// If it does not start.
    pub fn with_tls(&mut self, machine: &Nest) -> Result<PathBuf> {
        let (certificate, key) = (machine.out().join("tls.crt"), machine.out().join("tls.key"));
        let mut make = Command::new("openssl");
        make.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab",
            "-addext",
        ]);
        make.arg(format!("subjectAltName=DNS:{TLS_NAME},DNS:{BEHIND}"))
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key);
        let made = output(&mut make)?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let tls =
            format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        self.open(machine, 5004, "", &tls)?;
        Ok(certificate)
    }

    /// Opens port 5004 on another address of the machine too: Docker asks registries in 127.0.0.0/8
    /// for no certificate.
    ///
    /// # Errors
    /// If the address cannot be added, or the port is not opened.
    pub fn with_tls_at(&mut self, machine: &Nest, address: &str) -> Result<()> {
        let add = ["address", "add", &format!("{address}/32"), "dev", "lo"];
        ensure!(machine.network_command("ip").args(add).status()?.success(), "no {address}");
        let (from, bytes_per_second) = (format!("{address}:5004"), "10000000");
        self.forward(machine, &[&from, "127.0.0.1:5004", bytes_per_second])?;
        listens_at(machine, address.parse()?, 5004)
    }

    /// Serves the same images on another port of 127.0.0.1, with additions to the registry's
    /// configuration.
    fn open(&mut self, machine: &Nest, port: u16, more: &str, of_http: &str) -> Result<()> {
        let config = machine.out().join(format!("registry-{port}.yml"));
        let storage = format!(
            "storage: {{filesystem: {{rootdirectory: {}}}}}",
            machine.out().join("registry").display()
        );
        fs::write(
            &config,
            format!(
                "version: 0.1\n{storage}\n{more}\nhttp: {{addr: '127.0.0.1:{port}'{of_http}}}\n"
            ),
        )?;
        let log = fs::File::create(machine.out().join(format!("registry-{port}.log")))?;
        let mut serve = machine.network_command("docker-registry");
        self.processes
            .push(serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn()?);
        listens(machine, port)
    }

    /// Spoils every layer; the manifests stay intact, so a pull begins well.
    ///
    /// # Errors
    /// If the registry's files cannot be written.
    pub fn spoil_layers(&self) -> Result<()> {
        for prefix in fs::read_dir(&self.blobs)? {
            for blob in fs::read_dir(prefix?.path())? {
                let data = blob?.path().join("data");
                if fs::metadata(&data)?.len() > 10_000 {
                    fs::write(&data, b"spoiled")?;
                }
            }
        }
        Ok(())
    }

    /// Opens 127.0.0.1:5001, which forwards this many bytes a second from the registry.
    ///
    /// # Errors
    /// If slow-link does not start.
    pub fn slow_link(&mut self, machine: &Nest, bytes_per_second: u32) -> Result<()> {
        let rate = bytes_per_second.to_string();
        self.forward(machine, &["127.0.0.1:5001", "127.0.0.1:5000", &rate])?;
        listens(machine, 5001)
    }

    fn forward(&mut self, machine: &Nest, link: &[&str]) -> Result<()> {
        let program = paths::root().join("target/debug/slow-link");
        ensure!(program.exists(), "{} is not built: cargo build -p lab", program.display());
        self.processes.push(machine.network_command(program).args(link).spawn()?);
        Ok(())
    }

    /// Opens 127.0.0.1:5002, which forwards to the registry except for one fault (see the program
    /// fault-proxy). The fault happens at requests with this method and path: which of them is `1`,
    /// `1,2` or `all`. Only one such way can be open at a time.
    ///
    /// # Errors
    /// If fault-proxy does not start.
    pub fn faulty(
        &self,
        machine: &Nest,
        (method, path, nth): (&str, &str, &str),
        fault: &str,
    ) -> Result<Faulty> {
        let program = paths::root().join("target/debug/fault-proxy");
        ensure!(program.exists(), "{} is not built: cargo build -p lab", program.display());
        let log = machine.out().join("faulty");
        fs::write(&log, "")?;
        let mut proxy = machine.network_command(program);
        proxy.args(["127.0.0.1:5002", "127.0.0.1:5000"]).arg(&log).args([method, path, nth, fault]);
        let faulty = Faulty { process: proxy.spawn()?, log };
        listens(machine, 5002)?;
        Ok(faulty)
    }
}

/// A way to the registry with a fault; dropping it closes it.
pub struct Faulty {
    process: Child,
    log: PathBuf,
}

impl Faulty {
    /// The log: a line for each request, and `fault` where it happened.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Faulty {
    /// Lets the held requests continue.
    ///
    /// # Errors
    /// If the file that says so cannot be written.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.log.with_extension("go"), "")?)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until something listens on this port of 127.0.0.1.
pub(crate) fn listens(machine: &Nest, port: u16) -> Result<()> {
    listens_at(machine, Ipv4Addr::LOCALHOST, port)
}

fn listens_at(machine: &Nest, address: Ipv4Addr, port: u16) -> Result<()> {
    let table = format!("/proc/{}/net/tcp", machine.init());
    // The line is as proc(5) has it; 0A is the state LISTEN.
    let address = u32::from_le_bytes(address.octets());
    let line = format!("{address:08X}:{port:04X} 00000000:0000 0A");
    until(&format!("port {port}"), START_LIMIT, || {
        Ok(fs::read_to_string(&table)?.contains(&line).then_some(()))
    })
}

impl Drop for Registry {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
