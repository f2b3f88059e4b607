//! Tests with a real kernel, real processes and real files.

mod command_line;
mod crash;
mod images;
mod run;
mod systemd;
mod tensorflow_form;
mod up;
