//! Strips comments and literals from Rust source, keeping line breaks, so that the other checks look at code only. A
//! scanner, not a parser: it knows comments, strings, raw strings, characters and lifetimes, and nothing else.

/// The code of `source`; every comment, and the inside of every string or character, becomes blanks.
pub(super) fn code_only(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest, 0),
            'r' | 'b' | 'c' if !out.ends_with(is_word) => prefixed_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let length = if skipped == 0 { first.len_utf8() } else { skipped };
        let (taken, after) = rest.split_at(length);
        if skipped == 0 {
            out.push_str(taken);
        } else {
            out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// True for characters of an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// True if `word` stands in `line` with no identifier character on either side.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Length of the (nested) block comment at the start of `text`.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'/'), Some(b'*')) => (depth, at) = (depth + 1, at + 2),
            (Some(b'*'), Some(b'/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of the string with escapes whose opening quote is at `quote`.
fn string(text: &str, quote: usize) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(quote + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a string with a prefix (`b""`, `r""`, `br#""#`, `c""`) at the start of `text`; 0 if there is none.
fn prefixed_string(text: &str) -> usize {
    let prefix = text.find(|c| !matches!(c, 'r' | 'b' | 'c')).unwrap_or(text.len());
    let Some(after) = text.get(prefix..).filter(|_| prefix <= 2) else { return 0 };
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    if !after.get(hashes..).is_some_and(|tail| tail.starts_with('"')) {
        return 0;
    }
    if !text.get(..prefix).is_some_and(|letters| letters.contains('r')) {
        return if hashes == 0 { string(text, prefix) } else { 0 };
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = prefix + hashes + 1;
    text.get(body..).and_then(|tail| tail.find(&end)).map_or(text.len(), |at| body + at + end.len())
}

/// Length of a character literal at the start of `text`; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // The character after the backslash may be a quote itself.
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_lines_stay() {
        let source =
            "let a = \"unsafe \\\" unsafe\"; // unsafe\n/* unsafe /* x */\nunsafe */ fn f<'a>(c: &'a str) {}\n";
        let code = code_only(source);
        assert!(!code.contains("unsafe"), "{code}");
        assert!(code.contains("fn f<'a>(c: &'a str) {}"), "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn raw_strings_and_characters_end_where_they_end() {
        let code = code_only("f(r#\"a \" unsafe\"#, b'\"', '\\'', 'x'); unsafe { g(br\"unsafe\") }");
        assert_eq!(code.matches("unsafe").count(), 1, "{code}");
        assert!(code.contains("{ g("), "{code}");
    }

    #[test]
    fn an_identifier_that_ends_like_a_prefix_is_code() {
        assert!(code_only("let number = for_r; unsafe {}").contains("unsafe"));
    }

    #[test]
    fn words_have_borders() {
        assert!(has_word("use aya::Ebpf", "aya"));
        assert!(!has_word("use playaya::Ebpf", "aya"));
    }
}
