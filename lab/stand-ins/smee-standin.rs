//! smee-standin ADDRESS FOLDER stands in for Tinkerbell's Smee, which serves a machine's boot
//! script as long as netboot is allowed. Answers every GET according to the file FOLDER/answer at
//! that moment: a status; `flap`, 404 and 200 in turn; `hang`, nothing for ever; `close`, the end
//! of the connection. Adds a line to FOLDER/log for each: seconds since 1970, the answer, the path.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

static TURN: AtomicU32 = AtomicU32::new(0);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, folder] = arguments.as_slice() else {
        bail!("usage: smee-standin ADDRESS FOLDER")
    };
    let folder = PathBuf::from(folder);
    for client in TcpListener::bind(address).context("cannot listen")?.incoming() {
        let (client, folder) = (client?, folder.clone());
        std::thread::spawn(move || {
            if let Err(error) = answer(client, &folder) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut client: TcpStream, folder: &Path) -> Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    let path = request.split(' ').nth(1).context("no path")?.to_owned();
    while !lines.next().context("the request's head has no end")??.is_empty() {}
    let mut said = fs::read_to_string(folder.join("answer"))?.trim().to_owned();
    if said == "flap" {
        said = if TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { "404" } else { "200" }
            .to_owned();
    }
    // The log comes before the answer, so that a reader who has the answer finds the line.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let mut log = OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    log.write_all(format!("{now:.6} {said} {path}\n").as_bytes())?;
    match said.as_str() {
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "close" => {}
        status => {
            let body = "#!ipxe\n";
            let length = body.len();
            client.write_all(
                format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                    .as_bytes(),
            )?;
        }
    }
    Ok(())
}
