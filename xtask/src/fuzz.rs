//! `fuzz-decoders`: mutated objects of every kind through the decoders, more of them than the gate makes.

use crate::sh::{self, Error};

const USAGE: &str = "usage: cargo xtask fuzz-decoders [--count N] [--seed N]
  N mutants of each kind of object (20000), of which none may panic a decoder or make it take more than 256 MiB";

#[derive(Debug, PartialEq, Eq)]
struct Wish {
    count: u64,
    seed: u64,
}

fn parse(args: &[String]) -> Result<Wish, Error> {
    let usage = |why: String| Error::Usage { text: format!("{why}\n{USAGE}") };
    let mut wish = Wish { count: 20_000, seed: 1 };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok());
        let number = match arg.as_str() {
            "--count" => number().filter(|count| *count > 0).map(|count| wish.count = count),
            "--seed" => number().map(|seed| wish.seed = seed),
            _ => return Err(usage(format!("unexpected `{arg}`"))),
        };
        number.ok_or_else(|| usage(format!("{arg} takes a number")))?;
    }
    Ok(wish)
}

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    let Wish { count, seed } = parse(args)?;
    let mut tests = sh::cargo();
    tests.args(["test", "-p", "engine", "--test", "fuzz_decoders", "--", "--nocapture"]);
    tests.env("TRACKER_FUZZ_COUNT", count.to_string()).env("TRACKER_FUZZ_SEED", seed.to_string());
    sh::run(&mut tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_and_nothing_else() {
        let parse = |args: &[&str]| parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), Wish { count: 20_000, seed: 1 });
        assert_eq!(parse(&["--seed", "7", "--count", "5"]).unwrap(), Wish { count: 5, seed: 7 });
        for bad in [&["--count"][..], &["--count", "0"], &["--seed", "x"], &["5"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
