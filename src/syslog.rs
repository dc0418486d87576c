//! Sends WARN and ERROR lines to a syslog server: RFC 5424 over UDP (RFC 5426). HookOS's Docker
//! sends container output by itself. On CaptainOS nothing does (its rsyslog does not read nerdctl's
//! logs, observed).

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, sleep};

use crate::machine::command_line;
use crate::retry;
use crate::settings::Syslog;
use crate::settings::values::{SYSLOG_PORT, host_and_port};

/// Facility `daemon`, as in Docker's syslog driver.
const DAEMON: u8 = 3;
/// The longest message, in bytes, that every receiver should take (RFC 5426, 3.2).
const MAX_MESSAGE: usize = 2048;
/// The longest APP-NAME (RFC 5424, 6.2.5).
const MAX_NAME: usize = 48;
/// How many lines are kept until the server is reached.
const MAX_KEPT: usize = 64;
/// How long a process waits at its end for the server's name.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// The pause between two attempts to reach the server, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The pause between two checks whether the server's name is resolved.
const LOOK_EVERY: Duration = Duration::from_millis(20);

static SERVER: Mutex<Server> = Mutex::new(Server::None);

enum Server {
    /// Nothing is sent.
    None,
    /// The server has not been reached yet; the messages to send then.
    Awaited(Vec<Vec<u8>>),
    /// The socket that is connected to the server.
    Known(UdpSocket),
}

/// Returns the server to send to, `host:port`: the one in the settings, else the OSIE's own if logs
/// stay on the machine (`keeps_logs`). Pure.
pub fn server(wanted: &Syslog, keeps_logs: bool, line: &str) -> Option<String> {
    match wanted {
        Syslog::Off => None,
        Syslog::To(address) => Some(address.clone()),
        Syslog::Usual if keeps_logs => {
            let port = command_line::value(line, "syslog_port").and_then(|port| port.parse().ok());
            let port = port.filter(|port| *port > 0).unwrap_or(SYSLOG_PORT);
            command_line::value(line, "syslog_host").and_then(|host| host_and_port(host, port))
        }
        Syslog::Usual => None,
    }
}

/// Starts sending lines to `address`, `host:port`. If its name cannot be resolved, or there is no
/// route to it yet, that is tried again for as long as this process runs; nothing waits for it.
pub fn start(address: &str) {
    if let Ok(mut server) = SERVER.lock() {
        *server = Server::Awaited(Vec::new());
    }
    let address = address.to_owned();
    tokio::spawn(async move {
        let mut failed = 0;
        loop {
            match connect(&address).await {
                Ok(socket) => return use_socket(socket),
                Err(error) if failed == 0 => {
                    log::warn!(error = error.to_string().as_str(); "cannot reach the syslog server {address}, trying again");
                }
                Err(_) => {}
            }
            failed += 1;
            sleep(retry::pause(FIRST_PAUSE, MAX_PAUSE, failed)).await;
        }
    });
}

async fn connect(address: &str) -> io::Result<UdpSocket> {
    let address = lookup_host(address).await?.next().ok_or(io::ErrorKind::NotFound)?;
    let any: IpAddr = match address.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Sends the kept messages through this socket, and all later ones.
fn use_socket(socket: UdpSocket) {
    let Ok(mut server) = SERVER.lock() else { return };
    if let Server::Awaited(kept) = &*server {
        kept.iter().for_each(|message| deliver(&socket, message));
    }
    *server = Server::Known(socket);
}

/// Waits until the kept messages have been sent, at most this long.
pub async fn flush(limit: Duration) {
    let end = Instant::now() + limit;
    let awaited =
        || matches!(SERVER.lock().as_deref(), Ok(Server::Awaited(kept)) if !kept.is_empty());
    while awaited() && Instant::now() < end {
        sleep(LOOK_EVERY).await;
    }
}

/// Drops the kept messages, so that nothing waits for them again.
pub fn forget() {
    if let Ok(mut server) = SERVER.lock()
        && let Server::Awaited(kept) = &mut *server
    {
        *kept = Vec::new();
    }
}

/// Sends a line of the log with syslog's severity, if there is a server.
pub fn send(severity: u8, time: &str, action: Option<&str>, line: &[u8]) {
    let Ok(mut server) = SERVER.lock() else { return };
    if matches!(*server, Server::None) {
        return;
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let message = message(
        severity,
        time,
        (&host, action.unwrap_or("waitdaemon")),
        &String::from_utf8_lossy(line),
    );
    match &mut *server {
        Server::None => {}
        Server::Awaited(kept) if kept.len() < MAX_KEPT => kept.push(message),
        Server::Awaited(_) => {}
        Server::Known(socket) => deliver(socket, &message),
    }
}

/// Sends one message. A message that does not reach the network is still in the log.
fn deliver(socket: &UdpSocket, message: &[u8]) {
    // The kernel may refuse it because of an error of the previous message (udp(7), asynchronous
    // errors).
    if socket.send(message).is_err() {
        let _ = socket.send(message);
    }
}

/// Returns one syslog message. Pure.
fn message(severity: u8, time: &str, (host, action): (&str, &str), line: &str) -> Vec<u8> {
    let name = |text: &str, longest: usize| {
        let printable: String = text.chars().filter(char::is_ascii_graphic).take(longest).collect();
        if printable.is_empty() { "-".to_owned() } else { printable }
    };
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "<{}>1 {time} {} {} - - - {}",
        DAEMON * 8 + severity,
        name(host, 255),
        name(action, MAX_NAME),
        line.trim_end()
    );
    let mut bytes = text.into_bytes();
    if bytes.len() > MAX_MESSAGE {
        bytes.truncate(MAX_MESSAGE);
        // Do not cut within a character.
        while std::str::from_utf8(&bytes).is_err() {
            bytes.pop();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_server_is_on_its_command_line() {
        for (line, address) in [
            ("syslog_host=10.0.0.1", Some("10.0.0.1:514")),
            ("syslog_host=10.0.0.1 syslog_port=1514", Some("10.0.0.1:1514")),
            ("syslog_host=10.0.0.1:99 syslog_port=1514", Some("10.0.0.1:99")),
            ("syslog_host=fd00::1 syslog_port=1514", Some("[fd00::1]:1514")),
            ("syslog_host=logs syslog_port=0", Some("logs:514")),
            ("syslog_host=logs syslog_port=x", Some("logs:514")),
            ("syslog_port=1514", None),
        ] {
            assert_eq!(server(&Syslog::Usual, true, line).as_deref(), address, "{line}");
            assert_eq!(server(&Syslog::Usual, false, line), None);
            assert_eq!(server(&Syslog::To("h:1".into()), false, line).as_deref(), Some("h:1"));
        }
    }

    #[test]
    fn a_message_is_rfc_5424() {
        let made = message(
            3,
            "2026-11-23T14:00:00.000001Z",
            ("machine 1", "tinkerbell_reboot_a0"),
            "{\"level\":\"ERROR\"}\n",
        );
        let text = "<27>1 2026-11-23T14:00:00.000001Z machine1 tinkerbell_reboot_a0 - - - {\"level\":\"ERROR\"}";
        assert_eq!(String::from_utf8(made).unwrap(), text);
        assert!(message(4, "t", ("", "ä"), "x").starts_with(b"<28>1 t - - - - - x"));
    }

    #[test]
    fn a_refused_message_does_not_cost_the_next() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(address).unwrap();
        drop(receiver);
        deliver(&sender, b"nobody is there");
        let receiver = UdpSocket::bind(address).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        deliver(&sender, b"somebody is");
        let mut message = [0; 64];
        let length = receiver.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"somebody is");
    }

    #[test]
    fn a_long_line_is_cut_between_letters() {
        for blanks in 0..4 {
            let made = message(
                3,
                "t",
                ("h", &"a".repeat(99)),
                &format!("{}{}", " ".repeat(blanks), "ä€".repeat(2000)),
            );
            assert!((MAX_MESSAGE - 3..=MAX_MESSAGE).contains(&made.len()), "{}", made.len());
            let text = String::from_utf8(made).unwrap();
            assert_eq!(text.split(' ').nth(3).unwrap().len(), MAX_NAME);
        }
    }
}
