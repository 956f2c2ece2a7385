//! The status page: everything in one file, no script, nothing loaded from elsewhere.

use std::fmt::Write as _;

use super::health::{Finding, State};

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta http-equiv=\"refresh\" content=\"5\">
<title>TLog</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; }
.ok { color: #187a3c; } .degraded { color: #b36b00; } .unready { color: #c0262d; }
.ok, .degraded, .unready { font-weight: 600; }
footer { margin-top: 2rem; opacity: .75; }
</style>
</head>
<body>
";

/// The page for these findings.
pub fn render(state: State, findings: &[Finding]) -> String {
    let mut page = String::from(HEAD);
    let sentence = match state {
        State::Ok => "serving",
        State::Degraded => "serving, but somebody should act",
        State::Unready => "not serving",
    };
    let _infallible =
        writeln!(page, "<h1>TLog: <span class=\"{0}\">{sentence}</span></h1>", word(state));
    if findings.is_empty() {
        page.push_str("<p>Nothing to report.</p>\n");
    } else {
        page.push_str("<table>\n<tr><th>what</th><th>state</th><th>found</th><th>cure</th></tr>\n");
        for Finding { name, state, detail, cure } in findings {
            let _infallible = writeln!(
                page,
                "<tr><td>{}</td><td class=\"{1}\">{1}</td><td>{2}</td><td>{3}</td></tr>",
                escape(name),
                word(*state),
                escape(detail),
                escape(cure),
            );
        }
        page.push_str("</table>\n");
    }
    let _infallible = write!(
        page,
        "<footer>version {} &middot; <a href=\"/readyz\">/readyz</a> &middot; <a href=\"/metrics\">/metrics</a>\
         </footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Degraded => "degraded",
        State::Unready => "unready",
    }
}

/// Findings name topics and servers, and thus hold text of strangers.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_stays_text() {
        let page = render(State::Degraded, &[Finding::degraded("<script>", "a & \"b\"", "c's")]);
        assert!(!page.contains("<script>"));
        assert!(page.contains("&lt;script&gt;") && page.contains("a &amp; &quot;b&quot;"));
        assert!(page.ends_with("</html>\n"));
    }
}
