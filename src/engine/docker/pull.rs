//! The stream of a pull, as `POST /images/create` sends it. Pure.
//!
//! The Engine answers 200 before it knows; an error comes as a line inside the stream (seen on
//! 20.10 and 28).

use std::collections::HashMap;

use serde_json::Value;

/// How far a pull is, from the lines so far.
#[derive(Default)]
pub struct PullStream {
    buffer: Vec<u8>,
    layers: HashMap<String, (u64, u64)>,
    status: String,
}

/// The longest line that is kept; the engine's lines have some hundred bytes.
const LINE_LENGTH: usize = 1 << 20;

/// The pull failed; the engine's own word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PullError(pub String);

impl PullStream {
    /// Feeds a piece of the stream.
    ///
    /// # Errors
    /// [`PullError`] if a line says that the pull failed, or is not JSON.
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

    /// Takes the end of the stream.
    ///
    /// # Errors
    /// As [`PullStream::feed`]: the last line may lack its newline.
    pub fn end(&mut self) -> Result<(), PullError> {
        let line = std::mem::take(&mut self.buffer);
        self.line(&line)
    }

    /// Bytes received and bytes in all, over the layers whose size is known.
    pub fn bytes(&self) -> (u64, u64) {
        self.layers.values().fold((0, 0), |(done, all), layer| (done + layer.0, all + layer.1))
    }

    /// What the engine said last.
    pub fn status(&self) -> &str {
        &self.status
    }

    fn line(&mut self, line: &[u8]) -> Result<(), PullError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let value: Value =
            serde_json::from_slice(line).map_err(|error| PullError(format!("the engine sent no JSON: {error}")))?;
        let error = value["errorDetail"]["message"].as_str().or_else(|| value["error"].as_str());
        if let Some(message) = error {
            return Err(PullError(message.to_owned()));
        }
        let status = value["status"].as_str().unwrap_or_default();
        if !status.is_empty() {
            self.status = status.to_owned();
        }
        let detail = &value["progressDetail"];
        if let (Some(id), Some(total)) = (value["id"].as_str(), detail["total"].as_u64())
            && status == "Downloading"
        {
            self.layers.insert(id.to_owned(), (detail["current"].as_u64().unwrap_or(0).min(total), total));
        } else if let Some(layer) = value["id"].as_str().and_then(|id| self.layers.get_mut(id))
            && status == "Download complete"
        {
            layer.0 = layer.1;
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
