//! Variables in paths and environment values: `$NAME` and `${NAME}`, and nothing else of a shell.
//!
//! A name is `[A-Za-z_][A-Za-z0-9_]*`. A `$` that no name follows (`$$`, `$(..)`, `$1`, `${A:-b}`) stays as
//! it is. Values are put in as they are: a `$` inside a value is not looked at again. Command lines never
//! come here: `bash` alone expands those.

use std::collections::BTreeMap;

/// The text names a variable that nothing defines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing defines the variable `{name}`")]
pub struct UndefinedVariable {
    /// The name, without `$`.
    pub name: String,
}

/// The text with the value of each variable in its place.
///
/// # Errors
/// [`UndefinedVariable`] for the first name that `variables` does not hold.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> Result<String, UndefinedVariable> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(part) => out.push_str(part),
            Piece::Variable { name, .. } => match variables.get(name) {
                Some(value) => out.push_str(value),
                None => return Err(UndefinedVariable { name: name.to_owned() }),
            },
        }
    }
    Ok(out)
}

/// As [`expand`], but a variable that `variables` does not hold stays as it is written.
#[must_use]
pub fn expand_known(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(part) => out.push_str(part),
            Piece::Variable { name, written } => {
                out.push_str(variables.get(name).map_or(written, String::as_str));
            }
        }
    }
    out
}

/// The names that the text refers to, in their order, repeated as they repeat.
pub fn variables_in(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|piece| match piece {
        Piece::Text(_) => None,
        Piece::Variable { name, .. } => Some(name),
    })
}

/// Whether the text can name an environment variable.
#[must_use]
pub fn is_variable_name(text: &str) -> bool {
    !text.is_empty() && name_length(text) == text.len()
}

enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, written: &'a str },
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((name, length)) = reference(rest) {
            let (written, after) = rest.split_at(length);
            rest = after;
            return Some(Piece::Variable { name, written });
        }
        // The first character is no reference: everything up to the next `$` is text.
        let end = rest.char_indices().skip(1).find(|(_, c)| *c == '$').map_or(rest.len(), |(at, _)| at);
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(part))
    })
}

/// The name that the text begins to refer to, and the length of the whole reference in bytes.
fn reference(text: &str) -> Option<(&str, usize)> {
    let after = text.strip_prefix('$')?;
    if let Some(braced) = after.strip_prefix('{') {
        let length = name_length(braced);
        return (length > 0 && braced[length..].starts_with('}')).then(|| (&braced[..length], length + 3));
    }
    let length = name_length(after);
    (length > 0).then(|| (&after[..length], length + 1))
}

fn name_length(text: &str) -> usize {
    if text.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
        return 0;
    }
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let variables: BTreeMap<String, String> =
            [("A", "1"), ("AB", "$A"), ("_x9", "ü")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let expected = match expected {
            Ok(text) => Ok(text.to_owned()),
            Err(name) => Err(UndefinedVariable { name: name.to_owned() }),
        };
        assert_eq!(expand(text, &variables), expected, "{text:?}");
    }

    #[test]
    fn names_are_expanded_and_the_rest_of_a_shell_is_not() {
        check("", Ok(""));
        check("$A/$AB/${A}B/${_x9}", Ok("1/$A/1B/ü"));
        check("$A-$A.$A", Ok("1-1.1"));
        check("$$A", Ok("$1"));
        check("a$", Ok("a$"));
        check("$$ $1 $(ls) $? ${} ${A:-b} ${1} ${A", Ok("$$ $1 $(ls) $? ${} ${A:-b} ${1} ${A"));
        check("é$é${é}", Ok("é$é${é}"));
        check("$ABC", Err("ABC"));
        check("${NOPE}/$ALSO", Err("NOPE"));
    }

    #[test]
    fn unknown_names_can_stay() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand_known("$A:$PATH:${B}", &variables), "1:$PATH:${B}");
    }

    #[test]
    fn names_are_listed_in_order() {
        assert_eq!(variables_in("$B/${A}$$ $B").collect::<Vec<_>>(), ["B", "A", "B"]);
        assert!(
            is_variable_name("_A9")
                && !is_variable_name("9A")
                && !is_variable_name("A-")
                && !is_variable_name("")
        );
    }

    proptest! {
        #[test]
        fn expand_puts_every_piece_in_its_place(text in "([$]|[{}AB_1é/]){0,24}") {
            // With each variable standing for its own reference nothing changes.
            let same: BTreeMap<String, String> =
                variables_in(&text).map(|name| (name.to_owned(), format!("<{name}>"))).collect();
            let expanded = expand(&text, &same).expect("all names are defined");
            prop_assert_eq!(&expanded, &expand_known(&text, &same));
            prop_assert_eq!(expand_known(&text, &BTreeMap::new()), text.clone());
            let unbraced: String = expanded.replace(['<', '>'], "");
            let expected: String = pieces(&text).map(|piece| match piece {
                Piece::Text(part) => part,
                Piece::Variable { name, .. } => name,
            }).collect();
            prop_assert_eq!(unbraced, expected);
        }

        #[test]
        fn text_without_a_dollar_is_untouched(text in "[^$]*") {
            prop_assert_eq!(expand(&text, &BTreeMap::new()), Ok(text));
        }
    }
}
