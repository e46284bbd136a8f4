//! The command line: one file per verb, each with its arguments and its handler.
//!
//! Reads the arguments and calls the verb. Only `main` decides the exit code and prints errors. A handler decides nothing
//! that belongs into a library module.

use std::ffi::OsString;
use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{AppError, ExitCode};
use crate::logging;
use crate::output::Out;

// Public, because other modules fill in reports and entries that are printed here.
pub mod acknowledge;
pub mod adopt;
pub mod cat;
pub mod completions;
pub mod config;
pub mod confirm;
pub mod daemon;
pub mod doctor;
mod global;
mod instant;
pub mod log;
pub mod ls;
pub mod man;
pub mod pause_guard;
pub mod protect;
mod reading;
pub mod restore;
pub mod status;
pub mod sync;
mod table;
pub mod tracking;
pub mod untrack;
pub mod verify;
pub mod version;
pub mod volume;
pub mod watch;

pub use global::Global;

/// Protects directories: the kernel says what changed, tracker commits it to a store, any commit can be restored.
#[derive(Debug, Parser)]
#[command(name = "tracker", version, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Protect(protect::ProtectArgs),
    Daemon(daemon::DaemonArgs),
    Status(status::StatusArgs),
    Sync(sync::SyncArgs),
    Acknowledge(acknowledge::AcknowledgeArgs),
    Confirm(confirm::ConfirmArgs),
    Untrack(untrack::UntrackArgs),
    Adopt(adopt::AdoptArgs),
    Volume(volume::VolumeVerbs),
    Watch(watch::WatchArgs),
    Log(log::LogArgs),
    Ls(ls::LsArgs),
    Cat(cat::CatArgs),
    Restore(restore::RestoreArgs),
    Verify(verify::VerifyArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    #[command(hide = true)]
    PauseGuard(pause_guard::PauseGuardArgs),
    Version(version::VersionArgs),
}

/// The whole command description, for completions, the manual and tests.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the arguments (the first is the program's name), runs the verb, prints errors.
pub fn main(args: impl IntoIterator<Item = OsString>) -> std::process::ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &args).into(),
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => code.into(),
        Err(error) => {
            error.print(json);
            error.code.into()
        }
    }
}

/// Runs one verb. `Ok` holds the code of a verb that worked but has something to report (3, 20, ..).
pub fn run(cli: Cli) -> Result<ExitCode, AppError> {
    let global = cli.global;
    let verbose = global.verbose.then_some(logging::VERBOSE);
    logging::init(global.log.as_deref().or(verbose), global.log_format)?;
    let mut out = Out::stdout(global.json);
    let ended = dispatch(cli.verb, &global, &mut out);
    // The one place that handles a closed pipe: whatever the verb returned, nobody is left to read it.
    if out.reader_is_gone() { Ok(ExitCode::ReaderGone) } else { ended }
}

fn dispatch(verb: Verb, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    match verb {
        Verb::Protect(args) => protect::run(&args, global, out),
        Verb::Daemon(args) => daemon::run(&args, global, out),
        Verb::Status(args) => status::run(&args, global, out),
        Verb::Sync(args) => sync::run(&args, global, out),
        Verb::Acknowledge(args) => acknowledge::run(&args, global, out),
        Verb::Confirm(args) => confirm::run(&args, global, out),
        Verb::Untrack(args) => untrack::run(&args, global, out),
        Verb::Adopt(args) => adopt::run(&args, global, out),
        Verb::Volume(args) => volume::run(&args, global, out),
        Verb::Watch(args) => watch::run(&args, global, out),
        Verb::Log(args) => log::run(&args, global, out),
        Verb::Ls(args) => ls::run(&args, global, out),
        Verb::Cat(args) => cat::run(&args, global, out),
        Verb::Restore(args) => restore::run(&args, global, out),
        Verb::Verify(args) => verify::run(&args, global, out),
        Verb::Doctor(args) => doctor::run(&args, global, out),
        Verb::Config(args) => config::run(&args, global, out),
        Verb::Completions(args) => completions::run(&args, command(), out),
        Verb::Man(args) => man::run(&args, command(), out),
        Verb::PauseGuard(args) => pause_guard::run(&args),
        Verb::Version(args) => version::run(&args, out),
    }
}

/// Help and `--version` are answers; everything else is wrong usage.
fn usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    use clap::error::ErrorKind;
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let code = if asked { ExitCode::Ok } else { ExitCode::Usage };
    let json = args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let text = error.render().to_string();
    let printed = if !json {
        error.print()
    } else if asked {
        let object = serde_json::json!({ "type": "help", "text": text });
        writeln!(std::io::stdout(), "{object}")
    } else {
        wrong_usage(error.kind(), &text).print(true);
        Ok(())
    };
    match printed {
        Err(error) if asked && error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::ReaderGone,
        // If the terminal is gone, nobody is left to read it.
        _ => code,
    }
}

/// Clap's message about wrong usage, without the help that it may append or show instead.
fn wrong_usage(kind: clap::error::ErrorKind, text: &str) -> AppError {
    use clap::error::ErrorKind;
    let lists = "`tracker VERB --help` lists the arguments";
    if matches!(kind, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        return AppError::new(ExitCode::Usage, "no verb was given").hint("`tracker --help` lists the verbs");
    }
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = text.lines().map(words).filter(|line| !line.is_empty()).take_while(|line| !line.starts_with("Usage:"));
    let said = said.filter(|line| !line.starts_with("For more information"));
    let (tips, said): (Vec<String>, Vec<String>) = said.partition(|line| line.starts_with("tip: "));
    let tips: Vec<&str> = tips.iter().map(|tip| tip.trim_start_matches("tip: ")).chain([lists]).collect();
    AppError::new(ExitCode::Usage, said.join(" ").trim_start_matches("error: ")).hint(tips.join("; "))
}

#[cfg(test)]
mod tests;
