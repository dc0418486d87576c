//! `make release-image`: release OUT.tar REPOSITORY VERSION REVISION CREATED
//! ARCHITECTURE=PROGRAM[:NERDCTL]... writes the OCI archive and prints its index's digest.

use anyhow::{Context, Result, bail};
use packaging::release::{Part, Release, write};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, repository, version, revision, created, parts @ ..] = arguments.as_slice() else {
        bail!(
            "usage: release OUT.tar REPOSITORY VERSION REVISION CREATED ARCHITECTURE=PROGRAM[:NERDCTL]..."
        );
    };
    let parts: Vec<Part> = parts
        .iter()
        .map(|text| part(text))
        .collect::<Option<_>>()
        .context("ARCHITECTURE=PROGRAM")?;
    let repository = repository.clone();
    let release = Release {
        repository,
        version: version.clone(),
        revision: revision.clone(),
        created: created.clone(),
    };
    let digest = write(out.as_ref(), &release, &parts)?;
    println!(
        "{out}: {version} for {}, {digest}",
        parts.iter().map(|part| part.architecture.as_str()).collect::<Vec<_>>().join(" and ")
    );
    Ok(())
}

fn part(text: &str) -> Option<Part> {
    let (architecture, programs) = text.split_once('=')?;
    let (program, nerdctl) = programs
        .split_once(':')
        .map_or((programs, None), |(program, nerdctl)| (program, Some(nerdctl)));
    Some(Part {
        architecture: architecture.to_owned(),
        program: program.into(),
        nerdctl: nerdctl.map(Into::into),
    })
}
