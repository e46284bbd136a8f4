//! The `tracker` program: everything is in the library.

fn main() -> std::process::ExitCode {
    tracker::cli::main(std::env::args_os())
}
