//! `cargo xtask VERB`: everything that is done to this repository, from installing tools to the whole test gate.
//! Each verb is one module. Nothing here is part of the product, and the product never depends on it.

mod ebpf;
mod gate;
mod matrix;
mod powercut;
mod programs;
mod release;
mod run;
mod setup;
mod sh;
mod stream;
mod tidy;
mod vm;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "What is done to this repository")]
enum Verb {
    /// Install what is missing for building and testing
    Setup {
        /// For building only
        #[arg(long)]
        build: bool,
    },
    /// Compile the kernel object into target/ebpf
    BuildEbpf,
    /// Build the program as it is shipped: stripped, its debug information beside it
    Release,
    /// Set up, build everything, run `tracker ARGS`
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The whole gate; ends with `N passed, N failed, N skipped`
    Test(gate::Selection),
    /// House rules over the tree (also run by `cargo test -p xtask`)
    Tidy,
    /// The README's commands in a minimal Debian tree
    Fresh {
        /// The whole gate there
        #[arg(long)]
        full: bool,
    },
    /// Run a command (or root tests that depend on the kernel) under another kernel
    Vm(vm::Options),
    /// Every operation, file system, back end and kernel; writes docs/kernels-cells.md
    Matrix(matrix::Options),
    /// A guest loses its power under load, again and again, and is compared each time
    Powercut(powercut::Options),
    /// Mutated objects of every kind: no decoder panics or takes more than 256 MiB
    FuzzDecoders {
        /// Mutants of each kind of object
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// One benchmark of the crate `tests`, in release mode
    Bench {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match dispatch(Verb::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup { build: true } => setup::build_tools(),
        Verb::Setup { build: false } => setup::all(),
        Verb::BuildEbpf => ebpf::build(),
        Verb::Release => release::build(),
        Verb::Run { args } => run::main(&args),
        Verb::Test(selection) => gate::main(&selection),
        Verb::Tidy => tidy::main(),
        Verb::Fresh { full } => {
            let full = ["--full"].into_iter().filter(|_| full);
            sh::run(Command::new("bash").arg(sh::root().join("xtask/fresh.sh")).args(full))
        }
        Verb::Vm(options) => vm::main(&options),
        Verb::Matrix(options) => matrix::main(&options),
        Verb::Powercut(options) => powercut::main(&options),
        Verb::FuzzDecoders { count, seed } => {
            let mut tests = sh::cargo();
            tests.args(["test", "-p", "engine", "--test", "fuzz_decoders", "--", "--nocapture"]);
            sh::run(tests.env("TRACKER_FUZZ_COUNT", count.to_string()).env("TRACKER_FUZZ_SEED", seed.to_string()))
        }
        Verb::Bench { args } => {
            // The benchmarks start the program beside them.
            release::build()?;
            sh::run(sh::cargo().args(["run", "--release", "-p", "tests", "--bin", "bench", "--"]).args(args))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Verb::command().debug_assert();
    }

    #[test]
    fn verbs_take_what_is_theirs() {
        let parse = |text: &str| Verb::try_parse_from(["xtask"].into_iter().chain(text.split_whitespace()));
        for good in [
            "setup --build",
            "run -- protect ./data --store ./backup",
            "run protect ./data --store ./backup",
            "test --tier 1 swap",
            "vm 6.12 --timeout 7 -- uname --timeout",
            "vm 6.1 --test races --test loss",
            "matrix --part 2/4",
            "powercut --cuts 3 --kernel 6.12 --seed 9 --build debug",
            "fuzz-decoders --seed 7 --count 5",
            "bench flush --files 3",
        ] {
            assert_eq!(parse(good).err().map(|error| error.to_string()), None, "{good}");
        }
        for bad in [
            "",
            "setup x",
            "test --tier 7",
            "test --fast",
            "test a b",
            "vm",
            "vm 6.2",
            "vm 6.1 --timeout 0",
            "vm 6.1 --timeout soon",
            "vm 6.1 --test a -- b",
            "matrix --functions --part 1/2",
            "powercut --cuts 0",
            "fuzz-decoders --count 0",
            "bench",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
