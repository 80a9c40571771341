//! Words as a shell reads them, for the commands that the programs print for someone to type.

use std::ffi::OsStr;

use crate::text;

/// The value as one word of a POSIX shell; `None` if it cannot be printed as it is, for example because of control
/// characters.
pub(crate) fn word(value: &OsStr) -> Option<String> {
    let value = value.to_str()?;
    let is_plain = text::printable(value.as_bytes()) == value.replace('\\', r"\\");
    // A per cent sign, as before the zone of an address, means nothing to a POSIX shell.
    let unquoted = value.replace('%', "_");
    let needs_quotes = !shlex::try_quote(&unquoted).is_ok_and(|quoted| quoted == unquoted);
    let word = if needs_quotes { shlex::try_quote(value).ok()? } else { value.into() };
    is_plain.then(|| word.into())
}

/// The name of a file as an argument that no program takes for an option or a standard stream; `None` as for [`word`].
pub(crate) fn file_name(name: &OsStr) -> Option<String> {
    word(name)?;
    let name = name.to_str()?;
    Some(if name.starts_with('-') { format!("./{name}") } else { name.to_owned() })
}

/// The path as one word of a shell that no program takes for an option.
pub(crate) fn path(path: &OsStr) -> Option<String> {
    if path == "-" { word(path) } else { word(file_name(path)?.as_ref()) }
}

/// The same, or a placeholder if a shell cannot be given the path.
pub(crate) fn path_or_placeholder(path: &OsStr) -> String {
    self::path(path).unwrap_or_else(|| "PATH".to_owned())
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
            ("fe80::7%eth0", "fe80::7%eth0"),
            ("100% sure", "'100% sure'"),
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
        assert_eq!(file_name("-".as_ref()).as_deref(), Some("./-"));
        assert_eq!(path("./-rf").as_deref(), Some("./-rf"));
    }
}
