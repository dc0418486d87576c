//! Answers of the engine that stay open: a container's end, and its output.

use std::cell::RefCell;
use std::rc::Rc;

use super::world::{Ways, World};
use crate::engine::{Answer, Kind, Life, Output, Refusal};
use crate::retry::Retry;

pub async fn await_end(world: Rc<RefCell<World>>, id: String, epoch: u32) -> Result<Life, Refusal> {
    let mut changes = world.borrow().changes.subscribe();
    let containerd = world.borrow().ways == Ways::Containerd;
    loop {
        {
            let world = world.borrow();
            if !containerd && world.epoch != epoch {
                return Err(Refusal::new(
                    Kind::MayPass(Retry::UntilDeadline),
                    "the connection broke",
                ));
            }
            match world.containers.get(&id).map(|found| &found.life) {
                Some(Life::Running { .. } | Life::Starting { .. }) => {}
                _ if containerd && world.kernel_tells => {
                    let code = world.codes.get(&id).copied().unwrap_or(137);
                    return Ok(Life::Ended { code, note: String::new() });
                }
                // The pidfd tells nothing more.
                _ if containerd => return Ok(Life::Unknown("its process has ended".into())),
                Some(life @ Life::Ended { .. }) => return Ok(life.clone()),
                // For a container that never ran, Docker answers a wait at once, with 0 (moby,
                // condition not-running).
                Some(_) => return Ok(Life::Ended { code: 0, note: String::new() }),
                // Removed while the answer was open: the answer has the exit code.
                None => {
                    let code = world.events.get(&id).copied().unwrap_or(137);
                    return Ok(Life::Ended { code, note: String::new() });
                }
            }
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

pub struct FakeOutput {
    pub world: Rc<RefCell<World>>,
    pub id: String,
    pub read: usize,
    pub epoch: u32,
}

impl Output for FakeOutput {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let mut changes = self.world.borrow().changes.subscribe();
            loop {
                {
                    let world = self.world.borrow();
                    let found = world.containers.get(&self.id);
                    let more = found
                        .map(|found| found.output[self.read.min(found.output.len())..].to_vec());
                    let live = found.is_some_and(|found| {
                        matches!(found.life, Life::Running { .. } | Life::Starting { .. })
                            || (world.ways == Ways::Docker && found.life == Life::Created)
                    });
                    let broken = world.ways == Ways::Docker && world.epoch != self.epoch;
                    match more {
                        Some(more) if !more.is_empty() && !broken => {
                            self.read += more.len();
                            return Ok(Some(more));
                        }
                        _ if !live || broken => return Ok(None),
                        _ => {}
                    }
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}
