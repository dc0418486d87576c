//! What a waiter does not run is not in its memory (program.ld).

use std::collections::HashMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, output};

use crate::case;
use crate::cases::ON_MAIN;
use crate::world::{Action, WAITER, own_program, process, waits};

/// A page, in bytes.
const PAGE: u64 = 4096;
/// The pages that the kernel maps around one that is touched, in bytes (fault_around_bytes).
const AROUND: u64 = 65536;

case!(the_handoffs_code_is_not_in_a_waiters_memory, ON_MAIN, |machine: Shared| {
    Action::alpine(&machine).wait("60").command(&["true"]).run_well()?;
    waits(&machine)?;
    let starts = sections()?;
    // On containerd a waiter runs nothing of Docker either.
    let first = if machine.is_docker() { ".text.docker" } else { ".text.nerdctl" };
    let start = |name: &str| starts.get(name).copied().with_context(|| format!("no {name}"));
    let apart = start(first)? / AROUND * AROUND - start(".text.handoff")? / PAGE * PAGE;
    // Code after that is in memory: nothing there that one waiter alone runs fills a window.
    let (size, resident) = code(&machine)?;
    ensure!(
        size - resident >= apart,
        "{} of {size} bytes of code are not in memory, less than the {apart} before {first}: \
         a function lies there that a waiter runs, see program.ld",
        size - resident
    );
    Ok(())
});

/// The addresses of the program's sections.
fn sections() -> Result<HashMap<String, u64>> {
    let said = output(Command::new("readelf").arg("-SW").arg(own_program()))?;
    let text = String::from_utf8(said.stdout)?;
    let section = |line: &str| {
        let mut words = line.split_once(']')?.1.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, u64::from_str_radix(words.nth(1)?, 16).ok()?))
    };
    Ok(text.lines().filter_map(section).collect())
}

/// The size of the waiter's code and how much of it is in memory, in bytes.
fn code(machine: &Machine) -> Result<(u64, u64)> {
    let file = format!("/proc/{}/smaps", process(machine, WAITER)?);
    let said = output(machine.command("cat").arg(file))?;
    let text = String::from_utf8(said.stdout)?;
    let of_code = |line: &&str| line.contains(" r-xp ") && line.ends_with("/waitdaemon");
    let mut lines = text.lines().skip_while(|line| !of_code(line));
    let mut figure = |name: &str| {
        let value = lines.find_map(|line| line.strip_prefix(name)).with_context(|| text.clone())?;
        let kilobytes = value.split_whitespace().next().context("no figure")?;
        Ok::<_, anyhow::Error>(kilobytes.parse::<u64>()? * 1024)
    };
    Ok((figure("Size:")?, figure("Rss:")?))
}
