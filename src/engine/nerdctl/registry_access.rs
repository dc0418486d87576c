//! How nerdctl reaches a registry: through which proxies, with which certificates, and with the
//! `hosts.toml` of which folder.

use std::path::{Path, PathBuf};

use crate::machine::{command_line, namespaces};
use crate::settings::values::PROXIES;

/// Where a host keeps the certificates that it trusts (Go, crypto/x509, `root_linux.go`).
const CERTIFICATES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];
/// Where nerdctl looks for the settings of a registry (nerdctl, `ncdefaults.HostsDirs`).
const HOSTS: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// Settings for the nerdctl calls that reach a registry, and for no others.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Environment variables.
    pub environment: Vec<(&'static str, String)>,
    /// Folders for `--hosts-dir`; if there are none, nerdctl chooses.
    pub hosts: Vec<PathBuf>,
}

impl Access {
    /// Returns what nerdctl needs. The proxies come from the action's environment ([`PROXIES`]) and
    /// the kernel's command line. In the host's namespaces nerdctl finds the rest itself; in ours
    /// it gets the host's through PID 1, if that is visible.
    pub fn new(given: &[Option<String>; 3], line: &str, in_host: bool) -> Self {
        let mut access = Self { environment: proxies(given, line), hosts: Vec::new() };
        if in_host {
            return access;
        }
        let hosts_own = |paths: [&'static str; 2]| {
            paths
                .into_iter()
                .filter_map(|path: &str| namespaces::path_through_init(Path::new(path)))
        };
        let found: Vec<PathBuf> = hosts_own(CERTIFICATES).collect();
        if !found.is_empty() {
            // The variable replaces the usual folders, which may be volumes of the action.
            let all = found.into_iter().chain(CERTIFICATES.map(PathBuf::from));
            let all: Vec<String> = all.map(|path| path.display().to_string()).collect();
            access.environment.push(("SSL_CERT_DIR", all.join(":")));
        }
        if !HOSTS.iter().any(|path| Path::new(path).exists()) {
            access.hosts.extend(hosts_own(HOSTS));
        }
        access
    }
}

/// Returns the proxies to use, by name: each that the action's environment sets, even to nothing,
/// else the machine's. Pure.
///
/// Docker pulls by itself, with its own proxies. nerdctl uses those of its environment (2.2.1),
/// which contains nothing of the action's.
fn proxies(given: &[Option<String>; 3], line: &str) -> Vec<(&'static str, String)> {
    let of_machine = |(large, small)| {
        command_line::value(line, large).or_else(|| command_line::value(line, small))
    };
    let all = PROXIES.into_iter().zip(given);
    let chosen = all.filter_map(|(names, given)| {
        let value = given.clone().or_else(|| of_machine(names).map(str::to_owned))?;
        (!value.is_empty()).then_some((names.0, value))
    });
    chosen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_before_the_machine() {
        let line = "quiet HTTP_PROXY=http://m:1 https_proxy=http://m:2 NO_PROXY=\"a, b\"";
        let shown = |given: [Option<&str>; 3]| {
            let all = proxies(&given.map(|value| value.map(str::to_owned)), line);
            all.into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown([None; 3]), "HTTP_PROXY=http://m:1 HTTPS_PROXY=http://m:2 NO_PROXY=a, b");
        assert_eq!(
            shown([None, Some("http://e:3"), Some("")]),
            "HTTP_PROXY=http://m:1 HTTPS_PROXY=http://e:3"
        );
        assert!(proxies(&[None, None, None], "quiet").is_empty());
    }
}
