//! The machine's name and its system.

/// As `uname -n`; empty if unknown.
pub(super) fn hostname() -> String {
    nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

/// As `uname -r`.
pub(super) fn kernel() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// As `Debian GNU/Linux 12 (bookworm)`.
pub(super) fn os() -> String {
    let file = ["/etc/os-release", "/usr/lib/os-release"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    file.as_deref().and_then(pretty_name).unwrap_or_default()
}

/// The value of `PRETTY_NAME`, without its quotes. Source: os-release(5).
fn pretty_name(file: &str) -> Option<String> {
    let value = file.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let bare = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Some(bare.unwrap_or(value).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_are_not_part_of_the_name() {
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(pretty_name("PRETTY_NAME=Arch").as_deref(), Some("Arch"));
        assert_eq!(pretty_name("PRETTY_NAME=\"").as_deref(), Some("\""));
        assert_eq!(pretty_name("NAME=x"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".*") {
            let _ = pretty_name(&format!("PRETTY_NAME={text}"));
        }
    }
}
