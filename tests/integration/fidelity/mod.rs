//! Lossless: every setting that an action can have, and its outcome. The rows are the data of
//! docs/fidelity.md.

mod bench;
mod compare;
mod docker;
mod docker_networks;
mod docker_rows;
mod later;
mod nerdctl;
mod nerdctl_rows;
mod page;
mod rows;

use lab::system::System;

use crate::case;
use crate::cases::{ON_CAPTAIN_V1, ON_DOCKER, ON_MAIN, Systems};

pub use docker::make_images;
pub use nerdctl_rows::INSIDE;

const OTHER_VERSIONS: Systems = Systems::on(&[System::DockerOld, System::CaptainNext]).soak();

fn run(system: System, group: &str) -> anyhow::Result<()> {
    if system.is_docker() {
        docker::run(system, group, &rows::of_group(&docker_rows::GROUPS, group)?)
    } else {
        nerdctl::run(system, &rows::of_group(&nerdctl_rows::GROUPS, group)?)
    }
}

// One case for each group of rows. Rows that do not depend on cgroups need none of their
// controllers, which cgroup v2 lacks here.
case!(config, ON_MAIN, |system: System| run(system, "config"));
case!(images, ON_MAIN, |system: System| run(system, "images"));
case!(mounts, ON_MAIN, |system: System| run(system, "mounts"));
case!(networks, ON_MAIN, |system: System| run(system, "networks"));
case!(rights, ON_MAIN, |system: System| run(system, "rights"));
// The other versions differ in few rows and would take as long again.
case!(config_of_other_versions, OTHER_VERSIONS, |system: System| run(system, "config"));
case!(images_of_other_versions, OTHER_VERSIONS, |system: System| run(system, "images"));
case!(mounts_of_other_versions, OTHER_VERSIONS, |system: System| run(system, "mounts"));
case!(networks_of_other_versions, OTHER_VERSIONS, |system: System| run(system, "networks"));
case!(rights_of_other_versions, OTHER_VERSIONS, |system: System| run(system, "rights"));
// With the controllers of cgroup v1.
case!(resources, ON_DOCKER, |system: System| run(system, "resources"));
case!(resources_of_nerdctl, ON_CAPTAIN_V1, |system: System| run(system, "resources"));
