//! Requests laid out by hand, so that what is measured is the server and not a client: Produce 3, Fetch 4, CreateTopics 2 and
//! DeleteTopics 1 in Kafka's encoding before flexible versions.

use std::io::{Error, Read, Result};
use std::ops::Range;

/// Sent with every request and so found in every answer.
const CORRELATION: i32 = 7;
const CLIENT: &str = "bench";
/// Longest answer but for the data of a Fetch.
const ANSWER_BYTES: usize = 1 << 20;

/// A frame that is being made; its length is set at the end.
struct Frame(Vec<u8>);

impl Frame {
    fn new(key: i16, version: i16) -> Self {
        let frame = Self(vec![0; 4]).i16(key).i16(version).i32(CORRELATION);
        frame.text(CLIENT)
    }

    fn i16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn count(self, count: usize) -> Self {
        self.i32(i32::try_from(count).unwrap_or(i32::MAX))
    }

    fn text(self, text: &str) -> Self {
        let mut frame = self.i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        frame.0.extend(text.as_bytes());
        frame
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut frame = self.count(bytes.len());
        frame.0.extend(bytes);
        frame
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0.iter_mut().zip(length.to_be_bytes()).for_each(|(byte, new)| *byte = new);
        self.0
    }
}

/// One batch for each of some partitions of a topic, acks=all.
pub(super) fn produce(topic: &str, partitions: Range<i32>, batch: &[u8]) -> Vec<u8> {
    let frame = Frame::new(0, 3).i16(-1).i16(-1).i32(30_000).count(1).text(topic);
    let frame = frame.count(partitions.len());
    partitions.fold(frame, |frame, index| frame.i32(index).bytes(batch)).finish()
}

/// What partition 0 of a topic has from `offset` on, at once.
pub(super) fn fetch(topic: &str, offset: i64, max_bytes: i32) -> Vec<u8> {
    let frame = Frame::new(1, 4).i32(-1).i32(0).i32(1).i32(max_bytes).byte(0);
    frame.count(1).text(topic).count(1).i32(0).i64(offset).i32(max_bytes).finish()
}

/// Topics with so many partitions each and one option.
pub(super) fn create(topics: &[String], partitions: i32, option: (&str, &str)) -> Vec<u8> {
    let frame = Frame::new(19, 2).count(topics.len());
    let topic = |frame: Frame, name: &String| {
        let frame = frame.text(name).i32(partitions).i16(1).count(0);
        frame.count(1).text(option.0).text(option.1)
    };
    topics.iter().fold(frame, topic).i32(60_000).byte(0).finish()
}

/// Deletes a topic.
pub(super) fn delete(topic: &str) -> Vec<u8> {
    Frame::new(20, 1).count(1).text(topic).i32(60_000).finish()
}

/// The body of one answer, or of any message with a length in front.
pub(super) fn read_frame(from: &mut impl Read, body: &mut Vec<u8>, limit: usize) -> Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(Error::other(format!("a frame of {length} bytes")));
    }
    body.resize(length, 0);
    from.read_exact(body)
}

/// Reads an answer and has `check` look at its body.
pub(super) fn read_answer(
    from: &mut impl Read,
    check: fn(&mut Fields<'_>) -> Option<i16>,
) -> Result<()> {
    let mut body = Vec::new();
    read_frame(from, &mut body, ANSWER_BYTES)?;
    let mut fields = Fields(&body);
    match fields.i32().and_then(|_| check(&mut fields)) {
        Some(0) => Ok(()),
        Some(code) => Err(Error::other(format!("the server answered with error {code}"))),
        None => Err(Error::other("the server's answer ends too early")),
    }
}

/// What is left to read of an answer.
pub(super) struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn i16(&mut self) -> Option<i16> {
        let value = i16::from_be_bytes(*self.0.first_chunk()?);
        self.skip(2)?;
        Some(value)
    }

    fn i32(&mut self) -> Option<i32> {
        let value = i32::from_be_bytes(*self.0.first_chunk()?);
        self.skip(4)?;
        Some(value)
    }

    fn text(&mut self) -> Option<()> {
        let length = self.i16()?;
        self.skip(usize::try_from(length).unwrap_or(0))
    }
}

/// The first error of an answer to [`produce`].
pub(super) fn produced(fields: &mut Fields<'_>) -> Option<i16> {
    for _ in 0..fields.i32()? {
        fields.text()?;
        for _ in 0..fields.i32()? {
            fields.i32()?;
            match fields.i16()? {
                0 => fields.skip(16)?,
                code => return Some(code),
            }
        }
    }
    Some(0)
}

/// The first error of an answer to [`create`].
pub(super) fn created(fields: &mut Fields<'_>) -> Option<i16> {
    fields.i32()?;
    for _ in 0..fields.i32()? {
        fields.text()?;
        match fields.i16()? {
            0 => fields.text()?,
            code => return Some(code),
        }
    }
    Some(0)
}

/// The first error of an answer to [`delete`].
pub(super) fn deleted(fields: &mut Fields<'_>) -> Option<i16> {
    fields.i32()?;
    for _ in 0..fields.i32()? {
        fields.text()?;
        match fields.i16()? {
            0 => {}
            code => return Some(code),
        }
    }
    Some(0)
}

/// Reads the answer to [`fetch`] up to its records, and gives their length.
pub(super) fn fetched(from: &mut impl Read, topic: &str) -> Result<usize> {
    // Length, correlation, throttle time, topics, name, partitions, index, error, two watermarks, no aborted
    // transactions, length of the records.
    let mut head = vec![0; 4 + 4 + 4 + 4 + 2 + topic.len() + 4 + 4 + 2 + 8 + 8 + 4 + 4];
    from.read_exact(&mut head)?;
    let mut fields = Fields(&head);
    let code = fields.skip(16).and_then(|()| {
        fields.text()?;
        fields.skip(8)?;
        fields.i16()
    });
    match (code, head.last_chunk().map(|length| u32::from_be_bytes(*length))) {
        (Some(0), Some(length)) => Ok(usize::try_from(length).unwrap_or(0)),
        (code, _) => Err(Error::other(format!("a fetch was answered with error {code:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::protocol::guard;

    #[test]
    fn requests_hold_together() {
        let topics = ["a".to_owned(), "b".to_owned()];
        for frame in [
            produce("t", 3..5, b"batch"),
            fetch("t", 9, 1 << 20),
            create(&topics, 2, ("segment.bytes", "1048576")),
            delete("t"),
        ] {
            let (length, body) = frame.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
            let (key, version) = ([body[0], body[1]], [body[2], body[3]]);
            guard::weigh(i16::from_be_bytes(key), i16::from_be_bytes(version), body).unwrap();
        }
    }

    #[test]
    fn an_error_in_an_answer_is_seen() {
        let answer = |code: i16| {
            let frame = Frame(vec![0; 4]).i32(CORRELATION).count(1).text("t").count(1).i32(0);
            frame.i16(code).i64(5).i64(-1).i32(0).finish()
        };
        read_answer(&mut &answer(0)[..], produced).unwrap();
        assert!(read_answer(&mut &answer(6)[..], produced).unwrap_err().to_string().contains('6'));
        let cut = answer(0)[..20].to_vec();
        assert!(read_answer(&mut &cut[..], produced).is_err());
    }
}
