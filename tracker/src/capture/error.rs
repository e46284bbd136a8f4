//! Why a capture failed.

use std::io;
use std::path::PathBuf;

use super::layout::LayoutError;

/// Why capture failed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// This binary carries no kernel object.
    #[error("this binary was built without the eBPF object; build it with `cargo xtask build-ebpf` first")]
    NoObject,
    /// No back end can be used.
    #[error("no capture back end can be used: {reasons}")]
    NoBackEnd {
        /// One reason for each that was considered.
        reasons: String,
    },
    /// The layout of the kernel's structs is not known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The kernel lacks tracepoints without which no file system can be protected.
    #[error("kernel {kernel} lacks the tracepoints {missing:?}")]
    NoTracepoints {
        /// Release of the kernel.
        kernel: String,
        /// Their names.
        missing: Vec<&'static str>,
    },
    /// The kernel lacks a function that the back end hooks, or has it with other parameters.
    #[error("kernel {kernel}: {problem}")]
    Function {
        /// Release of the kernel.
        kernel: String,
        /// What is missing or different.
        problem: String,
    },
    /// The object could not be loaded.
    #[error("cannot load the eBPF object")]
    Load {
        /// aya's error.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object lacks something that this binary expects.
    #[error("the eBPF object has no {what} {name}")]
    ObjectLacks {
        /// Program or map.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A program was refused or could not be attached.
    #[error("cannot attach program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// aya's error.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// Something could not be pinned.
    #[error("cannot pin {path:?}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// aya's error.
        #[source]
        source: Box<aya::pin::PinError>,
    },
    /// A file system call failed.
    #[error("{what} {path:?}")]
    File {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// An operation on a map failed.
    #[error("{what} of map {map}")]
    Map {
        /// What was done.
        what: &'static str,
        /// Its name.
        map: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Waiting for running programs failed: the retired maps must not be read.
    #[error("cannot wait for running programs to end")]
    Grace {
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The mount table lacks a mount that is needed.
    #[error("cannot find the mount of {path:?}")]
    Mount {
        /// The path asked about.
        path: PathBuf,
    },
}
