//! The last lines of a container's output. Pure.

/// Keeps the last lines of an output, made safe to show.
#[derive(Default)]
pub struct Tail {
    lines: std::collections::VecDeque<String>,
    line: Vec<u8>,
}

/// How many lines to keep.
const LINES: usize = 20;
/// How much of one line to keep, in bytes.
const LINE_LENGTH: usize = 1000;

impl Tail {
    /// Adds output; memory stays bounded whatever arrives.
    pub fn feed(&mut self, output: &[u8]) {
        for &byte in output {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_LENGTH {
                self.line.push(byte);
            }
        }
    }

    /// Returns the last lines, oldest first, with control characters written out.
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

/// Returns the text with control characters written out, so that no terminal obeys them.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
