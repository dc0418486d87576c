//! Whether nerdctl can create a network: the plugins that create it are files on the host, and need
//! iptables.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::cli::PATH;
use crate::engine::json::{list, text};

/// nerdctl's configuration (2.2.1, docs/config.md).
const CONFIG: &str = "/etc/nerdctl/nerdctl.toml";
/// Where nerdctl keeps the networks that it knows, unless configured otherwise.
const NETWORKS: &str = "/etc/cni/net.d";
/// Where nerdctl keeps plugins, unless configured otherwise: in the first of these that exists
/// (2.2.1, `ncdefaults.CNIPath`).
const PLUGINS: [&str; 5] = [
    "/opt/cni/bin",
    "/usr/local/libexec/cni",
    "/usr/local/lib/cni",
    "/usr/libexec/cni",
    "/usr/lib/cni",
];
/// The plugins that nerdctl writes into the network `bridge` if there is none yet (2.2.1,
/// `netutil`).
const OF_BRIDGE: [&str; 5] = ["bridge", "host-local", "portmap", "firewall", "tuning"];

/// The plugin that filters, through iptables alone (CNI plugins 1.6, `firewall`).
const FIREWALL: &str = "firewall";
/// iptables' exit code if another process holds its lock, which passes (iptables,
/// `RESOURCE_PROBLEM`).
const LOCKED: i32 = 4;
/// Limit for iptables; some milliseconds are usual.
const IPTABLES_LIMIT: Duration = Duration::from_secs(8);

/// Returns what keeps the network of this name from being created, as far as that can be known
/// without creating it. `in_host` says whether programs run as on the host.
pub async fn obstacle(network: &str, in_host: bool) -> Option<String> {
    let needed = needed_plugins(network)?;
    if let Some(plugin) = missing_plugin(&needed) {
        return Some(format!("the host lacks the CNI plugin {plugin}"));
    }
    if in_host && needed.iter().any(|plugin| plugin == FIREWALL) {
        failing_iptables().await
    } else {
        None
    }
}

/// Returns why iptables cannot be used, by a question that changes nothing; the plugins ask it
/// first.
async fn failing_iptables() -> Option<String> {
    let mut command = Command::new("iptables");
    command.env_clear().env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
    command.args(["--wait", "5", "--table", "nat", "--list-rules", "POSTROUTING"]);
    match timeout(IPTABLES_LIMIT, command.output()).await {
        Ok(Ok(Output { status, .. })) if status.success() || status.code() == Some(LOCKED) => None,
        Ok(Ok(Output { status, stderr, .. })) => {
            let said = String::from_utf8_lossy(&stderr);
            Some(format!(
                "the host's iptables fails ({status}): {}",
                said.lines().next().unwrap_or_default()
            ))
        }
        Ok(Err(error)) => Some(format!("cannot run the host's iptables: {error}")),
        Err(_) => None,
    }
}

/// Returns the plugins that the network of this name needs; `None` if the network is unknown.
fn needed_plugins(network: &str) -> Option<Vec<String>> {
    let config = std::fs::read_to_string(CONFIG).unwrap_or_default();
    let networks = setting(&config, "cni_netconfpath").unwrap_or(NETWORKS);
    let files = std::fs::read_dir(networks).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let mut known = texts.filter_map(|text| serde_json::from_str::<Value>(&text).ok());
    match known.find(|known| known["name"] == network) {
        Some(known) => Some(plugins(&known)),
        None if network == "bridge" => Some(OF_BRIDGE.map(str::to_owned).into()),
        None => None,
    }
}

/// Returns one of these plugins that the host lacks; `None` if none is known to be missing.
fn missing_plugin(needed: &[String]) -> Option<&String> {
    let config = std::fs::read_to_string(CONFIG).unwrap_or_default();
    let usual = || PLUGINS.into_iter().find(|folder| Path::new(folder).is_dir());
    let folder = Path::new(setting(&config, "cni_path").or_else(usual)?);
    needed.iter().find(|plugin| !folder.join(plugin).exists())
}

/// Returns the plugins that a network's configuration names (CNI specification 1.0, "Configuration
/// format"). Pure.
fn plugins(network: &Value) -> Vec<String> {
    let all = list(&network["plugins"])
        .iter()
        .flat_map(|plugin| [&plugin["type"], &plugin["ipam"]["type"]]);
    all.map(text)
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .map(str::to_owned)
        .collect()
}

/// Returns a setting at the top level of nerdctl's configuration, which is TOML. Pure.
fn setting<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let values = config.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.split('#').next().unwrap_or_default().trim())
    });
    values
        .map(|value| value.trim_matches(['"', '\'']))
        .next_back()
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_network_names_its_plugins() {
        let network = json!({"name": "bridge", "plugins": [
            {"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "firewall"}, {"type": ""}, 1, {"type": "../x"}]});
        assert_eq!(plugins(&network), ["bridge", "host-local", "firewall"]);
        assert!(plugins(&Value::Null).is_empty());
    }

    #[test]
    fn settings_are_read_as_nerdctl_writes_them() {
        let config = "namespace = \"tinkerbell\"\ncni_path = \"/a\"\n cni_path='/b' # later\n#cni_netconfpath = \"/c\"\n";
        assert_eq!(setting(config, "cni_path"), Some("/b"));
        assert_eq!(setting(config, "cni_netconfpath"), None);
    }
}
