//! The stream of a pull, as `POST /images/create` sends it. Pure.
//!
//! The Engine answers 200 before it knows the outcome; an error arrives as a line in the stream
//! (seen on 20.10 and 28).

use serde_json::Value;

/// The progress of a pull, from the lines so far.
#[derive(Default)]
pub struct PullStream {
    buffer: Vec<u8>,
    /// Each layer's ID, the bytes received, and its size.
    layers: Vec<(String, u64, u64)>,
    status: String,
}

/// The longest line to keep; the engine's lines have some hundred bytes.
const LINE_LENGTH: usize = 1 << 20;

/// The pull failed, in the engine's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PullError(pub String);

impl PullStream {
    /// Feeds a piece of the stream.
    ///
    /// # Errors
    /// If a line says that the pull failed, or is not JSON.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), PullError> {
        self.buffer.extend_from_slice(piece);
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            self.line(&line)?;
        }
        if self.buffer.len() > LINE_LENGTH {
            return Err(PullError("the engine sent a line without end".into()));
        }
        Ok(())
    }

    /// Handles the end of the stream.
    ///
    /// # Errors
    /// As [`PullStream::feed`]: the last line may lack its newline.
    pub fn end(&mut self) -> Result<(), PullError> {
        let line = std::mem::take(&mut self.buffer);
        self.line(&line)
    }

    /// Returns bytes received and bytes in all, over the layers whose size is known.
    pub fn bytes(&self) -> (u64, u64) {
        self.layers.iter().fold((0, 0), |(done, all), layer| (done + layer.1, all + layer.2))
    }

    /// Returns the engine's latest status.
    pub fn status(&self) -> &str {
        &self.status
    }

    fn line(&mut self, line: &[u8]) -> Result<(), PullError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| PullError(format!("the engine sent no JSON: {error}")))?;
        let error = value["errorDetail"]["message"].as_str().or_else(|| value["error"].as_str());
        if let Some(message) = error {
            return Err(PullError(message.to_owned()));
        }
        let status = value["status"].as_str().unwrap_or_default();
        if !status.is_empty() {
            self.status = status.to_owned();
        }
        let detail = &value["progressDetail"];
        let Some(id) = value["id"].as_str() else { return Ok(()) };
        let known = self.layers.iter().position(|layer| layer.0 == id);
        match (status, detail["total"].as_u64(), known) {
            ("Downloading", Some(size), known) => {
                let received = detail["current"].as_u64().unwrap_or(0).min(size);
                let at = known.unwrap_or(self.layers.len());
                if at == self.layers.len() {
                    self.layers.push((id.to_owned(), 0, 0));
                }
                (self.layers[at].1, self.layers[at].2) = (received, size);
            }
            ("Download complete", _, Some(at)) => self.layers[at].1 = self.layers[at].2,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bytes_in_any_pieces() {
        let text = br#"{"status":"Pulling from library/alpine","id":"latest"}
{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"a"}
{"status":"Downloading","progressDetail":{"current":60,"total":100},"id":"a"}
{"status":"Downloading","progressDetail":{"current":5,"total":5},"id":"b"}
{"status":"Extracting","progressDetail":{"current":5,"total":5},"id":"b"}
{"status":"Download complete","progressDetail":{},"id":"a"}
"#;
        for size in [1, 7, text.len()] {
            let mut progress = PullStream::default();
            text.chunks(size).for_each(|piece| progress.feed(piece).unwrap());
            progress.end().unwrap();
            assert_eq!((progress.bytes(), progress.status()), ((105, 105), "Download complete"));
        }
    }

    #[test]
    fn an_error_inside_the_stream_is_an_error() {
        let text = br#"{"status":"Pulling"}
{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}
"#;
        assert_eq!(PullStream::default().feed(text), Err(PullError("manifest unknown".into())));
        let mut progress = PullStream::default();
        progress.feed(br#"{"error":"no space left"}"#).unwrap();
        assert_eq!(progress.end(), Err(PullError("no space left".into())));
        assert!(PullStream::default().feed(b"<html>\n").is_err());
    }
}
