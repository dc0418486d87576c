//! Parsers of single values. Pure.

use std::net::Ipv6Addr;

use hyper::Uri;

/// syslog's port (RFC 5426).
pub const SYSLOG_PORT: u16 = 514;

/// True for a URL that can be asked: http with a host, and a port if there is one. TLS would double the image.
pub fn is_plain_http(url: &Uri) -> bool {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let port = authority.strip_prefix(url.host().unwrap_or_default()).unwrap_or("@");
    let valid_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty()) && valid_port
}

/// The part of a URL's text that is no secret, as a query or a password may be.
pub fn without_secret(text: &str) -> &str {
    if text.contains('@') { "" } else { text.split('?').next().unwrap_or_default() }
}

/// `host:port`, with this port if none is given; `None` if it is no address.
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
