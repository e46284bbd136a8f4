//! Names as people see them: one line, safe on any terminal, and what is printed can be typed.
//!
//! A name is printed as a shell accepts it: unchanged if that is safe, else in quotes. `it's` becomes `"it's"`; a name with
//! a newline or with bytes that are not UTF-8 becomes `$'a\nb\377'` (bash, zsh, ksh, busybox; POSIX since 2024).
//! [`unquote`] parses the same without a shell. Both are pure.

use std::borrow::Cow;

/// A name or path for a terminal or a log line.
pub fn quote(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return ansi(bytes) };
    if text.chars().all(is_plain) && begins_plainly(text) {
        return text.to_string();
    }
    if !text.chars().all(is_printable) {
        return ansi(bytes);
    }
    if !text.contains('\'') {
        return format!("'{text}'");
    }
    if !text.contains(['"', '$', '`', '\\', '!']) {
        return format!("\"{text}\"");
    }
    ansi(bytes)
}

/// As [`quote`], of a path.
pub fn path(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    quote(path.as_os_str().as_bytes())
}

/// A whole text for a terminal or a log that may contain an unquoted name: characters that a terminal would obey are shown
/// as escapes. The last line of defence; names are quoted where they are put into a text. Newlines and tabs stay.
pub fn tame(text: &str) -> Cow<'_, str> {
    let shown = |c: char| matches!(c, '\n' | '\t') || is_printable(c);
    if text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| if shown(c) { out.push(c) } else { out.extend(c.escape_debug()) });
    Cow::Owned(out)
}

/// As [`tame`], for one line: a newline in it comes from a name, and would start a line that looks like another's.
pub fn tame_line(text: &str) -> String {
    tame(text).replace('\n', "\\n")
}

/// A path inside a volume: as [`quote`], with `./` in front if a command line would take it for an option.
pub fn quote_path(bytes: &[u8]) -> String {
    if bytes.starts_with(b"-") { quote(&[b"./", bytes].concat()) } else { quote(bytes) }
}

/// Reverses [`quote`]; `None` for a text that it never returns.
pub fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(inner) = text.strip_prefix(b"$'") {
        return unansi(inner.strip_suffix(b"'")?);
    }
    for mark in [b"'", b"\""] {
        if let Some(inner) = text.strip_prefix(mark) {
            return inner.strip_suffix(mark).filter(|inner| !inner.contains(&mark[0])).map(<[u8]>::to_vec);
        }
    }
    Some(text.to_vec())
}

/// Whether no shell gives this character a meaning inside a word.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./@%+=:,-".contains(c) || (!c.is_ascii() && is_printable(c))
}

/// Whether a word needs no quotes for its start: it is not empty, and does not begin like an option or a home directory.
fn begins_plainly(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(['-', '~', '='])
}

/// Whether a terminal shows the character and does nothing else: no control, direction, separator or unassigned character.
/// Accents that combine with the previous character are printable.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let len = 1 + c.encode_utf8(&mut buffer[1..]).len();
    let text = std::str::from_utf8(&buffer[..len]).unwrap_or_default();
    matches!(c, '\'' | '"' | '\\') || text.escape_debug().eq(text.chars())
}

fn ansi(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\'' | '\\' => out.extend(['\\', c]),
                c if is_printable(c) => out.push(c),
                c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| octal(&mut out, byte)),
            }
        }
        chunk.invalid().iter().for_each(|byte| octal(&mut out, *byte));
    }
    out.push('\'');
    out
}

/// Always three digits, so that a following digit is not included.
fn octal(out: &mut String, byte: u8) {
    out.push_str(&format!("\\{byte:03o}"));
}

fn unansi(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'\'' => return None,
            b'\\' => {
                let (code, tail) = rest.split_first()?;
                rest = tail;
                out.push(match code {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'\'' | b'\\' => *code,
                    b'0'..=b'3' => {
                        let (more, tail) = rest.split_at_checked(2)?;
                        rest = tail;
                        let digit = |byte: &u8| (b'0'..=b'7').contains(byte).then(|| byte - b'0');
                        (code - b'0') << 6 | digit(more.first()?)? << 3 | digit(more.get(1)?)?
                    }
                    _ => return None,
                });
            }
            byte => out.push(*byte),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_with_a_foreign_name_is_harmless() {
        assert!(matches!(tame("two\nlines,\ttabs, e\u{301}"), Cow::Borrowed(_)));
        assert_eq!(tame("a\x1b[2J\x07b\u{9b}\u{202e}\r\n"), "a\\u{1b}[2J\\u{7}b\\u{9b}\\u{202e}\\r\n");
        assert_eq!(tame_line("x\n2026 ERROR forged"), "x\\n2026 ERROR forged");
        assert_eq!(path(std::path::Path::new("a/x\ny")), "$'a/x\\ny'");
    }

    const NAMES: [(&[u8], &str); 17] = [
        (b"a/b-c_d.txt", "a/b-c_d.txt"),
        (b"it's.txt", "\"it's.txt\""),
        (b"two words", "'two words'"),
        (b"base64:Zg==", "base64:Zg=="),
        (b"$HOME `x` \"q\"", "'$HOME `x` \"q\"'"),
        (b"a\nb", "$'a\\nb'"),
        (b"\x1b[2J", "$'\\033[2J'"),
        (b"\xff7", "$'\\3777'"),
        (b"it's $5!", "$'it\\'s $5!'"),
        (b"back\\slash", "'back\\slash'"),
        (b"", "''"),
        (b"~root", "'~root'"),
        (b"-rf", "'-rf'"),
        (b"# no comment", "'# no comment'"),
        ("\u{e4}\u{416}".as_bytes(), "\u{e4}\u{416}"),
        // A text in the other direction, and an accent that combines with its character.
        ("a\u{202e}b".as_bytes(), "$'a\\342\\200\\256b'"),
        ("e\u{301}".as_bytes(), "e\u{301}"),
    ];

    #[test]
    fn names_are_printed_as_a_shell_takes_them() {
        for (bytes, text) in NAMES {
            assert_eq!(quote(bytes), text);
            assert_eq!(unquote(text.as_bytes()).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(quote_path(b"-rf"), "./-rf");
        assert_eq!(quote_path(b"-r f"), "'./-r f'");
        for text in ["'a", "$'a", "$'\\x41'", "$'\\8'", "$'a'b'", "\"a\"b\"", "'", "$'\\"] {
            assert_eq!(unquote(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_shell_gives_the_bytes_back() {
        let every_byte: Vec<u8> = (1..=255).collect();
        let names = NAMES.map(|(bytes, _)| bytes.to_vec()).into_iter().chain([every_byte]);
        let names: Vec<Vec<u8>> = names.collect();
        let words: Vec<String> = names.iter().map(|name| quote(name)).collect();
        let script = format!("printf '%s\\0' {}", words.join(" "));
        let Ok(done) = std::process::Command::new("bash").args(["-c", &script]).output() else {
            println!("SKIP a_shell_gives_the_bytes_back: no bash");
            return;
        };
        let back: Vec<&[u8]> = done.stdout.split(|byte| *byte == 0).take(names.len()).collect();
        assert_eq!(back, names);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in proptest::collection::vec(any::<u8>(), 0..40), text in any::<String>()) {
            for name in [name.as_slice(), text.as_bytes()] {
                let printed = quote(name);
                prop_assert_eq!(unquote(printed.as_bytes()), Some(name.to_vec()));
                prop_assert!(printed.chars().all(is_printable));
                prop_assert!(!quote_path(name).starts_with('-'));
            }
        }
    }
}
