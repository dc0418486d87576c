//! An HTTP proxy in a machine, tinyproxy on 127.0.0.1:8888, which alone there can resolve a certain
//! name.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::Result;

use crate::nest::Nest;
use crate::registry::listens;

/// The proxy's port.
const PORT: u16 = 8888;
/// The user name for the proxy.
pub const USERNAME: &str = "way";
/// The password.
pub const PASSWORD: &str = "h1dden";

/// A running proxy; dropping it ends it.
pub struct Proxy {
    process: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts the proxy. It resolves `name` to 127.0.0.1; nothing else in the machine can resolve
    /// it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(machine: &Nest, name: &str) -> Result<Self> {
        let (hosts, config, log) = (
            machine.out().join("proxy.hosts"),
            machine.out().join("proxy.conf"),
            machine.out().join("proxy.log"),
        );
        fs::write(&hosts, format!("127.0.0.1 localhost {name}\n"))?;
        let login = format!("BasicAuth {USERNAME} {PASSWORD}");
        let file = log.display();
        let settings = format!(
            "Port {PORT}\nListen 127.0.0.1\nLogFile \"{file}\"\nLogLevel Connect\n{login}\n"
        );
        fs::write(&config, settings)?;
        // The proxy has its own mount namespace, with its own list of names.
        let script = "mount --bind \"$1\" /etc/hosts && exec tinyproxy -d -c \"$2\"";
        let mut run = machine.network_command("unshare");
        run.args(["--mount", "sh", "-c", script, "sh"]).arg(&hosts).arg(&config);
        let process = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let proxy = Self { process, log };
        listens(machine, PORT)?;
        Ok(proxy)
    }

    /// The proxy's URL, with the login.
    pub fn url(&self) -> String {
        format!("http://{USERNAME}:{PASSWORD}@127.0.0.1:{PORT}")
    }

    /// How many requests the proxy has got.
    pub fn asked(&self) -> usize {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains("Request"))
            .count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
