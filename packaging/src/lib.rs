//! What ships: waitdaemon's images, as archives that are the same wherever they are built.

pub mod architecture;
pub mod archive;
mod elf;
pub mod image;
pub mod release;
