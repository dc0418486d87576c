//! The README shows the very files of examples/, which the agent's cases run.

use std::fs;

use anyhow::{Result, ensure};
use lab::paths;

pub fn examples_are_the_files() -> Result<()> {
    let readme = fs::read_to_string(paths::root().join("README.md"))?;
    let mut examples = 0;
    for entry in fs::read_dir(paths::root().join("examples"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        ensure!(readme.contains(&format!("```yaml\n{text}```")), "README.md does not show {} as it is", path.display());
        examples += 1;
    }
    let shown = readme.matches("```yaml\n- name:").count();
    ensure!(examples > 0 && shown == examples, "README.md shows {shown} actions, examples/ has {examples}");
    Ok(())
}
