//! A container's output as the Engine API's attach sends it. Pure.

/// The head of a frame: stream, three zeros, length in big endian (API 1.41, `ContainerAttach`).
const HEAD: usize = 8;

/// Takes the frames of an attach stream apart.
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

/// Keeps the last lines of an output, made safe to show.
#[derive(Default)]
pub struct Tail {
    lines: std::collections::VecDeque<String>,
    line: Vec<u8>,
}

/// How many lines are kept.
const LINES: usize = 20;
/// How much of one line is kept, in bytes.
const LINE_LENGTH: usize = 1000;

impl Tail {
    /// Adds output; memory stays bounded whatever comes.
    pub fn feed(&mut self, output: &[u8]) {
        for &byte in output {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_LENGTH {
                self.line.push(byte);
            }
        }
    }

    /// The last lines, oldest first, with control characters written out.
    pub fn into_lines(mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.lines.into()
    }

    fn end_line(&mut self) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let line = std::mem::take(&mut self.line);
        self.lines.push_back(shown(String::from_utf8_lossy(&line).trim_end()));
    }
}

/// The text with control characters written out, so that no terminal obeys them.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
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

    #[test]
    fn the_tail_keeps_twenty_safe_lines() {
        let mut tail = Tail::default();
        for n in 0..100 {
            tail.feed(format!("line {n}\r\n").as_bytes());
        }
        tail.feed(b"\x1b[31mred\xff");
        let lines = tail.into_lines();
        assert_eq!(lines.len(), 20);
        assert_eq!(lines[0], "line 81");
        assert_eq!(lines[19], "\\u{1b}[31mred\u{fffd}");
        let mut tail = Tail::default();
        tail.feed(&vec![b'x'; 1 << 20]);
        assert_eq!(tail.into_lines()[0].len(), LINE_LENGTH);
    }
}
