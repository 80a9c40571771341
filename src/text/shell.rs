//! Words as a shell reads them, for the commands that the programs print for someone to type.

use std::ffi::OsStr;

use crate::text;

/// The value as one word of a POSIX shell; `None` if printing it would hide what it is, such as control characters.
#[must_use]
pub(crate) fn word(value: &OsStr) -> Option<String> {
    let value = value.to_str()?;
    let is_plain = text::printable(value.as_bytes()) == value.replace('\\', r"\\");
    shlex::try_quote(value).ok().filter(|_| is_plain).map(Into::into)
}

/// The path as one word of a shell that no program takes for an option.
#[must_use]
pub(crate) fn path(path: &OsStr) -> Option<String> {
    let word = word(path)?;
    let could_be_option = path.as_encoded_bytes().starts_with(b"-") && path != "-";
    if could_be_option { shlex::try_quote(&format!("./{}", path.to_str()?)).ok().map(Into::into) } else { Some(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_for_its_value_in_a_shell() {
        for (value, expected) in [
            ("image.iso", "image.iso"),
            ("two words", "'two words'"),
            ("$(reboot)", "'$(reboot)'"),
            (r"back\slash", r#""back\\slash""#),
            ("", "''"),
        ] {
            assert_eq!(word(value.as_ref()).as_deref(), Some(expected));
        }
        for hidden in ["a\nb", "\x1b[31mred", "a\u{202e}b"] {
            assert_eq!(word(hidden.as_ref()), None, "{hidden:?}");
        }
    }

    #[test]
    fn a_path_is_no_option() {
        let path = |value: &str| path(value.as_ref());
        assert_eq!(path("-rf").as_deref(), Some("./-rf"));
        assert_eq!(path("-two words").as_deref(), Some("'./-two words'"));
        assert_eq!(path("-").as_deref(), Some("-"));
        assert_eq!(path("./-rf").as_deref(), Some("./-rf"));
    }
}
