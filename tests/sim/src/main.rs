//! The simulator as a command: many seeds, or one again with its trace, or the faults that it needs.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use trainyard_sim::report::{Until, many};
use trainyard_sim::{Options, fault, run, shrink};

/// Breaks everything around the three cores of Trainyard, by seed, and checks its guarantees.
///
/// Exit code: 0 nothing is violated, 1 something is, 2 bad arguments.
#[derive(Parser)]
#[command(name = "trainyard-sim", version)]
struct Arguments {
    /// Runs this seed alone.
    #[arg(long, conflicts_with_all = ["from", "seeds", "total"])]
    seed: Option<u64>,
    /// Prints a line per event of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Leaves out faults as long as the same invariant is violated, and prints those that are left.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Runs the faults of this JSON file instead of the seed's own.
    #[arg(long, requires = "seed", value_name = "FILE")]
    plan: Option<std::path::PathBuf>,
    /// The first of many seeds.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds.
    #[arg(long, conflicts_with = "total")]
    seeds: Option<u64>,
    /// As many seeds as it takes for so many faults.
    #[arg(long, value_name = "FAULTS", default_value_t = 100_000)]
    total: u64,
    /// Faults planned per seed.
    #[arg(long, default_value_t = 120)]
    faults: usize,
    /// Goes on after a violation.
    #[arg(long)]
    all: bool,
    /// Prints how often each state and edge was seen.
    #[arg(long)]
    coverage: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None => Ok(all(&arguments)),
    }
}

fn one(arguments: &Arguments, seed: u64) -> anyhow::Result<ExitCode> {
    let plan = match &arguments.plan {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(serde_json::from_str(&text).with_context(|| format!("{} is no plan", path.display()))?)
        }
        None => None,
    };
    let plan = plan.unwrap_or_else(|| fault::plan(seed, arguments.faults));
    let options = Options {
        seed,
        faults: arguments.faults,
        plan: Some(plan),
        trace: arguments.trace && !arguments.shrink,
    };
    let mut outcome = run(&options);
    if arguments.shrink {
        outcome = shrink::shrink(&options, outcome, |left| eprintln!("{left} faults are enough"));
        println!("{}", serde_json::to_string_pretty(&outcome.plan).context("a plan has a text form")?);
        if arguments.trace {
            outcome = run(&Options { plan: Some(outcome.plan.clone()), trace: true, ..options });
        }
    }
    let mut out = std::io::stdout().lock();
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "seed {seed}: {} faults, {} events, {} s simulated, trace hash {:016x}",
        outcome.injected,
        outcome.events,
        outcome.simulated_ms / 1000,
        outcome.hash
    )?;
    match outcome.violation {
        None => Ok(ExitCode::SUCCESS),
        Some(violation) => {
            writeln!(out, "invariant {} at {} ms: {}", violation.invariant, violation.at_ms, violation.text)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn all(arguments: &Arguments) -> ExitCode {
    let until = arguments.seeds.map_or(Until::Faults(arguments.total), Until::Seeds);
    let terminal = std::io::stderr().is_terminal();
    let summary = many(arguments.from, until, arguments.faults, !arguments.all, |sum| {
        if terminal && sum.seeds % 10 == 0 {
            eprint!("\r{} seeds, {} faults, {} violations", sum.seeds, sum.faults, sum.violations.len());
        }
    });
    if terminal {
        eprintln!();
    }
    if arguments.coverage {
        for (name, count) in summary.coverage.counts() {
            println!("  {count:>10}  {name}");
        }
    }
    print!("{}", summary.table());
    println!(
        "{} seeds, {} faults, {} events, {} h simulated, {} violations",
        summary.seeds,
        summary.faults,
        summary.events,
        summary.simulated_ms / 3_600_000,
        summary.violations.len()
    );
    for (seed, violation) in summary.violations.iter().take(20) {
        println!(
            "seed {seed}: invariant {} at {} ms: {}",
            violation.invariant, violation.at_ms, violation.text
        );
        println!("  again: trainyard-sim --seed {seed} --faults {} --shrink --trace", arguments.faults);
    }
    let missing = summary.coverage.missing();
    if !missing.is_empty() && summary.violations.is_empty() {
        println!("never seen: {}", missing.join(", "));
    }
    if summary.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
