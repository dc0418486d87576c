//! `make image`: image PROGRAM REFERENCE OUT.tar [NERDCTL] writes waitdaemon's image as a
//! docker-archive. If NERDCTL is given, the image contains it.

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, reference, out, nerdctl) = match arguments.as_slice() {
        [program, reference, out] => (program, reference, out, None),
        [program, reference, out, nerdctl] => (program, reference, out, Some(nerdctl.as_ref())),
        _ => bail!("usage: image PROGRAM REFERENCE OUT.tar [NERDCTL]"),
    };
    packaging::image::waitdaemon(out.as_ref(), reference, program.as_ref(), nerdctl)?;
    let bytes = |path: &String| std::fs::metadata(path).map(|found| found.len());
    println!("{out}: {reference}, {} bytes; the program has {}", bytes(out)?, bytes(program)?);
    Ok(())
}
