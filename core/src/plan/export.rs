//! A task's environment as shell lines, so that a person on the node can run its command by hand.

use std::fmt::Write as _;

use super::line::quoted;
use super::task::TaskPlan;

/// `export` lines by name, then `cd`, then the command as a comment. Secrets appear by name only.
///
/// Meant for `eval "$(...)"`: every value is quoted.
#[must_use]
pub fn export_lines(task: &TaskPlan) -> String {
    let command = &task.command;
    let mut lines = String::new();
    let mut push = |line: std::fmt::Arguments<'_>| {
        lines.write_fmt(line).and_then(|()| lines.write_str("\n")).expect("a String takes all text");
    };
    for (name, value) in &command.env {
        if is_shell_name(name) {
            push(format_args!("export {name}={}", quoted(value)));
        } else {
            push(format_args!("# {} is no name for a shell: left out", one_line(name)));
        }
    }
    for name in command.secret_env.keys() {
        push(format_args!("# {} is a secret: not shown", one_line(name)));
    }
    push(format_args!("cd {}", quoted(&command.cwd)));
    push(format_args!("# {} runs:", task.name));
    let words: Vec<String> = command.argv.iter().map(|word| quoted(word)).collect();
    for line in words.join(" ").split('\n') {
        push(format_args!("# {line}"));
    }
    lines
}

fn is_shell_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn one_line(name: &str) -> String {
    name.escape_default().to_string()
}
