//! What the rows of the request table are made of.

use std::ops::RangeInclusive;

/// A request: one entry of the table.
#[derive(Debug)]
pub(super) struct Request {
    /// API key.
    pub(super) key: i16,
    /// Versions that the rows describe.
    pub(super) versions: RangeInclusive<i16>,
    /// First flexible version.
    pub(super) flexible_since: i16,
    /// The body.
    pub(super) fields: &'static [Field],
}

impl Request {
    pub(super) fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_since
    }
}

/// A field: one row of the table.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    since: i16,
    until: i16,
    nullable_since: i16,
    /// Set where the field stands in the tag section.
    pub(super) tag: Option<u32>,
}

/// Type of a field or of an array's elements.
#[derive(Debug)]
pub(super) enum Kind {
    /// So many bytes, whatever they say.
    Fixed(usize),
    /// A length of at most `i16::MAX` and so many bytes.
    String,
    /// A length and so many bytes.
    Bytes,
    /// Fields one after another.
    Struct(&'static [Field]),
    /// A count and so many elements.
    Array {
        element: &'static Kind,
        /// Bytes of one decoded element, without what hangs on it.
        memory: usize,
    },
}

pub(super) const BOOL: Kind = Kind::Fixed(1);
pub(super) const INT8: Kind = Kind::Fixed(1);
pub(super) const INT16: Kind = Kind::Fixed(2);
pub(super) const INT32: Kind = Kind::Fixed(4);
pub(super) const INT64: Kind = Kind::Fixed(8);
pub(super) const UUID: Kind = Kind::Fixed(16);

/// An array whose elements the crate decodes into `T`s.
pub(super) const fn array<T>(element: &'static Kind) -> Kind {
    Kind::Array { element, memory: size_of::<T>() }
}

/// A field of every version, never null, not tagged.
pub(super) const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, since: 0, until: i16::MAX, nullable_since: i16::MAX, tag: None }
}

impl Field {
    /// From this version on.
    pub(super) const fn since(mut self, version: i16) -> Self {
        self.since = version;
        self
    }

    /// Up to this version, inclusive.
    pub(super) const fn until(mut self, version: i16) -> Self {
        self.until = version;
        self
    }

    /// May be null from this version on.
    pub(super) const fn nullable(mut self, version: i16) -> Self {
        self.nullable_since = version;
        self
    }

    /// Stands in the tag section under this number.
    pub(super) const fn tagged(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    pub(super) fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }

    pub(super) fn is_nullable(&self, version: i16) -> bool {
        version >= self.nullable_since
    }
}

impl Kind {
    /// Fewest bytes that a value takes on the wire.
    pub(super) fn least_bytes(&self, version: i16, flexible: bool) -> usize {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Struct(fields) => {
                let present = fields.iter().filter(|f| f.tag.is_none() && f.is_in(version));
                // A flexible struct ends with a tag count.
                present.map(|f| f.kind.least_bytes(version, flexible)).sum::<usize>()
                    + usize::from(flexible)
            }
            _ if flexible => 1,
            Self::String => 2,
            Self::Bytes | Self::Array { .. } => 4,
        }
    }
}
