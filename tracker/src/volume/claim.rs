//! Whose volume it is: the source, the store and the catalog must name the same one, and nobody else may write it.

use bytes::Bytes;
use engine::format::Key;
use engine::format::era::VolumeFormat;
use engine::model::{FileId, Id};
use engine::plan::find_head;

use super::open::{boot_id, failed, world_error};
use super::run::wall_clock;
use crate::catalog::{self, Catalog, Writer};
use crate::config::VolumeConfig;
use crate::error::{AppError, ExitCode};
use crate::source::{self, RootNames, SameSource, SourceError, SourceRoot};
use crate::store::{self, ErrorKind, Store};

/// The source must be the directory the catalog knows: a replaced one is not mirrored as a deletion of everything, and
/// neither is one that cannot be told apart.
pub(super) fn same_source(catalog: &Catalog, root: &SourceRoot, config: &VolumeConfig) -> Result<(), AppError> {
    let refuse = |what: std::fmt::Arguments<'_>, why: &str| {
        AppError::new(
            ExitCode::Guard,
            format_args!(
                "{} {what} the directory that volume {} was made of: {why}",
                config.source.display(),
                config.name
            ),
        )
    };
    match compare_source(catalog, root)? {
        SameSource::Same => remember_source(catalog, root),
        SameSource::Other(why) => Err(refuse(format_args!("is not"), &why)
            .hint("if it was replaced on purpose, protect it under another --name; the old volume stays restorable")),
        SameSource::CannotTell(why) => Err(refuse(format_args!("may not be"), &why)
            .hint("if its file system is not mounted, mount it; nothing was removed from the store")),
    }
}

/// Holds the source against what the catalog has of it. A new volume's is the same.
pub(super) fn compare_source(catalog: &Catalog, root: &SourceRoot) -> Result<SameSource, AppError> {
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    let Some(known) = catalog.source_facts().map_err(broken)? else { return Ok(SameSource::Same) };
    let look = |error: SourceError| failed("cannot look at the source", error);
    let now = root.facts(boot_id().as_deref()).map_err(look)?;
    let known_names = catalog.children(FileId::ROOT).map_err(broken)?.into_iter().map(|child| child.name).collect();
    let names = RootNames { known: known_names, now: root.root_names().map_err(look)? };
    Ok(source::same_source(&known, &now, &names))
}

/// From now on the catalog describes this directory.
pub(super) fn remember_source(catalog: &Catalog, root: &SourceRoot) -> Result<(), AppError> {
    let facts = root.facts(boot_id().as_deref()).map_err(|error| failed("cannot look at the source", error))?;
    catalog.set_source_facts(&facts).map_err(|error| failed("catalog", error))
}

/// Who we are in this store: makes the volume, or finds it as ours, or refuses.
pub(super) fn claim(catalog: &Catalog, store: &dyn Store, url: &str) -> Result<(Id, Writer, VolumeFormat), AppError> {
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    let key = Key::Format.to_string();
    let known = catalog.volume_id().map_err(broken)?;
    if let Some(there) = catalog.store().map_err(broken)?.filter(|there| there != url) {
        return Err(AppError::new(
            ExitCode::Guard,
            format_args!("the state directory says that this volume is kept in {there}, not in {url}"),
        )
        .hint("use another --name or another --state-dir for a second copy"));
    }
    let bytes = match store::get_checked(store, &key, VolumeFormat::decode) {
        Ok(Ok((bytes, _)) | Err((bytes, _))) => bytes,
        Err(error) if error.kind == ErrorKind::NotFound => match known {
            Some(_) => {
                return Err(AppError::new(
                    ExitCode::Absent,
                    format_args!("the volume is no longer in {url}, though this host has committed to it"),
                )
                .hint("bring the store back, or start anew with another --state-dir"));
            }
            None => {
                let id = super::random_id().map_err(world_error)?;
                let mut format = VolumeFormat::new(id, wall_clock());
                if let Some(length) = std::env::var("TRACKER_ERA_LENGTH").ok().and_then(|text| text.parse().ok()) {
                    // For tests of what happens at the end of an era; stands in the volume's format from then on.
                    format.era_len = length;
                }
                let bytes = format.encode().map_err(|error| failed("format", error))?;
                match store::create_exact(store, &key, &Bytes::from(bytes.clone()), 3) {
                    Ok(store::Settled::Own) => bytes,
                    Ok(store::Settled::Other(bytes)) => bytes,
                    Err(error) => return Err(AppError::from_store(&error)),
                }
            }
        },
        Err(error) => return Err(AppError::from_store(&error)),
    };
    let format = VolumeFormat::decode(&bytes).map_err(|error| {
        AppError::new(ExitCode::Mismatch, format_args!("the volume's format object in {url}: {error}"))
            .hint("this may not be a tracker store, or one of a newer version")
    })?;
    if known.is_some_and(|known| known != format.volume) {
        return Err(AppError::new(ExitCode::Locked, "the store holds another volume under this name")
            .hint("use another --name; this one belongs to another host or another state directory"));
    }
    let writer = match catalog.writer().map_err(broken)? {
        Some(writer) => writer,
        None => {
            // No catalog: whoever has committed here is somebody else, even if it was this host once.
            let head = find_head(format.era_len, |key| store.exists(&key.to_string()))
                .map_err(|e| AppError::from_store(&e))?;
            if head > 0 {
                return Err(AppError::new(
                    ExitCode::Locked,
                    format_args!("the volume in {url} has another writer (its head is {head})"),
                )
                .hint("one host writes a volume; restore it, or protect this directory under another --name"));
            }
            let writer = Writer { id: super::random_id().map_err(world_error)?, epoch: 1 };
            catalog.set_writer(&writer).map_err(broken)?;
            writer
        }
    };
    catalog.set_volume_id(&format.volume).map_err(broken)?;
    catalog.set_store(url).map_err(broken)?;
    Ok((format.volume, writer, format))
}
