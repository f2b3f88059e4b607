//! Tests with a real kernel, real processes and real files.

mod command_line;
mod crash;
mod database;
mod examples;
mod gpus;
mod images;
mod job_files;
mod leftovers;
mod network;
mod operator;
mod partition;
mod recovery;
mod run;
mod secrets;
mod systemd;
mod tensorflow_form;
mod up;
mod without_root;
