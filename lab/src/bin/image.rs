//! `make image`: image PROGRAM REFERENCE OUT.tar writes waitdaemon's image as a docker-archive.

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, reference, out] = arguments.as_slice() else { bail!("usage: image PROGRAM REFERENCE OUT.tar") };
    lab::image::waitdaemon(out.as_ref(), reference, program.as_ref())?;
    println!(
        "{out}: {reference}, {} bytes; the program has {}",
        std::fs::metadata(out)?.len(),
        std::fs::metadata(program)?.len()
    );
    Ok(())
}
