//! A network that cannot be made is found before SUCCESS: the agent would start an action without
//! one, nerdctl would not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, REBOOTED};

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_CAPTAINS};
use crate::world::{Action, LIMIT, RUN, nothing_there};

/// Breaks the machine's networks with a script.
fn break_by(machine: &Machine, script: &str) -> Result<()> {
    ensure!(machine.command("sh").args(["-c", script]).status()?.success(), "{script}");
    Ok(())
}

/// Removes a plugin.
const NO_PLUGIN: &str = "rm /opt/cni/bin/firewall";
/// Makes a plugin fail.
const NO_IPTABLES: &str = "ln -sf /bin/false /usr/sbin/iptables";

/// Checks that an action that may need a network fails, and that one with the host's network runs.
fn is_found(machine: &Machine) -> Result<()> {
    for dry in ["true", "false"] {
        let said =
            Action::alpine(machine).wait("0").env("WAITDAEMON_DRY_RUN", dry).script(RUN).run()?;
        said.expect(1, "namespaces.network", "cannot create")
            .with_context(|| format!("dry run {dry}"))?;
        nothing_there(machine)?;
    }
    Action::alpine(machine).network("host").wait("0").script(RUN).run_well()?;
    crate::world::ran_once(machine)
}

case!(a_plugin_is_missing, ON_CAPTAINS, |machine| {
    break_by(&machine, NO_PLUGIN)?;
    is_found(&machine)
});

case!(a_plugin_fails, ON_CAPTAIN, |machine| {
    break_by(&machine, NO_IPTABLES)?;
    is_found(&machine)
});

// The agent's own network uses one plugin less than nerdctl's.
case!(the_agent_makes_one_that_nerdctl_cannot, ON_CAPTAIN, |machine| {
    let own = r#"{"cniVersion": "1.0.0", "name": "agents", "plugins": [{"type": "bridge", "bridge": "cni9", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]]}}]}"#;
    break_by(
        &machine,
        &format!("echo '{own}' > /etc/cni/net.d/00-agents.conflist && {NO_PLUGIN}"),
    )?;
    is_found(&machine)
});

case!(a_reboot_needs_none, ON_CAPTAIN, |mut machine| {
    break_by(&machine, NO_PLUGIN)?;
    let said = Action::alpine(&machine).wait("1").command(&["reboot"]).run_well()?;
    ensure!(said.err.contains("the user container gets no network"), "not a word of it: {said:?}");
    let code = machine
        .wait_for_end(Duration::from_secs(60) + LIMIT)
        .with_context(|| machine.container_logs())?;
    ensure!(code == REBOOTED, "the machine ended with {code}");
    Ok(())
});
