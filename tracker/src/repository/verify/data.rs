//! Checks every file's root from the bytes in the store: small files in groups, as a restore fetches them, large ones in
//! order.

use std::collections::HashSet;

use engine::manifest::Manifest;
use engine::plan::{PlanFile, PlanFrame, RestorePlan, Run};
use parking_lot::Mutex;

use crate::repository::error::ReadError;
use crate::repository::fetch::{Group, SMALL, data_ranges, groups, root_of};
use crate::repository::parallel;
use crate::repository::reader::{Reader, THREADS};
use crate::repository::verify::report::VerifyReport;

type Shared<'a> = Mutex<&'a mut VerifyReport>;

pub(crate) fn files(reader: &Reader, manifest: &Manifest, report: &mut VerifyReport) -> Result<(), ReadError> {
    let mut plan = RestorePlan::new(manifest)?;
    let frames = std::mem::take(&mut plan.frames);
    let large: Vec<(u32, &PlanFile)> = (0u32..).zip(&plan.files).filter(|(_, file)| file.size > SMALL).collect();
    let groups = groups(&plan.files, frames, &large.iter().map(|(n, _)| *n).collect());
    let report = Mutex::new(report);
    parallel::try_each(THREADS, &groups, |group| self::group(reader, &plan.files, group, &report))?;
    parallel::try_each(THREADS, &large, |(_, file)| {
        let Some(content) = manifest.get(file.id) else { return Ok(()) };
        match reader.stream(content, &shown(file), None) {
            Ok(bytes) => report.lock().bytes_read += bytes,
            Err(error) => report.lock().note(error)?,
        }
        Ok(())
    })
}

fn group(reader: &Reader, files: &[PlanFile], group: &Group, report: &Shared<'_>) -> Result<(), ReadError> {
    let sizes = group.files.iter().map(|n| files.get(*n as usize).map_or(0, |file| file.size));
    let mut buffers: Vec<Vec<u8>> = sizes.map(|size| vec![0; usize::try_from(size).unwrap_or_default()]).collect();
    // A file whose bytes could not be read is already reported; its root would only repeat it.
    let mut broken: HashSet<u32> = HashSet::new();
    for read in &group.reads {
        let mut put = |run: &Run, bytes: &[u8]| {
            let buffer = group.place(run.file).and_then(|place| buffers.get_mut(place));
            let start = usize::try_from(run.offset).unwrap_or(usize::MAX);
            if let Some(part) = buffer.and_then(|b| b.get_mut(start..start.saturating_add(bytes.len()))) {
                part.copy_from_slice(bytes);
            }
            Ok(())
        };
        let mut errors = Vec::new();
        let mut lost = |frame: &PlanFrame, error: ReadError| {
            broken.extend(frame.runs.iter().map(|run| run.file));
            errors.push(error);
        };
        let done = reader.carry_out(read, &mut put, &mut lost);
        report.lock().bytes_read += read.bytes;
        errors.into_iter().try_for_each(|error| report.lock().note(error))?;
        if let Err(error) = done {
            report.lock().note(error)?;
            broken.extend(read.frames.iter().flat_map(|frame| &frame.runs).map(|run| run.file));
        }
    }
    for (n, buffer) in group.files.iter().zip(&buffers).filter(|(n, _)| !broken.contains(n)) {
        let Some(file) = files.get(*n as usize) else { continue };
        let Some(expected) = file.root else { continue };
        let data = data_ranges(file.size, &file.holes);
        let found = root_of(expected.kind(), file.size, &data, |range, hasher| {
            hasher.bytes(buffer.get(range.start as usize..range.end as usize).unwrap_or_default());
            Ok::<_, ReadError>(())
        })?;
        if found != expected {
            report.lock().note(ReadError::Root { path: shown(file), found, expected })?;
        }
    }
    Ok(())
}

fn shown(file: &PlanFile) -> String {
    String::from_utf8_lossy(file.paths.first().map(Vec::as_slice).unwrap_or_default()).into_owned()
}
