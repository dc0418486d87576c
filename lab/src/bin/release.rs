//! `make release-image`: release OUT.tar VERSION REVISION CREATED ARCHITECTURE=PROGRAM... writes the OCI archive and
//! prints its index's digest.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lab::release::{Release, write};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, version, revision, created, programs @ ..] = arguments.as_slice() else {
        bail!("usage: release OUT.tar VERSION REVISION CREATED ARCHITECTURE=PROGRAM...");
    };
    let programs: Vec<(String, PathBuf)> = programs
        .iter()
        .map(|entry| entry.split_once('=').map(|(name, path)| (name.to_owned(), path.into())))
        .collect::<Option<_>>()
        .context("each program is ARCHITECTURE=PROGRAM")?;
    let release = Release { version: version.clone(), revision: revision.clone(), created: created.clone() };
    println!("{}", write(out.as_ref(), &release, &programs)?);
    Ok(())
}
