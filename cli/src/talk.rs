//! What is said to people: on stderr, in colour only where colours are wanted.

use std::io::Write as _;

use crate::output;

/// `error: ...` with its causes, once.
pub(crate) fn error(error: &anyhow::Error) {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.is_empty() && last.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
        last = cause;
    }
    labelled("error", "31", &text);
}

/// `warning: ...`
pub(crate) fn warning(text: &str) {
    labelled("warning", "33", text);
}

/// A line without a label.
pub(crate) fn note(text: &str) {
    // With stderr closed there is nobody to talk to.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

fn labelled(label: &str, colour: &str, text: &str) {
    if output::colours_on_stderr() {
        note(&format!("\u{1b}[1;{colour}m{label}\u{1b}[0m: {text}"));
    } else {
        note(&format!("{label}: {text}"));
    }
}
