//! Lines to standard output and standard error. A reader that has left (`| head -1`) is no error, and ends no work.

use std::fmt;
use std::io::{self, Write};

/// A line of a result, as `out(format_args!(...))`.
pub(super) fn out(line: fmt::Arguments<'_>) {
    write_line(&mut io::stdout().lock(), line);
}

/// A line for the person who waits.
pub(super) fn tell(line: fmt::Arguments<'_>) {
    write_line(&mut io::stderr().lock(), line);
}

fn write_line(to: &mut dyn Write, line: fmt::Arguments<'_>) {
    // `println!` panics where this fails. There is nobody left to be told.
    let _ = writeln!(to, "{line}").and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_panic() {
        let (reader, mut writer) = io::pipe().unwrap();
        write_line(&mut writer, format_args!("heard"));
        assert_eq!(io::read_to_string(reader.take(6)).unwrap(), "heard\n");
        write_line(&mut writer, format_args!("not heard"));
    }

    use std::io::Read as _;
}
