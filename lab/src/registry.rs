//! Debian's image registry in a machine, on 127.0.0.1:5000, and a slow way to it on 127.0.0.1:5001.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine::{Machine, output};
use crate::paths;
use crate::until::until;

/// How long the registry may take to be there.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A registry that holds the machine's `alpine` as `ok:1`. Its processes end with the value.
pub struct Registry {
    processes: Vec<Child>,
    blobs: PathBuf,
}

impl Registry {
    /// Starts the registry and pushes `alpine` as `127.0.0.1:5000/ok:1`; the local tag is removed.
    ///
    /// # Errors
    /// Where the registry does not take the image in time.
    pub fn start(machine: &Machine) -> Result<Self> {
        let (folder, config) = (machine.out().join("registry"), machine.out().join("registry.yml"));
        let storage = format!("storage: {{filesystem: {{rootdirectory: {}}}}}", folder.display());
        fs::write(&config, format!("version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:5000'}}\n"))?;
        let log = fs::File::create(machine.out().join("registry.log"))?;
        let child =
            machine.command("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn()?;
        let registry = Self { processes: vec![child], blobs: folder.join("docker/registry/v2/blobs/sha256") };
        machine.docker(&["tag", "alpine", "127.0.0.1:5000/ok:1"])?;
        let mut push = machine.docker_command();
        push.args(["push", "127.0.0.1:5000/ok:1"]);
        until("a push into the registry", START_LIMIT, || Ok(output(&mut push)?.status.success().then_some(())))?;
        machine.docker(&["rmi", "127.0.0.1:5000/ok:1"])?;
        Ok(registry)
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
    pub fn slow_link(&mut self, machine: &Machine, bytes_per_second: u32) -> Result<()> {
        let program = paths::root().join("target/debug/slow-link");
        ensure!(program.exists(), "{} is not built: cargo build -p lab", program.display());
        let mut link = machine.network_command(program);
        link.args(["127.0.0.1:5001", "127.0.0.1:5000", &bytes_per_second.to_string()]);
        self.processes.push(link.spawn()?);
        let table = format!("/proc/{}/net/tcp", machine.init());
        // 127.0.0.1:5001 in state LISTEN, as proc(5) writes it.
        until("slow-link", START_LIMIT, || {
            Ok(fs::read_to_string(&table)?.contains("0100007F:1389 00000000:0000 0A").then_some(()))
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
