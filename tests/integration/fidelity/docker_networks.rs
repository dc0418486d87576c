//! The rows of the fidelity table that are about Docker's networks.

use serde_json::{Value, json};

use super::docker_rows::host;
use super::rows::Row;

/// The rows; each runs on a machine with the networks `front` and `back`.
pub fn networks() -> Vec<Row> {
    let on = |mode: &str, endpoints: Value| json!({"HostConfig": {"NetworkMode": mode}, "NetworkingConfig": {"EndpointsConfig": endpoints}});
    let two = |one: Value, other: Value| on("front", json!({"front": one, "back": other}));
    vec![
        Row::body("NetworkMode, none", host("NetworkMode", json!("none"))),
        Row::body("NetworkMode, host", host("NetworkMode", json!("host"))),
        Row::body("NetworkMode, host, with a hostname", json!({"Hostname": "web", "HostConfig": {"NetworkMode": "host"}})),
        Row::body("NetworkMode, bridge", host("NetworkMode", json!("bridge"))).until(43),
        Row::body("NetworkMode, bridge, which is the default", host("NetworkMode", json!("bridge"))).since(44).without_effect(),
        Row::body("NetworkMode, default", host("NetworkMode", json!("default"))).without_effect(),
        Row::body("NetworkMode, a network by name", host("NetworkMode", json!("front"))),
        Row::body("NetworkMode, a network by ID", host("NetworkMode", json!("@FRONT"))),
        Row::body("NetworkMode, container:name", host("NetworkMode", json!("container:other"))),
        Row::body("NetworkMode, container:ID", host("NetworkMode", json!("container:@OTHER"))),
        Row::body("EndpointsConfig, static IPv4 address", on("front", json!({"front": {"IPAMConfig": {"IPv4Address": "10.9.0.77"}}}))),
        Row::body("EndpointsConfig, static IPv6 address", on("front", json!({"front": {"IPAMConfig": {"IPv6Address": "fd00:9::77"}}}))),
        Row::body("EndpointsConfig, LinkLocalIPs", on("front", json!({"front": {"IPAMConfig": {"LinkLocalIPs": ["169.254.34.68"]}}}))),
        Row::body("EndpointsConfig, Aliases", on("front", json!({"front": {"Aliases": ["web", "www"]}}))),
        Row::body("EndpointsConfig, Links", on("front", json!({"front": {"Links": ["fronted:db"]}}))),
        Row::body("EndpointsConfig, DriverOpts", on("front", json!({"front": {"DriverOpts": {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}}}))).since(46),
        Row::body("EndpointsConfig, DriverOpts, before 1.46", on("front", json!({"front": {"DriverOpts": {"a.b": "c"}}}))).until(45),
        Row::body("EndpointsConfig, MacAddress", on("front", json!({"front": {"MacAddress": "02:42:00:00:00:08"}}))).since(44),
        Row::body("EndpointsConfig, several networks", two(json!({"Aliases": ["one"]}), json!({"IPAMConfig": {"IPv4Address": "10.8.0.88"}, "Aliases": ["two"]}))).since(44),
        Row::body("EndpointsConfig, MacAddress on a second network", two(json!({}), json!({"MacAddress": "02:42:00:00:00:07"}))).since(44).changed(&["/Networks/back/MacAddress"], "the engine does not show whether the address was set or generated"),
        Row::body("EndpointsConfig, GwPriority", two(json!({"GwPriority": 1}), json!({"GwPriority": 5}))).since(48),
        Row::body("Links", host("Links", json!(["other:db", "other"]))),
        Row::body("Dns", host("Dns", json!(["10.1.1.1", "10.1.1.2"]))),
        Row::body("DnsOptions", host("DnsOptions", json!(["ndots:3"]))),
        Row::body("DnsSearch", host("DnsSearch", json!(["example.org"]))),
        Row::body("ExtraHosts", host("ExtraHosts", json!(["db:10.1.1.3", "me:host-gateway", "six:::1"]))),
        Row::body("PortBindings", json!({"ExposedPorts": {"80/tcp": {}}, "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}}})),
        Row::body("PublishAllPorts", json!({"ExposedPorts": {"80/tcp": {}}, "HostConfig": {"PublishAllPorts": true}})),
    ]
    .into_iter()
    .map(Row::networked)
    .collect()
}
