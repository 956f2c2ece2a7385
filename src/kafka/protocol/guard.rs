//! Counts and lengths of a request checked against the bytes that are there, before anything decodes it.

use std::ops::RangeInclusive;

use super::requests::REQUESTS;
use super::schema::{Field, Kind, Request};
use crate::types::limits::KAFKA_DECODED_REQUEST_BYTES;

/// A tag and a size.
const LEAST_TAG_BYTES: usize = 2;
/// Unknown tagged fields go into a B-tree map of the struct they came with: a first node of it ...
const TAG_MAP_BYTES: usize = 512;
/// ... and an entry in nodes that are half empty.
const TAG_ENTRY_BYTES: usize = 128;

/// Why a request is not decoded. The connection it came from cannot be trusted to be in step any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// No such request is served.
    #[error("api key {api_key} in version {version} is not served; ask for ApiVersions first")]
    NotServed {
        /// As given.
        api_key: i16,
        /// As given.
        version: i16,
    },
    /// The bytes begin with another key or version than the caller says.
    #[error("the header names another request than api key {api_key} in version {version}")]
    OtherRequest {
        /// As given.
        api_key: i16,
        /// As given.
        version: i16,
    },
    /// The bytes end within a field.
    #[error("the request ends within {field}")]
    Truncated {
        /// Name in the schema.
        field: &'static str,
    },
    /// Null where the schema has none.
    #[error("{field} is null and must not be in this version")]
    Null {
        /// Name in the schema.
        field: &'static str,
    },
    /// A count or length that the bytes left cannot hold, or a negative one.
    #[error("{field} announces {number}, for which {left} bytes are left")]
    Number {
        /// Name in the schema.
        field: &'static str,
        /// The count or length as found.
        number: i64,
        /// Bytes left after it.
        left: usize,
    },
    /// A string beyond the protocol's own limit.
    #[error("{field} is a string of {length} bytes; 32767 are the most")]
    LongString {
        /// Name in the schema.
        field: &'static str,
        /// As found.
        length: usize,
    },
    /// A varint of more than 5 bytes or 32 bits.
    #[error("a varint at {field} has more than 32 bits")]
    Varint {
        /// Name in the schema.
        field: &'static str,
    },
    /// A tagged field shorter than the size in front of it.
    #[error("tagged field {field} leaves {left} bytes of its size unused")]
    TagSize {
        /// Name in the schema.
        field: &'static str,
        /// Bytes unused.
        left: usize,
    },
    /// The decoded form would take too much memory.
    #[error(
        "{field} takes the request beyond {KAFKA_DECODED_REQUEST_BYTES} bytes in memory; name fewer elements in one request"
    )]
    Budget {
        /// Name in the schema.
        field: &'static str,
    },
}

/// Walks a whole request, header first, to its last field. Allocates nothing. Cost: a pass over the counts and lengths; the
/// bytes of strings and records are skipped.
///
/// Bytes behind the last field are let pass, as Kafka does and the decoder: librdkafka 2.16 asks for all topics with a
/// count of four bytes where the version has one, and so leaves three.
///
/// `header_and_body` is the frame without its size. A version of ApiVersions that is not served is for the caller to
/// answer without decoding. Returns the bytes of memory that the decoded form takes beside the frame.
///
/// # Errors
/// [`GuardError`]: the request must not be decoded.
pub fn weigh(api_key: i16, version: i16, header_and_body: &[u8]) -> Result<usize, GuardError> {
    walk(api_key, version, header_and_body, |_, _, _, _| ())
}

/// The versions of a request that [`weigh`] knows; others are [`GuardError::NotServed`].
#[must_use]
pub fn versions(api_key: i16) -> Option<RangeInclusive<i16>> {
    Some(request(api_key)?.versions.clone())
}

fn request(api_key: i16) -> Option<&'static Request> {
    REQUESTS.iter().find(|request| request.key == api_key)
}

/// How a count or length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `i16`.
    Short,
    /// `i32`.
    Long,
    /// Unsigned varint of one more, 0 being null.
    Compact,
    /// Unsigned varint.
    Varint,
}

fn walk(
    api_key: i16,
    version: i16,
    frame: &[u8],
    watch: impl FnMut(usize, usize, usize, Form),
) -> Result<usize, GuardError> {
    let request = request(api_key)
        .filter(|request| request.versions.contains(&version))
        .ok_or(GuardError::NotServed { api_key, version })?;
    let mut walker = Walker {
        frame,
        at: 0,
        end: frame.len(),
        version,
        flexible: request.is_flexible(version),
        budget: KAFKA_DECODED_REQUEST_BYTES,
        watch,
    };
    let named = [walker.take_array("api_key")?, walker.take_array("version")?];
    if named.map(i16::from_be_bytes) != [api_key, version] {
        return Err(GuardError::OtherRequest { api_key, version });
    }
    walker.take("correlation_id", 4)?;
    // The client id has the old form in both headers.
    let length = walker.number("client_id", Form::Short, 1, true)?;
    walker.take("client_id", length)?;
    if walker.flexible {
        walker.tags(&[])?;
    }
    walker.fields(request.fields)?;
    Ok(KAFKA_DECODED_REQUEST_BYTES - walker.budget)
}

struct Walker<'a, W> {
    frame: &'a [u8],
    /// Next byte.
    at: usize,
    /// End of the frame, or of the tagged field that is being walked.
    end: usize,
    version: i16,
    flexible: bool,
    /// Memory that the decoded form may still take.
    budget: usize,
    /// Told of every count and length before it is judged: its place, the bytes left after it, the fewest bytes per
    /// one that it counts, and its form. The tests learn from it where to lie.
    watch: W,
}

impl<'a, W: FnMut(usize, usize, usize, Form)> Walker<'a, W> {
    fn left(&self) -> usize {
        self.end - self.at
    }

    fn take(&mut self, field: &'static str, bytes: usize) -> Result<&'a [u8], GuardError> {
        if bytes > self.left() {
            return Err(GuardError::Truncated { field });
        }
        let end = self.at + bytes;
        let taken = self.frame.get(self.at..end).ok_or(GuardError::Truncated { field })?;
        self.at = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], GuardError> {
        let taken = self.take(field, N)?;
        taken.first_chunk().copied().ok_or(GuardError::Truncated { field })
    }

    fn varint(&mut self, field: &'static str) -> Result<u32, GuardError> {
        let mut value = 0;
        for group in 0..5 {
            let [byte] = self.take_array(field)?;
            // Four groups leave room for 4 bits.
            if group == 4 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(GuardError::Varint { field })
    }

    /// Reads a count or length of things that take `least` bytes or more each. Null, where it may stand, counts none.
    fn number(
        &mut self,
        field: &'static str,
        form: Form,
        least: usize,
        nullable: bool,
    ) -> Result<usize, GuardError> {
        let at = self.at;
        let number = match form {
            Form::Short => i64::from(i16::from_be_bytes(self.take_array(field)?)),
            Form::Long => i64::from(i32::from_be_bytes(self.take_array(field)?)),
            Form::Compact => i64::from(self.varint(field)?) - 1,
            Form::Varint => i64::from(self.varint(field)?),
        };
        let left = self.left();
        (self.watch)(at, left, least, form);
        match usize::try_from(number) {
            Ok(count) if count <= left / least => Ok(count),
            Err(_) if number == -1 && nullable => Ok(0),
            Err(_) if number == -1 => Err(GuardError::Null { field }),
            _ => Err(GuardError::Number { field, number, left }),
        }
    }

    fn charge(&mut self, field: &'static str, memory: usize) -> Result<(), GuardError> {
        self.budget = self.budget.checked_sub(memory).ok_or(GuardError::Budget { field })?;
        Ok(())
    }

    /// A struct: its fields, then its tag section.
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), GuardError> {
        let version = self.version;
        for field in fields.iter().filter(|f| f.tag.is_none() && f.is_in(version)) {
            self.value(field.name, &field.kind, field.is_nullable(version))?;
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn value(
        &mut self,
        name: &'static str,
        kind: &'static Kind,
        nullable: bool,
    ) -> Result<(), GuardError> {
        match kind {
            Kind::Fixed(bytes) => {
                self.take(name, *bytes)?;
            }
            Kind::String => {
                let form = if self.flexible { Form::Compact } else { Form::Short };
                let length = self.number(name, form, 1, nullable)?;
                if length > i16::MAX as usize {
                    return Err(GuardError::LongString { field: name, length });
                }
                self.take(name, length)?;
            }
            Kind::Bytes => {
                let form = if self.flexible { Form::Compact } else { Form::Long };
                let length = self.number(name, form, 1, nullable)?;
                self.take(name, length)?;
            }
            Kind::Struct(fields) => self.fields(fields)?,
            Kind::Array { element, memory } => {
                let form = if self.flexible { Form::Compact } else { Form::Long };
                let least = element.least_bytes(self.version, self.flexible);
                let count = self.number(name, form, least, nullable)?;
                self.charge(name, count.saturating_mul(*memory))?;
                for _ in 0..count {
                    self.value(name, element, false)?;
                }
            }
        }
        Ok(())
    }

    /// A tag section. Fields that `fields` has in this version are walked within their size, others are skipped.
    fn tags(&mut self, fields: &'static [Field]) -> Result<(), GuardError> {
        const NAME: &str = "tagged fields";
        let count = self.number(NAME, Form::Varint, LEAST_TAG_BYTES, false)?;
        let mut unknown = 0;
        for _ in 0..count {
            let tag = self.varint(NAME)?;
            let size = self.number(NAME, Form::Varint, 1, false)?;
            let known = fields.iter().find(|f| f.tag == Some(tag) && f.is_in(self.version));
            if let Some(field) = known {
                let outer = std::mem::replace(&mut self.end, self.at + size);
                self.value(field.name, &field.kind, field.is_nullable(self.version))?;
                if self.left() > 0 {
                    return Err(GuardError::TagSize { field: field.name, left: self.left() });
                }
                self.end = outer;
            } else {
                self.take(NAME, size)?;
                self.charge(NAME, if unknown == 0 { TAG_MAP_BYTES } else { TAG_ENTRY_BYTES })?;
                unknown += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
