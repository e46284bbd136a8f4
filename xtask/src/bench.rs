//! `bench NAME`: hands over to the binary `bench` of the crate `tests`, which holds all benchmarks.

use crate::ebpf;
use crate::sh::{self, Error};

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::Usage { text: "usage: cargo xtask bench NAME [ARGS]".into() });
    }
    ebpf::build()?;
    // The benchmarks start the program beside them.
    sh::run(sh::cargo().args(["build", "--release", "-p", "tracker"]))?;
    sh::run(sh::cargo().args(["run", "--release", "-p", "tests", "--bin", "bench", "--"]).args(args))
}
