//! The share of a volume's files that one flush may remove without a person's word.

use engine::flush;

/// As the engine has it.
pub const MAX_DELETE_DEFAULT: Option<u8> = flush::MaxDelete::DEFAULT.percent;

/// As the command line has it: an `Option` of its own means a flag without a value there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxDelete(pub Option<u8>);

impl MaxDelete {
    /// As [`parse_max_delete`].
    pub fn parse(text: &str) -> Result<MaxDelete, String> {
        parse_max_delete(text).map(MaxDelete)
    }
}

/// Reads a whole percentage, or `off` for no guard.
///
/// # Errors
/// A sentence that says what may be written.
pub fn parse_max_delete(text: &str) -> Result<Option<u8>, String> {
    if text == "off" {
        return Ok(None);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<u8>().ok());
    match percent {
        Some(percent) if percent < 100 => Ok(Some(percent)),
        _ => Err(format!("`{text}` is no share of the files (write for example 50%, at most 99%, or off)")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_max_delete;

    #[test]
    fn a_share_of_the_files_is_read() {
        assert_eq!(parse_max_delete("50%"), Ok(Some(50)));
        assert_eq!(parse_max_delete("0 %"), Ok(Some(0)));
        assert_eq!(parse_max_delete("off"), Ok(None));
        // 100% would be a guard that never holds, and say that there is one.
        for wrong in ["", "50", "100%", "-1%", "0.5%", "none", "300%"] {
            assert!(parse_max_delete(wrong).is_err(), "{wrong}");
        }
    }
}
