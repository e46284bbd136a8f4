//! `tracker cat`: one file's bytes as of a point in the volume's history, on stdout.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use engine::manifest::Manifest;

use super::volume::{app_error, open, path_inside};
use super::{Global, Out};
use crate::error::{AppError, ExitCode};
use crate::location::VolumeRef;
use crate::units::At;

/// Write one file of a volume to stdout (its bytes as they are, also with --json).
#[derive(Debug, Args)]
pub struct CatArgs {
    /// The volume, as STORE/VOLUME.
    #[arg(value_name = "STORE/VOLUME")]
    pub volume: VolumeRef,
    /// The file's path inside the volume, also as `ls` prints it.
    pub path: PathBuf,
    /// As of this commit, or of the last one not later than this time [default: the newest].
    #[arg(long, value_name = "SEQ|TIME")]
    pub at: Option<At>,
}

pub(super) fn run(args: &CatArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    cat_file(&args.volume, args.at, args.path.as_os_str().as_bytes(), out.raw())?;
    Ok(ExitCode::Ok)
}

/// Writes the file's bytes to `to`. They can only be verified as a whole: a root that does not match at the end is
/// `ExitCode::Mismatch`, with the bytes already written.
fn cat_file(volume: &VolumeRef, at: Option<At>, path: &[u8], to: &mut dyn Write) -> Result<(), AppError> {
    let reader = open(volume)?;
    let state = reader.resolve(at).and_then(|seq| reader.manifest(seq));
    let cat = |manifest: Manifest| reader.cat(&manifest, &path_inside(&manifest, path), to);
    state.and_then(cat).map_err(|error| app_error(&error))
}
