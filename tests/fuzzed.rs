//! Regression tests from fuzzing: each file of fuzz/seeds and fuzz/found goes through its target.

#[path = "../fuzz/targets.rs"]
#[allow(clippy::unwrap_used)] // They panic if something does not hold.
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn seeds_and_what_was_found() {
    for (name, target) in targets::ALL {
        let mut tried = 0;
        for kind in ["seeds", "found"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(name);
            for entry in fs::read_dir(folder).into_iter().flatten() {
                target(&fs::read(entry.unwrap().path()).unwrap());
                tried += 1;
            }
        }
        assert!(tried > 0, "{name} has no seeds");
    }
}
