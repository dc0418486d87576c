//! Reads the kernel's command line, which tells the machine where its Tinkerbell server is. Pure.

use std::net::Ipv6Addr;

/// Returns the last value of a parameter, without the quotes around it; `None` if it is missing or
/// empty. Blanks separate parameters, except between double quotes (Linux, lib/cmdline.c,
/// `next_arg`).
pub fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let of_name = |parameter: &'a str| {
        let (own, value) = parameter.split_once('=')?;
        (own.trim_start_matches('"') == name).then(|| value.trim_matches('"'))
    };
    parameters(line).filter_map(of_name).last().filter(|value| !value.is_empty())
}

/// Returns the parameters of a command line, with their quotes.
fn parameters(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |letter: char| {
        quoted ^= letter == '"';
        !quoted && letter.is_ascii_whitespace()
    })
}

/// Returns the line as it may be shown: without passwords, and without URLs that hold a login.
pub fn redact(line: &str) -> String {
    let shown = |word: &str| match word.split_once('=') {
        Some((name, value))
            if name.contains("password") || (value.contains("://") && value.contains('@')) =>
        {
            format!("{name}=...")
        }
        _ => word.to_owned(),
    };
    parameters(line).map(shown).collect::<Vec<_>>().join(" ")
}

/// Returns the host of the Tinkerbell server, as written in a URL: a name, an IPv4 address, or an
/// IPv6 address in brackets. It comes from `grpc_authority`, which is `host:port`.
pub fn server(line: &str) -> Option<String> {
    let authority = value(line, "grpc_authority")?;
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("[{authority}]"));
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let valid = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    (valid && !host.is_empty()).then(|| host.to_owned())
}

/// Returns the address by which Smee knows this machine: six pairs of digits, joined by colons, in
/// lower case. It comes from `hw_addr`, else from `worker_id`, which is the same unless the
/// Hardware has an agentID (Tinkerbell v0.25.0, Smee's `ipxe/script`).
pub fn hardware_address(line: &str) -> Option<String> {
    let address = |name: &str| {
        let text = value(line, name)?.to_ascii_lowercase().replace('-', ":");
        let pair =
            |pair: &str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
        (text.split(':').count() == 6 && text.split(':').all(pair)).then_some(text)
    };
    address("hw_addr").or_else(|| address("worker_id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let line = "root=/dev/sda1 ro registry_password=s3cret HTTPS_PROXY=http://u:s3cret@proxy:3128 url=http://smee/x";
        assert_eq!(
            redact(line),
            "root=/dev/sda1 ro registry_password=... HTTPS_PROXY=... url=http://smee/x"
        );
        assert_eq!(redact("registry_password=\"two words\" ro"), "registry_password=... ro");
        assert_eq!(redact("\"registry_password=two words\" ro"), "\"registry_password=... ro");
    }

    #[test]
    fn values_stand_behind_names() {
        let line = "quiet console=tty0 a=1 a=2 empty= \"b=x y\" c=\"x y\" d=e=f\n";
        let values =
            ["a", "b", "c", "d", "console", "empty", "quiet", "none"].map(|name| value(line, name));
        assert_eq!(
            values,
            [Some("2"), Some("x y"), Some("x y"), Some("e=f"), Some("tty0"), None, None, None]
        );
    }

    #[test]
    fn the_server_is_the_grpc_authoritys_host() {
        for (authority, host) in [
            ("10.0.0.1:42113", Some("10.0.0.1")),
            ("tink.example.org:42113", Some("tink.example.org")),
            ("tink", Some("tink")),
            ("[fd00::1]:42113", Some("[fd00::1]")),
            ("[fd00::1]", Some("[fd00::1]")),
            ("fd00::1", Some("[fd00::1]")),
            ("", None),
            (":42113", None),
            ("[fd00::g]:1", None),
            ("a/b:1", None),
            ("u@h:1", None),
        ] {
            let line = format!("x grpc_authority={authority} y");
            assert_eq!(server(&line).as_deref(), host, "{authority}");
        }
    }

    #[test]
    fn the_hardware_address_is_smees() {
        let own = |line| hardware_address(line);
        assert_eq!(own("worker_id=AA:bb:CC:00:11:22").as_deref(), Some("aa:bb:cc:00:11:22"));
        assert_eq!(own("hw_addr=aa-bb-cc-00-11-22").as_deref(), Some("aa:bb:cc:00:11:22"));
        let other = "worker_id=aa:bb:cc:00:11:33 hw_addr=aa:bb:cc:00:11:22";
        assert_eq!(own(other).as_deref(), Some("aa:bb:cc:00:11:22"));
        assert_eq!(
            own("worker_id=some-name hw_addr=aa:bb:cc:00:11:22").as_deref(),
            Some("aa:bb:cc:00:11:22")
        );
        assert_eq!(own("worker_id=aa:bb:cc:00:11:2/ quiet"), None);
        assert_eq!(own("quiet"), None);
    }
}
