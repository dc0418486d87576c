//! `machine SYSTEM [COMMAND...]` boots a throw-away machine with waitdaemon's image, runs the
//! command or a shell, and ends the machine. SYSTEM is a name of [`lab::system::System`].
//!
//! The command runs outside the machine. `DOCKER_HOST` is the machine's engine. `$IN` before a
//! command runs that command inside, as in `$IN nerdctl ps` on CaptainOS.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use lab::machine::Machine;
use lab::nest::Nest;
use lab::paths;
use lab::system::System;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let names = System::ALL.map(System::name).join(", ");
    let name = arguments.next().with_context(|| format!("name a machine: {names}"))?;
    let system =
        System::from_name(&name).with_context(|| format!("there is no machine {name}: {names}"))?;
    let command: Vec<String> = arguments.collect();
    let image = paths::root().join("dist/waitdaemon.tar");
    let machine = Machine::boot(system)?;
    machine.load(&image)?;
    let docker_host = if system.is_docker() {
        format!("unix://{}", machine.socket().display())
    } else {
        String::new()
    };
    inside(&machine, &docker_host, &command)
}

fn inside(nest: &Nest, docker_host: &str, command: &[String]) -> Result<ExitCode> {
    let shell = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let command = if command.is_empty() { &shell[..] } else { command };
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("DOCKER_HOST", docker_host)
        .env("IN", format!("nsenter -t {} -m -u -i -n -p -C --", nest.init()))
        .env("OUT", nest.out())
        .status()
        .with_context(|| format!("cannot run {}", command[0]))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
