//! A plan as text for people: what all processes of a node share is written once.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use trainyard_core::plan::{Command, GangPlan, NodePlan};

/// The whole plan.
pub(crate) fn of(plan: &GangPlan) -> String {
    let mut out = String::new();
    plan.nodes.iter().for_each(|node| push_node(&mut out, node));
    out
}

fn push_node(out: &mut String, node: &NodePlan) {
    let mut line = |text: String| writeln!(out, "{text}").expect("a String takes all text");
    line(format!("node {}", node.node));
    line(format!("  job temp  {}", node.job_temp));
    line(format!("  std dir   {}", node.std_dir));
    line(format!("  log       {}", node.execution_log));
    node.directories.iter().for_each(|path| line(format!("  mkdir     {path}")));
    for mount in &node.host_mounts {
        let mode = if mount.read_only { " (read only)" } else { "" };
        line(format!("  mount     {} -> {}{mode}", mount.source, mount.target));
    }
    node.mounted_directories.iter().for_each(|path| line(format!("  then      {path}")));
    node.files.iter().for_each(|file| line(format!("  file      {} {:?}", file.path, file.content)));
    let ports: Vec<String> = node.ports.iter().map(ToString::to_string).collect();
    line(format!("  ports     {}", if ports.is_empty() { "none".to_owned() } else { ports.join(" ") }));
    node.notes.iter().for_each(|note| line(format!("  note      {note}")));

    let commands: Vec<&Command> =
        node.preparation.iter().chain(node.tasks.iter().map(|task| &task.command)).collect();
    let mut common = commands.first().map(|command| command.env.clone()).unwrap_or_default();
    common.retain(|name, value| commands.iter().all(|command| command.env.get(name) == Some(value)));
    common.iter().for_each(|(name, value)| line(format!("  env       {name}={value}")));
    if let Some(preparation) = &node.preparation {
        line("  preparation".to_owned());
        push_command(&mut line, preparation, &common);
    }
    for task in &node.tasks {
        let gpus: Vec<String> = task.gpus.iter().map(ToString::to_string).collect();
        line(format!(
            "  task {} {} ({:?} {}) GPUs [{}]",
            task.rank,
            task.name,
            task.role,
            task.index,
            gpus.join(" ")
        ));
        push_command(&mut line, &task.command, &common);
    }
}

fn push_command(line: &mut impl FnMut(String), command: &Command, common: &BTreeMap<String, String>) {
    line(format!("    in      {}", command.cwd));
    line(format!("    files   {} {}", command.stdout, command.stderr));
    command.argv.iter().for_each(|word| line(format!("    argv    {word}")));
    for (name, value) in command.env.iter().filter(|(name, _)| !common.contains_key(*name)) {
        line(format!("    env     {name}={value}"));
    }
    command.secret_env.keys().for_each(|name| line(format!("    secret  {name}")));
}
