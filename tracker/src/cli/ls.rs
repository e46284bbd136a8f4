//! `tracker ls`: the names below a directory of a volume, as of a point in its history.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use engine::manifest::Manifest;
use engine::model::{Kind, Meta};
use serde::Serialize;

use super::global::Global;
use super::instant;
use super::reading::{INCOMPLETE, app_error, choose, open, path_inside};
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::quoting::quote_path;
use crate::repository::location::VolumeRef;
use crate::repository::{ReadError, kind_name};
use crate::source::flag_names;
use crate::units::{At, PathField};

/// List the files of a volume without restoring it.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The volume, as STORE/VOLUME.
    #[arg(value_name = "STORE/VOLUME")]
    pub volume: VolumeRef,
    /// A path inside the volume, also as `ls` prints it [default: its root].
    pub path: Option<PathBuf>,
    /// As of this commit, or of the last one not later than this time [default: the newest].
    #[arg(long, value_name = "SEQ|TIME")]
    pub at: Option<At>,
    /// The newest commit at or before it that is the state of one instant of the whole tree.
    #[arg(long)]
    pub instant: bool,
    /// Everything below, not just the directory itself.
    #[arg(short, long)]
    pub recursive: bool,
}

/// One name, as `ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LsEntry {
    /// From the volume's root, without a leading slash.
    pub path: Vec<u8>,
    pub meta: Meta,
    /// Bytes of content; 0 if it has none.
    pub size: u64,
}

#[derive(Serialize)]
struct Line {
    r#type: &'static str,
    #[serde(flatten)]
    path: PathField,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<PathField>,
    /// Names of the inode flags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<&'static str>,
    /// 0: none.
    #[serde(skip_serializing_if = "is_none")]
    project: u32,
}

fn is_none(project: &u32) -> bool {
    *project == 0
}

pub(super) fn run(args: &LsArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let path = args.path.as_ref().map(|p| p.as_os_str().as_bytes()).unwrap_or_default();
    let reader = open(&args.volume)?;
    let chosen = choose(&reader, args.at, out)?;
    let seq = if args.instant { instant::take(&reader, chosen)? } else { chosen };
    instant::tell(&reader, seq, false, out)?;
    let manifest = reader.manifest(seq).map_err(|error| app_error(&error))?;
    if manifest.position().standing.is_some_and(|standing| !standing.baseline) {
        out.warn("incomplete", format_args!("commit {seq}: {INCOMPLETE}"))?;
    }
    list(&manifest, path, args.recursive, &mut |entry| {
        let line = line(entry);
        out.line(text(&line), &line)
    })?;
    Ok(ExitCode::Ok)
}

fn line(entry: &LsEntry) -> Line {
    let meta = &entry.meta;
    Line {
        r#type: "file",
        path: PathField::new(&entry.path),
        kind: kind_name(meta.kind),
        mode: format!("{:04o}", meta.mode),
        uid: meta.uid,
        gid: meta.gid,
        size: entry.size,
        mtime: time(meta.mtime.sec, meta.mtime.nsec),
        target: (meta.kind == Kind::Symlink).then(|| PathField::new(&meta.target)),
        flags: flag_names(meta.flags),
        project: meta.project,
    }
}

fn text(line: &Line) -> String {
    let target = line.target.as_ref().map(|t| format!(" -> {}", t.for_people())).unwrap_or_default();
    let project = (line.project != 0).then(|| format!("project {}", line.project));
    let flags: Vec<String> = line.flags.iter().map(|name| (*name).to_owned()).chain(project).collect();
    let flags = if flags.is_empty() { String::new() } else { format!(" [{}]", flags.join(", ")) };
    let (kind, mode, uid, gid) = (line.kind, &line.mode, line.uid, line.gid);
    format!(
        "{kind:7} {mode} {uid:5} {gid:5} {:>12} {} {}{target}{flags}",
        line.size,
        line.mtime,
        quote_path(&line.path.bytes())
    )
}

/// RFC 3339; `?` for a time outside the calendar.
fn time(sec: i64, nsec: u32) -> String {
    let nsec = i32::try_from(nsec).unwrap_or(0);
    jiff::Timestamp::new(sec, nsec).map_or_else(|_| "?".to_string(), |time| time.to_string())
}

/// Calls `each` for `path` (or for its entries, if it is a directory), in the order of names.
fn list(
    manifest: &Manifest,
    path: &[u8],
    recursive: bool,
    each: &mut dyn FnMut(&LsEntry) -> Result<(), AppError>,
) -> Result<(), AppError> {
    let path = path_inside(manifest, path);
    let absent = || app_error(&ReadError::Plan(engine::plan::PlanError::NoSuchPath { path: path.clone() }));
    let id = manifest.resolve(&path).ok_or_else(absent)?;
    let entry =
        |path: Vec<u8>, file: &engine::manifest::File| LsEntry { path, meta: file.meta.clone(), size: file.size() };
    let file = manifest.get(id).ok_or_else(absent)?;
    if file.meta.kind != Kind::Dir {
        return each(&entry(path, file));
    }
    // A stack with the next name on top; it holds only what is below `path`.
    let below = |at: &[u8], id| -> Vec<(Vec<u8>, engine::model::FileId)> {
        let full = |name: &[u8]| if at.is_empty() { name.to_vec() } else { [at, name].join(&b'/') };
        let mut names: Vec<_> = manifest.children(id).map(|(name, id)| (full(name), id)).collect();
        names.reverse();
        names
    };
    let mut pending = below(&path, id);
    while let Some((path, id)) = pending.pop() {
        let Some(file) = manifest.get(id) else { continue };
        if recursive && file.meta.kind == Kind::Dir {
            pending.extend(below(&path, id));
        }
        each(&entry(path, file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::{InodeFlags, Time};

    #[test]
    fn a_name_in_both_forms() {
        let meta = Meta {
            kind: Kind::Symlink,
            mode: 0o777,
            uid: 0,
            gid: 5,
            mtime: Time { sec: -1, nsec: 5 },
            rdev: 0,
            target: b"b\nc".to_vec(),
            xattrs: Vec::new(),
            flags: 0,
            project: 0,
        };
        let line = line(&LsEntry { path: b"a".to_vec(), meta, size: 3 });
        assert_eq!(text(&line), "symlink 0777     0     5            3 1969-12-31T23:59:59.000000005Z a -> $'b\\nc'");
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!((json["type"].as_str(), json["mode"].as_str()), (Some("file"), Some("0777")));
        assert_eq!(json["target"]["path"], "b\nc");
        assert!(json["flags"].is_null() && json["project"].is_null(), "{json}");
    }

    #[test]
    fn flags_and_project_stand_behind_the_name() {
        let meta = Meta {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time { sec: 0, nsec: 0 },
            rdev: 0,
            target: Vec::new(),
            xattrs: Vec::new(),
            flags: InodeFlags::IMMUTABLE | InodeFlags::NODUMP,
            project: 7,
        };
        let line = line(&LsEntry { path: b"a".to_vec(), meta, size: 3 });
        let shown = "file    0644     0     0            3 1970-01-01T00:00:00Z a [immutable, no-dump, project 7]";
        assert_eq!(text(&line), shown);
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(json["flags"], serde_json::json!(["immutable", "no-dump"]));
        assert_eq!(json["project"], 7);
    }
}
