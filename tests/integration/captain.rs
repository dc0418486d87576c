//! waitdaemon on CaptainOS: systemd, containerd and nerdctl, with the real Tink Agent.

use anyhow::Result;
use lab::captain::Captain;

pub fn boots() -> Result<()> {
    let captain = Captain::boot()?;
    println!("{}", captain.nerdctl(&["version"])?);
    let out = lab::nest::output(captain.command("cat").arg("/proc/1/comm"))?;
    println!("{}", String::from_utf8_lossy(&out.stdout));
    Ok(())
}
