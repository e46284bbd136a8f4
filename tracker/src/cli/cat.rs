//! `tracker cat`: one file's bytes as of a point in the volume's history, on stdout.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::Args;
use engine::manifest::Manifest;
use engine::model::Seq;
use serde_json::json;

use super::global::Global;
use super::reading::{app_error, choose, open, path_inside};
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::repository::location::VolumeRef;
use crate::repository::{ReadError, Reader};
use crate::units::{At, PathField};

/// Write one file of a volume to stdout. With --json: its bytes as base64, a part in each object, and an object of the
/// type `cat` once all of them have been verified.
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

/// Bytes per object of `--json`: a multiple of three, so that the concatenated base64 of the parts is valid too.
const PART: usize = 48 << 10;

/// Writes JSON objects from the bytes that it is given.
struct Parts<'a> {
    out: &'a mut Out,
    path: PathField,
    offset: u64,
    buffer: Vec<u8>,
    /// The error of the output: `Write` can only report that there was one.
    failed: Option<AppError>,
}

impl Parts<'_> {
    fn part(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let line = json!({
            "type": "data", "path": self.path.path, "path_base64": self.path.path_base64,
            "offset": self.offset, "base64": BASE64_STANDARD.encode(bytes),
        });
        self.offset += bytes.len() as u64;
        self.out.line("", &line).map_err(|error| {
            let failed = std::io::Error::other(error.message.clone());
            self.failed = Some(error);
            failed
        })
    }
}

impl Write for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= PART {
            let rest = self.buffer.split_off(PART);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.part(&part)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let rest = std::mem::take(&mut self.buffer);
        if rest.is_empty() { Ok(()) } else { self.part(&rest) }
    }
}

pub(super) fn run(args: &CatArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let path = args.path.as_os_str().as_bytes();
    let reader = open(&args.volume)?;
    let seq = choose(&reader, args.at, out)?;
    if !out.is_json() {
        cat_file(&reader, seq, path, out.raw())?;
        return Ok(ExitCode::Ok);
    }
    let mut parts = Parts { out, path: PathField::new(path), offset: 0, buffer: Vec::new(), failed: None };
    let sent = cat_file(&reader, seq, path, &mut parts);
    if let Some(error) = parts.failed {
        return Err(error);
    }
    sent?;
    let (path, bytes) = (parts.path, parts.offset);
    let end = json!({ "type": "cat", "path": path.path, "path_base64": path.path_base64, "bytes": bytes });
    out.line("", &end)?;
    Ok(ExitCode::Ok)
}

/// Writes the file's bytes to `to`. They can only be verified as a whole: if the root does not match at the end, the result
/// is `ExitCode::Mismatch`, with the bytes already written.
fn cat_file(reader: &Reader, seq: Seq, path: &[u8], to: &mut dyn Write) -> Result<(), AppError> {
    let state = reader.manifest(seq);
    let cat = |manifest: Manifest| reader.cat(&manifest, &path_inside(&manifest, path), to);
    let sent = state.and_then(cat);
    sent.and_then(|()| to.flush().map_err(ReadError::Output)).map_err(|error| app_error(&error))
}
