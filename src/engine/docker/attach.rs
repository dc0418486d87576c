//! A container's output as the Engine API's attach sends it.

use super::api::Stream;
use crate::engine::{Answer, Output};

/// Length of a frame's head: stream, three zeros, big-endian length (API 1.41, `ContainerAttach`).
const HEAD: usize = 8;

/// The output of a container that is attached to.
pub struct Attached {
    stream: Stream,
    demux: Demux,
}

impl Attached {
    /// Takes the output of a container with (`tty`) or without a terminal.
    pub fn new(stream: Stream, tty: bool) -> Self {
        Self { stream, demux: Demux::new(tty) }
    }
}

impl Output for Attached {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.stream.next().await?.map(|piece| self.demux.feed(&piece))) })
    }
}

/// Splits an attach stream into its frames. Pure.
pub struct Demux {
    tty: bool,
    buffer: Vec<u8>,
}

impl Demux {
    /// Takes the stream of a container with (`tty`) or without a terminal; with one, it has no
    /// frames.
    pub fn new(tty: bool) -> Self {
        Self { tty, buffer: Vec::new() }
    }

    /// Feeds a piece of the stream; returns the output that is now complete.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.tty {
            return piece.to_vec();
        }
        self.buffer.extend_from_slice(piece);
        let mut output = Vec::new();
        while let Some(head) = self.buffer.first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let Some(frame) = self.buffer.get(HEAD..HEAD + length) else { break };
            output.extend_from_slice(frame);
            self.buffer.drain(..HEAD + length);
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &[u8]) -> Vec<u8> {
        [&[stream, 0, 0, 0], &u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
    }

    #[test]
    fn frames_in_any_pieces_give_the_same_output() {
        let whole = [frame(1, b"one\n"), frame(2, b""), frame(2, b"two\n")].concat();
        for size in 1..=whole.len() {
            let mut demux = Demux::new(false);
            let output: Vec<u8> = whole.chunks(size).flat_map(|piece| demux.feed(piece)).collect();
            assert_eq!(output, b"one\ntwo\n", "pieces of {size}");
        }
        assert_eq!(Demux::new(true).feed(&whole), whole);
    }
}
