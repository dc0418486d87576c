//! A container's output as the Engine API's attach sends it.

use super::api::Stream;
use crate::engine::{Answer, Output};

/// The head of a frame: stream, three zeros, length in big endian (API 1.41, `ContainerAttach`).
const HEAD: usize = 8;

/// An output that is attached to.
pub struct Attached {
    stream: Stream,
    demux: Demux,
}

impl Attached {
    /// The output of a container with (`tty`) or without a terminal.
    pub fn new(stream: Stream, tty: bool) -> Self {
        Self { stream, demux: Demux::new(tty) }
    }
}

impl Output for Attached {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.stream.next().await?.map(|piece| self.demux.feed(&piece))) })
    }
}

/// Takes the frames of an attach stream apart. Pure.
pub struct Demux {
    tty: bool,
    buffer: Vec<u8>,
}

impl Demux {
    /// For a container with (`tty`) or without a terminal: with one, the output has no frames.
    pub fn new(tty: bool) -> Self {
        Self { tty, buffer: Vec::new() }
    }

    /// Feeds a piece of the stream; returns the output that is complete now.
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
