//! Tests with a real kernel, real processes and real files.

mod command_line;
