//! Zigzag varints as records have them: groups of 7 bits, lowest first, at most 5 bytes for 32 bits and 10 for 64.
//!
//! Source: `ByteUtils.readVarint` and `readVarlong` of Kafka. Bits beyond the width are refused here and ignored there; no
//! encoder writes them.

/// Takes a varint off the front of `input`; `None` when it is cut off or wider than 32 bits (`input` is then spoilt).
pub fn take_i32(input: &mut &[u8]) -> Option<i32> {
    // One byte holds most of them.
    if let Some((&byte, rest)) = input.split_first()
        && byte < 0x80
    {
        *input = rest;
        return Some(i32::from(byte >> 1) ^ -i32::from(byte & 1));
    }
    let raw = u32::try_from(take(input, 5)?).ok()?;
    Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

/// Takes a varlong off the front of `input`; `None` when it is cut off or wider than 64 bits (`input` is then spoilt).
pub fn take_i64(input: &mut &[u8]) -> Option<i64> {
    let raw = take(input, 10)?;
    Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

fn take(input: &mut &[u8], most: u32) -> Option<u64> {
    let mut raw = 0u64;
    for group in 0..most {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if group == 9 && bits > 1 {
            return None;
        }
        raw |= bits << (7 * group);
        if byte < 0x80 {
            return Some(raw);
        }
    }
    None
}

/// Appends `value` as a varint.
pub fn put_i32(out: &mut Vec<u8>, value: i32) {
    put_i64(out, i64::from(value));
}

/// Appends `value` as a varlong. Of the same number, varint and varlong have the same bytes.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Bytes that `value` takes as a varint or varlong.
#[must_use]
pub fn length(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    (64 - (raw | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_survives(value: i64, small: i32) {
            let mut bytes = Vec::new();
            put_i64(&mut bytes, value);
            prop_assert_eq!(bytes.len(), length(value));
            put_i32(&mut bytes, small);
            let mut input = bytes.as_slice();
            prop_assert_eq!(take_i64(&mut input), Some(value));
            prop_assert_eq!(take_i32(&mut input), Some(small));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            take_i32(&mut bytes.as_slice());
            take_i64(&mut bytes.as_slice());
        }
    }

    #[test]
    fn known_forms() {
        for (value, form) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 1]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut bytes = Vec::new();
            put_i64(&mut bytes, value);
            assert_eq!(bytes, form);
            assert_eq!(take_i32(&mut bytes.as_slice()).map(i64::from), Some(value));
        }
    }

    #[test]
    fn too_wide_or_cut_off_is_refused() {
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), None);
        assert_eq!(take_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]), None);
        assert_eq!(take_i32(&mut &[0x80][..]), None);
        assert_eq!(take_i64(&mut &[0xff; 10][..]), None);
        assert_eq!(take_i64(&mut &[][..]), None);
    }
}
