//! `cargo xtask VERB`: everything that is done to this repository, from installing tools to the whole test gate.
//! Each verb is one module. Nothing here is part of the product, and the product never depends on it.

mod apt;
mod bench;
mod docker;
mod ebpf;
mod fresh;
mod fuzz;
mod gate;
mod matrix;
mod powercut;
mod run;
mod setup;
mod sh;
mod tidy;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask VERB

  setup [--build]                 install what is missing for building and testing (--build: for building only)
  build-ebpf                      compile the kernel object into target/ebpf
  run -- ARGS                     set up, build everything, run `tracker ARGS`
  test [--tier N] [FILTER]        the whole gate; ends with `N passed, N failed, N skipped`
  tidy                            house rules over the tree (also run by `cargo test -p xtask`)
  fresh [--full]                  the README's commands in a minimal Debian tree (--full: the whole gate there)
  vm KERNEL [-- COMMAND]          run a command (or the root tests) under another kernel: 6.1 or 6.12
  matrix [--part K/N|--functions] every operation, file system, back end and kernel; writes docs/kernels.md
  powercut [--cuts N]             a guest loses its power under load, N times (50), and is compared each time
  fuzz-decoders [--count N]       mutated objects of every kind: no decoder panics or takes more than 256 MiB
  bench NAME [ARGS]               one benchmark of the crate `tests`, in release mode
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(args: &[String]) -> Result<(), sh::Error> {
    let Some((verb, rest)) = args.split_first() else {
        return Err(sh::Error::Usage { text: USAGE.into() });
    };
    match verb.as_str() {
        "setup" => setup::main(rest),
        "build-ebpf" => ebpf::main(rest),
        "run" => run::main(rest),
        "test" => gate::main(rest),
        "fresh" => fresh::main(rest),
        "tidy" => tidy::main(rest),
        "vm" => vm::main(rest),
        "matrix" => matrix::main(rest),
        "powercut" => powercut::main(rest),
        "fuzz-decoders" => fuzz::main(rest),
        "bench" => bench::main(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(sh::Error::Usage { text: format!("no verb `{other}`\n{USAGE}") }),
    }
}
