//! The action container's networks, as requested again for the user container. Pure.

use serde_json::{Map, Value};

use crate::engine::json::{empty, list, short, text};

/// Returns the networks that the user chose, with the user's settings and nothing generated.
pub fn endpoints(action: &Value) -> Vec<(String, Value)> {
    let mode = mode(action);
    if mode == "host" || mode == "none" || mode.starts_with("container:") {
        return Vec::new();
    }
    let Some(networks) = action["NetworkSettings"]["Networks"].as_object() else {
        return Vec::new();
    };
    let endpoints =
        networks.iter().map(|(name, endpoint)| (name.clone(), settings_of(endpoint, action)));
    // The default network is implied unless something is set on it.
    let by_default = |name: &str| name == "bridge" && (mode == "default" || mode == "bridge");
    endpoints.filter(|(name, settings)| !(by_default(name) && empty(settings))).collect()
}

fn mode(action: &Value) -> &str {
    text(&action["HostConfig"]["NetworkMode"])
}

fn settings_of(endpoint: &Value, action: &Value) -> Value {
    let mut kept = Map::new();
    for field in ["IPAMConfig", "Links", "DriverOpts", "GwPriority"] {
        if let Some(value) = endpoint.get(field).filter(|value| !empty(value)) {
            kept.insert(field.into(), value.clone());
        }
    }
    // Before API 1.44 the engine adds the container's short ID to the aliases.
    let aliases: Vec<_> = list(&endpoint["Aliases"])
        .iter()
        .filter(|alias| text(alias) != short(text(&action["Id"])))
        .cloned()
        .collect();
    if !aliases.is_empty() {
        kept.insert("Aliases".into(), aliases.into());
    }
    // A generated address would be in use twice. An address that the user set is also in Config, in
    // documents of API 1.51 and before (see Docker::show).
    let mac = &action["Config"]["MacAddress"];
    if !empty(mac) && *mac == endpoint["MacAddress"] {
        kept.insert("MacAddress".into(), mac.clone());
    }
    kept.into()
}

/// True if `NetworkMode` names this network, by name or by ID.
pub fn is_mode(action: &Value, name: &str) -> bool {
    let mode = mode(action);
    let network = &action["NetworkSettings"]["Networks"][name]["NetworkID"];
    mode == name
        || (mode == "default" && name == "bridge")
        || (mode.len() >= 12 && text(network).starts_with(mode))
}
