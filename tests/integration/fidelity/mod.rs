//! Lossless: every setting that an action can have, and what becomes of it. The rows are the data of
//! docs/fidelity.md.

mod bench;
mod compare;
mod docker;
mod docker_rows;
mod nerdctl;
mod nerdctl_rows;
mod page;
mod rows;

use lab::captain::Init;
use lab::machine::Engine;

pub use docker::make_images;
pub use nerdctl_rows::INSIDE;
pub use page::page_is_the_rows;

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

/// A case that chooses its machine itself.
pub type PlainCase = (String, Box<dyn Fn() -> anyhow::Result<()> + Send + Sync>);

/// One case for each group of rows on containerd. The resources are those of cgroup v1: this lab's cgroup v2 has
/// no controllers.
pub fn nerdctl_cases() -> Vec<PlainCase> {
    nerdctl_rows::GROUPS
        .into_iter()
        .map(|(name, rows)| {
            let init = if name == "resources" { Init::BusyBox } else { Init::Systemd };
            let case = move || nerdctl::run(init, &rows());
            (format!("{}::fidelity::{name}", init.name()), Box::new(case) as _)
        })
        .collect()
}
