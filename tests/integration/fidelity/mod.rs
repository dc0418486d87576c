//! Lossless: every setting that an action can have, and what becomes of it. The rows are the data of
//! docs/fidelity.md.

mod compare;
mod docker;
mod docker_rows;
mod rows;

use lab::machine::Engine;

pub use docker::make_images;

/// One case for each group of rows, on each Docker Engine.
pub fn cases() -> Vec<crate::Case> {
    docker_rows::GROUPS
        .into_iter()
        .map(|(name, rows)| {
            let case = move |engine: Engine| docker::run(engine, &rows());
            (format!("fidelity::{name}"), Box::new(case) as _)
        })
        .collect()
}
