//! Debian's image registry in a machine, on 127.0.0.1:5000, and bad ways to it: a slow one on 127.0.0.1:5001, one
//! with faults on 127.0.0.1:5002, one with a login on 127.0.0.1:5003.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::nest::{Nest, output};
use crate::paths;
use crate::until::until;

/// The image that it holds.
const OK: &str = "127.0.0.1:5000/ok:1";
/// The login for the registry on 127.0.0.1:5003.
pub const USERNAME: &str = "fleet";
/// Its password.
pub const PASSWORD: &str = "s3cret";
/// The same as htpasswd(1) writes it, with bcrypt.
const HTPASSWD: &str = "fleet:$2b$04$NCP8grLKZR31gIWqbBWlzeh6iQ9RIaP3y.qmdT75AJk77k.T9V7xq\n";
/// How long the registry may take to be there.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A registry that holds the machine's `alpine` as `ok:1`. Its processes end with the value.
pub struct Registry {
    processes: Vec<Child>,
    blobs: PathBuf,
}

impl Registry {
    /// Starts the registry and pushes `alpine` as `127.0.0.1:5000/ok:1`; the local tag is removed. `engine` is
    /// `docker` or `nerdctl` in the machine.
    ///
    /// # Errors
    /// Where the registry does not take the image in time.
    pub fn start(machine: &Nest, engine: impl Fn() -> Command) -> Result<Self> {
        let (folder, config) = (machine.out().join("registry"), machine.out().join("registry.yml"));
        let storage = format!("storage: {{filesystem: {{rootdirectory: {}}}}}", folder.display());
        fs::write(&config, format!("version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:5000'}}\n"))?;
        let log = fs::File::create(machine.out().join("registry.log"))?;
        let mut serve = machine.network_command("docker-registry");
        let child = serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn()?;
        let registry = Self { processes: vec![child], blobs: folder.join("docker/registry/v2/blobs/sha256") };
        let run = |arguments: &[&str]| Ok::<_, anyhow::Error>(output(engine().args(arguments))?.status.success());
        ensure!(run(&["tag", "alpine", OK])?, "there is no alpine");
        until("a push into the registry", START_LIMIT, || Ok(run(&["push", OK])?.then_some(())))?;
        ensure!(run(&["rmi", OK])?, "cannot remove the tag");
        Ok(registry)
    }

    /// Opens 127.0.0.1:5003, the same registry for those who have the login.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn with_login(&mut self, machine: &Nest) -> Result<()> {
        let (file, config) = (machine.out().join("htpasswd"), machine.out().join("registry-login.yml"));
        fs::write(&file, HTPASSWD)?;
        let storage =
            format!("storage: {{filesystem: {{rootdirectory: {}}}}}", machine.out().join("registry").display());
        let auth = format!("auth: {{htpasswd: {{realm: lab, path: {}}}}}", file.display());
        fs::write(&config, format!("version: 0.1\n{storage}\n{auth}\nhttp: {{addr: '127.0.0.1:5003'}}\n"))?;
        let log = fs::File::create(machine.out().join("registry-login.log"))?;
        let mut serve = machine.network_command("docker-registry");
        self.processes.push(serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn()?);
        listens(machine, 5003)
    }

    /// Spoils every layer; the manifests stay whole, so a pull begins well.
    ///
    /// # Errors
    /// Where the registry's files cannot be written.
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

    /// Opens 127.0.0.1:5001, which leads to the registry with so many bytes a second.
    ///
    /// # Errors
    /// Where slow-link does not start.
    pub fn slow_link(&mut self, machine: &Nest, bytes_per_second: u32) -> Result<()> {
        let program = paths::root().join("target/debug/slow-link");
        ensure!(program.exists(), "{} is not built: cargo build -p lab", program.display());
        let mut link = machine.network_command(program);
        link.args(["127.0.0.1:5001", "127.0.0.1:5000", &bytes_per_second.to_string()]);
        self.processes.push(link.spawn()?);
        listens(machine, 5001)
    }

    /// Opens 127.0.0.1:5002, which leads to the registry but for one fault (see the program fault-proxy): at the
    /// request with this method and path, and which of those that fit (`1`, `1,2`, `all`). One way at a time.
    ///
    /// # Errors
    /// Where fault-proxy does not start.
    pub fn faulty(&self, machine: &Nest, (method, path, nth): (&str, &str, &str), fault: &str) -> Result<Faulty> {
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

/// A way with a fault; it ends with the value.
pub struct Faulty {
    process: Child,
    log: PathBuf,
}

impl Faulty {
    /// A line for each request, and `fault` where it happened.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until somebody listens on this port of 127.0.0.1.
fn listens(machine: &Nest, port: u16) -> Result<()> {
    let table = format!("/proc/{}/net/tcp", machine.init());
    // As proc(5) writes it; 0A is the state LISTEN.
    let line = format!("0100007F:{port:04X} 00000000:0000 0A");
    until(&format!("port {port}"), START_LIMIT, || Ok(fs::read_to_string(&table)?.contains(&line).then_some(())))
}

impl Drop for Registry {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
