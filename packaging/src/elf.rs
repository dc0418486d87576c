//! What the image's program does without (elf(5)).

use anyhow::{Context, Result};

/// Returns a 64-bit program without its section headers and their names. Only developers' tools read
/// them: the program headers say what is loaded.
///
/// # Errors
/// If it is cut off.
pub fn without_sections(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let number = |at: usize, size: usize| -> Result<usize> {
        let bytes = program.get(at..at + size).context("the program is cut off")?;
        let number = bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(number.try_into()?)
    };
    // `e_phoff`, `e_phentsize`, `e_phnum`; of each header `p_offset` and `p_filesz`.
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut end = 0;
    for at in (0..count).map(|index| headers + index * size) {
        end = end.max(number(at + 8, 8)? + number(at + 32, 8)?);
    }
    program.truncate(end);
    // `e_shoff`, `e_shnum`, `e_shstrndx`.
    for field in [40..48, 60..64] {
        program.get_mut(field).context("the program is cut off")?.fill(0);
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_runs_without_its_sections() -> Result<()> {
        let whole = fs::read(std::env::current_exe()?)?;
        let small = without_sections(whole.clone())?;
        assert!(small.len() < whole.len());
        let path = std::env::temp_dir().join(format!("without-sections-{}", std::process::id()));
        fs::write(&path, &small)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        let said = Command::new(&path).arg("--list").output();
        fs::remove_file(&path)?;
        assert!(String::from_utf8(said?.stdout)?.contains("a_program_runs_without_its_sections"));
        assert!(without_sections(whole[..40].to_vec()).is_err());
        Ok(())
    }
}
