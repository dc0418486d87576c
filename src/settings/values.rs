//! Parsers of single values. Their errors complete a sentence that begins with the variable's name.
//! Pure.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use log::LevelFilter;

use super::{DockerHost, Expired, Runtime, Syslog};
use crate::end::End;
use crate::reference::Reference;

/// The variables that tell Go programs their proxies (net/http, `ProxyFromEnvironment`; in capital
/// letters first), and the words of the kernel's command line that tell HookOS and CaptainOS
/// theirs.
pub const PROXIES: [(&str, &str); 3] =
    [("HTTP_PROXY", "http_proxy"), ("HTTPS_PROXY", "https_proxy"), ("NO_PROXY", "no_proxy")];
/// syslog's port (RFC 5426).
pub const SYSLOG_PORT: u16 = 514;
/// Docker's port without TLS.
const DOCKER_PORT: u16 = 2375;
/// The longest command line of a kernel, including its end (Linux,
/// arch/x86/kernel/kexec-bzimage64.c: COMMAND_LINE_SIZE - 1).
const MAX_COMMAND_LINE: usize = 2047;
/// The longest wait that is accepted, in seconds: a day.
const MAX_SECONDS: u64 = 86_400;

/// What `WAITDAEMON_WAIT_FOR` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalName {
    /// `netboot-off`
    NetbootOff,
    /// The status of this URL.
    Url(Uri),
}

fn check<T>(value: T, valid: bool, problem: &'static str) -> Result<T, &'static str> {
    if valid { Ok(value) } else { Err(problem) }
}

/// Accepts any text.
pub fn text(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

/// Accepts any path.
pub fn path(text: &str) -> Result<PathBuf, &'static str> {
    Ok(text.into())
}

/// Parses the path of a block device.
pub fn device(text: &str) -> Result<PathBuf, &'static str> {
    check(text.into(), text.starts_with('/'), "is not an absolute path")
}

/// Parses the name of a file system, as the kernel has it.
pub fn file_system(text: &str) -> Result<String, &'static str> {
    check(
        text.into(),
        text.bytes().all(|b| b.is_ascii_alphanumeric()),
        "is not the name of a file system",
    )
}

/// Parses the command line of a kernel, without the line break at its end that a YAML block has.
pub fn command_line(text: &str) -> Result<String, &'static str> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    check(
        text.into(),
        text.len() < MAX_COMMAND_LINE && !text.contains('\n'),
        "is not a kernel's command line",
    )
}

/// Parses an image's reference.
pub fn image(text: &str) -> Result<Reference, &'static str> {
    Reference::parse(text).map_err(|why| why.0)
}

/// Parses seconds, from 0.
pub fn seconds(text: &str) -> Result<Duration, &'static str> {
    whole_seconds(text).ok_or("is not a whole number from 0 to 86400")
}

/// Parses seconds, from 1.
pub fn seconds_from_one(text: &str) -> Result<Duration, &'static str> {
    let seconds = whole_seconds(text).filter(|seconds| !seconds.is_zero());
    seconds.ok_or("is not a whole number from 1 to 86400")
}

fn whole_seconds(text: &str) -> Option<Duration> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let seconds = text.parse::<u64>().ok().filter(|seconds| digits && *seconds <= MAX_SECONDS);
    seconds.map(Duration::from_secs)
}

/// Parses a switch.
pub fn switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("is neither true nor false"),
    }
}

/// Parses the name of a signal to wait for.
pub fn signal(text: &str) -> Result<SignalName, &'static str> {
    if text == "netboot-off" { Ok(SignalName::NetbootOff) } else { url(text).map(SignalName::Url) }
}

/// Parses a URL of plain HTTP: TLS would double the image's size.
pub fn url(text: &str) -> Result<Uri, &'static str> {
    let url = text.parse::<Uri>().ok();
    let https = url.as_ref().is_some_and(|url| url.scheme_str() == Some("https"));
    let problem = if https { "is https, which is not supported" } else { "is not an http:// URL" };
    url.filter(|url| is_plain_http(url) && !text.contains('#')).ok_or(problem)
}

/// Parses the status of an HTTP response.
pub fn status(text: &str) -> Result<u16, &'static str> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let status = text.parse::<u16>().ok().filter(|status| digits && (200..600).contains(status));
    status.ok_or("is not an HTTP status code")
}

/// Parses what happens if a signal does not come in time.
pub fn expired(text: &str) -> Result<Expired, &'static str> {
    Expired::from_name(text).ok_or("is neither run nor abort")
}

/// Parses what a fallback does; `None` if it is `none`.
pub fn fallback(text: &str) -> Result<Option<End>, &'static str> {
    match text {
        "none" => Ok(None),
        "reboot" => Ok(Some(End::Reboot)),
        "poweroff" => Ok(Some(End::PowerOff)),
        _ => Err("is not one of none, reboot, poweroff"),
    }
}

/// Parses which engine to use.
pub fn runtime(text: &str) -> Result<Runtime, &'static str> {
    match text {
        "auto" => Ok(Runtime::Auto),
        "docker" => Ok(Runtime::Docker),
        "nerdctl" => Ok(Runtime::Nerdctl),
        _ => Err("is not one of auto, docker, nerdctl"),
    }
}

/// Parses where a Docker Engine listens.
pub fn docker_host(text: &str) -> Result<DockerHost, &'static str> {
    if let Some(path) = text.strip_prefix("unix://") {
        let absolute = path.starts_with('/') && path.len() > 1;
        return check(DockerHost::Unix(path.into()), absolute, "has a path that is not absolute");
    }
    let Some(address) = text.strip_prefix("tcp://") else {
        return Err("has a scheme that is not supported");
    };
    let address = host_and_port(address.trim_end_matches('/'), DOCKER_PORT);
    address.map(DockerHost::Tcp).ok_or("is not tcp://host:port")
}

/// Parses a namespace by containerd's rule (`pkg/identifiers`): words of letters and digits, joined
/// by single `.`, `_` or `-`, at most 76 characters.
pub fn namespace(text: &str) -> Result<String, &'static str> {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
    let valid = text.len() <= 76 && text.split(['.', '_', '-']).all(word);
    check(text.into(), valid, "is not a valid containerd namespace")
}

/// Parses the lowest level that is logged.
pub fn log_level(text: &str) -> Result<LevelFilter, &'static str> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        _ => Err("is not one of error, warn, info, debug"),
    }
}

/// Parses where WARN and ERROR lines go.
pub fn syslog(text: &str) -> Result<Syslog, &'static str> {
    if text == "off" {
        return Ok(Syslog::Off);
    }
    host_and_port(text, SYSLOG_PORT).map(Syslog::To).ok_or("is not a valid host")
}

/// True for a URL that can be requested: http with a host, and a valid port if there is one. TLS
/// would double the image's size.
fn is_plain_http(url: &Uri) -> bool {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let port = authority.strip_prefix(url.host().unwrap_or_default()).unwrap_or("@");
    let valid_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    url.scheme_str() == Some("http")
        && url.host().is_some_and(|host| !host.is_empty())
        && valid_port
}

/// Returns the part of a text that is not secret, as a query of a URL or a password may be.
pub fn without_secret(text: &str) -> &str {
    if text.contains('@') || text.contains("password") {
        ""
    } else {
        text.split(['?', '#']).next().unwrap_or_default()
    }
}

/// Returns `host:port`, with the port `usual` if none is given; `None` if the text is not an
/// address.
pub fn host_and_port(text: &str, usual: u16) -> Option<String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("[{text}]:{usual}"));
    }
    let bare_ipv6 = text.ends_with(']');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bare_ipv6 => (host, port.to_owned()),
        _ => (text, usual.to_string()),
    };
    let host_valid = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    (host_valid && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hosts() {
        for (text, host) in [
            ("unix:///x/docker.sock", DockerHost::Unix("/x/docker.sock".into())),
            ("tcp://10.0.0.1:2375", DockerHost::Tcp("10.0.0.1:2375".into())),
            ("tcp://engine", DockerHost::Tcp("engine:2375".into())),
            ("tcp://[fd00::1]", DockerHost::Tcp("[fd00::1]:2375".into())),
            ("tcp://[fd00::1]:99/", DockerHost::Tcp("[fd00::1]:99".into())),
            ("tcp://fd00::1", DockerHost::Tcp("[fd00::1]:2375".into())),
        ] {
            assert_eq!(docker_host(text), Ok(host));
        }
    }
}
