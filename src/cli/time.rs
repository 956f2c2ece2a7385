//! Points in time as people write them.

/// Milliseconds since 1970 of an RFC 3339 text, as in `2026-03-01T12:00:00Z` or `2026-03-01 13:00:00.25+01:00`. What is
/// finer than a millisecond is cut off.
///
/// # Errors
/// What is expected instead.
pub(super) fn parse_rfc3339(text: &str) -> Result<i64, String> {
    parse(text).ok_or_else(|| {
        format!("`{text}` is no time: YYYY-MM-DDTHH:MM:SSZ is needed, or +HH:MM in place of Z")
    })
}

fn parse(text: &str) -> Option<i64> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    let month = part(&mut rest, "-")?;
    let day = part(&mut rest, "-")?;
    rest = rest.strip_prefix(['T', 't', ' '])?;
    let hour = digits(&mut rest, 2)?;
    let minute = part(&mut rest, ":")?;
    let second = part(&mut rest, ":")?;
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        let (fraction, after) = fraction.split_at(end);
        if fraction.is_empty() {
            return None;
        }
        let first: String = fraction.chars().chain("000".chars()).take(3).collect();
        ms = first.parse().ok()?;
        rest = after;
    }
    let zone = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.get(..1)? {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            rest = rest.get(1..)?;
            let hours = digits(&mut rest, 2)?;
            let minutes = part(&mut rest, ":")?;
            if !rest.is_empty() || hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second is taken as the second after it.
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - zone;
    Some((minutes * 60 + second) * 1000 + ms)
}

fn digits(rest: &mut &str, count: usize) -> Option<i64> {
    let (number, after) = rest.split_at_checked(count)?;
    *rest = after;
    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?
}

fn part(rest: &mut &str, separator: &str) -> Option<i64> {
    *rest = rest.strip_prefix(separator)?;
    digits(rest, 2)
}

/// Counts years from March, so that the day that some years have more is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2017-07-20T09:00:00+02:00", 1_500_534_000_000),
            ("2017-07-20 07:00:00.1239z", 1_500_534_000_123),
            ("2026-11-20T18:21:23-00:30", 1_795_200_683_000),
        ] {
            assert_eq!(parse_rfc3339(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "now",
            "2026-11-20",
            "2026-11-20T18:21:23",
            "2026-13-20T18:21:23Z",
            "2025-02-29T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T18:21:23.Z",
            "2026-11-20T18:21:23+1:00",
            "2026-11-20T18:21:23+01:00x",
            "+026-11-20T18:21:23Z",
            "2026-1ä-20T18:21:23Z",
        ] {
            assert!(parse_rfc3339(text).is_err(), "{text}");
        }
    }
}
