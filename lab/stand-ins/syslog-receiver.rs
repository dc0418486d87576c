//! syslog-receiver ADDRESS FILE writes every datagram to the UDP address as a line of the file.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::UdpSocket;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, file] = arguments.as_slice() else {
        bail!("usage: syslog-receiver ADDRESS FILE")
    };
    let socket = UdpSocket::bind(address)?;
    // Once the file exists, the address is taken.
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    let mut bytes = [0; 65_536];
    loop {
        let length = socket.recv(&mut bytes)?;
        file.write_all(&[&bytes[..length], b"\n"].concat())?;
    }
}
