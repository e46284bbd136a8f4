//! Whose volume it is: source, store and catalog must name the same one, and nobody else may write it.

use engine::format::era::VolumeFormat;
use engine::model::{FileId, Seq, VolumeId, WriterId};

use crate::catalog::{self, Catalog, Writer};
use crate::config::{Allow, Replaced, VolumeConfig};
use crate::error::{AppError, ExitCode};
use crate::repository::{self, WriteError, head_of};
use crate::source::{self, RootNames, SameSource, SourceError, SourceRoot};
use crate::store::{ErrorKind, Store};
use crate::volume::clock::{boot_id, wall_clock};
use crate::volume::errors::{failed, world_error};
use crate::volume::marks::compare::{COMPARE, Compare};
use crate::volume::startup::rebind::rebind;
use crate::volume::ways_on;
use crate::volume::ways_on::Obstacle;
use crate::volume::world::WorldError;
use crate::volume::world::random::random_id;

/// Name of the note that another directory is being adopted as the source. It is set before the old inodes are forgotten,
/// and cleared when the new directory is noted.
const ADOPTING: &str = "adopting";

/// Name of the note with what an operator allows the next start to do.
const ALLOWED: &str = "allowed";

/// Lets the next start of a volume do what `allow` says, once.
pub(crate) fn allow_once(catalog: &Catalog, allow: Allow) -> Result<(), AppError> {
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    let before = Allow::of_words(&catalog.note(ALLOWED).map_err(broken)?.unwrap_or_default());
    catalog.set_note(ALLOWED, &before.or(allow).words()).map_err(broken)
}

/// What an operator allows this start to do: by its arguments, or by `allow_once`.
pub(crate) fn allowed(catalog: &Catalog, config: &VolumeConfig) -> Result<Allow, AppError> {
    let noted = catalog.note(ALLOWED).map_err(|error| failed("catalog", error))?.unwrap_or_default();
    Ok(Allow::of_words(&noted).or(config.allow))
}

/// Called when a start succeeded: what was allowed is used up.
pub(crate) fn use_up(catalog: &Catalog) -> Result<(), AppError> {
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    match catalog.note(ALLOWED).map_err(broken)? {
        Some(words) if !words.is_empty() => catalog.set_note(ALLOWED, "").map_err(broken),
        _ => Ok(()),
    }
}

/// Makes sure that the source is the directory that the catalog describes. Adopts another directory if that is allowed,
/// once or by `replaced = "adopt"`. True: it was another directory, and everything must be compared.
///
/// # Errors
/// `SourceAway` if the directory may be a mount point whose file system is away, which only a person can tell from an empty
/// source. Neither a replaced source nor one that cannot be identified is committed as a removal of everything.
pub(crate) fn agree_on_source(
    catalog: &Catalog,
    root: &SourceRoot,
    config: &VolumeConfig,
    allow: Allow,
) -> Result<bool, Obstacle> {
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    // If a process died in the middle of it, files are without inodes, whatever directory is there now.
    let unfinished = catalog.note(ADOPTING).map_err(broken)?.is_some_and(|note| note == "yes");
    match compare_source(catalog, root)? {
        SameSource::Same if !unfinished => {
            remember_source(catalog, root)?;
            return Ok(false);
        }
        SameSource::Same => {}
        _ if allow.source => {}
        SameSource::CannotTell(why) => {
            return Err(Obstacle::SourceAway(ways_on::other_source(config, "may not be", &why)));
        }
        SameSource::Other(_) if is_unmounted(catalog, root)? => {
            let why = "it was a mount point, and nothing is mounted there";
            return Err(Obstacle::SourceAway(ways_on::other_source(config, "is not", why)));
        }
        SameSource::Other(_) if config.options.replaced == Replaced::Adopt => {}
        SameSource::Other(why) => return Err(ways_on::other_source(config, "is not", &why).into()),
    }
    catalog.set_note(ADOPTING, "yes").map_err(broken)?;
    let rebound = rebind(catalog, root)?;
    tracing::warn!(
        volume = %config.name,
        source = %config.source.display(),
        found = rebound.found,
        absent = rebound.absent,
        "another directory is taken for the source: its files are compared with the newest commit"
    );
    remember_source(catalog, root)?;
    // The next process must do it too if this one dies before the comparison is complete.
    catalog.set_note(COMPARE, Compare::Everything.word()).map_err(broken)?;
    catalog.set_note(ADOPTING, "no").map_err(broken)?;
    Ok(true)
}

/// Whether the source was the root of a mount and is now a plain directory.
fn is_unmounted(catalog: &Catalog, root: &SourceRoot) -> Result<bool, AppError> {
    let known = catalog.source_facts().map_err(|error| failed("catalog", error))?;
    let now = root.facts(None).map_err(|error| failed("cannot look at the source", error))?;
    Ok(known.is_some_and(|known| known.mount_root) && !now.mount_root)
}

/// Compares the source with what the catalog says of it. A new volume has the same source by definition.
pub(crate) fn compare_source(catalog: &Catalog, root: &SourceRoot) -> Result<SameSource, AppError> {
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    let Some(known) = catalog.source_facts().map_err(broken)? else { return Ok(SameSource::Same) };
    let look = |error: SourceError| failed("cannot look at the source", error);
    let now = root.facts(boot_id().as_deref()).map_err(look)?;
    let known_names = catalog.children(FileId::ROOT).map_err(broken)?.into_iter().map(|(name, _)| name).collect();
    let names = RootNames { known: known_names, now: root.root_names().map_err(look)? };
    Ok(source::same_source(&known, &now, &names))
}

/// Makes the catalog describe this directory from now on.
pub(crate) fn remember_source(catalog: &Catalog, root: &SourceRoot) -> Result<(), AppError> {
    let facts = root.facts(boot_id().as_deref()).map_err(|error| failed("cannot look at the source", error))?;
    catalog.set_source_facts(&facts).map_err(|error| failed("catalog", error))
}

/// Checks that a store at a new address holds exactly our newest commit.
fn same_history(catalog: &Catalog, store: &dyn Store, url: &str) -> Result<(), Obstacle> {
    let Some(head) = catalog.head().map_err(|error| failed("catalog", error))? else { return Ok(()) };
    let differs = |what: &str| {
        AppError::new(
            ExitCode::Mismatch,
            format_args!("{url} is not the store that was moved: commit {} {what} there", head.seq),
        )
        .hint("name the store as it was when this host last committed; an older copy of it cannot be gone on with")
    };
    match repository::is_commit(store, head.seq, head.hash)? {
        Some(true) => Ok(()),
        Some(false) => Err(differs("is another one").into()),
        None => Err(differs("is not").into()),
    }
}

/// Claims the volume in this store: creates it, finds it as ours, or refuses. `moved`: the store may have another address
/// than before, if it holds the same volume with our newest commit.
pub(crate) fn claim(
    catalog: &Catalog,
    store: &dyn Store,
    config: &VolumeConfig,
    moved: bool,
) -> Result<(VolumeId, Writer, VolumeFormat), Obstacle> {
    let url = &config.store.to_string();
    let broken = |error: catalog::CatalogError| failed("catalog", error);
    let known = catalog.volume_id().map_err(broken)?;
    let elsewhere = catalog.store().map_err(broken)?.filter(|there| there != url);
    if let Some(there) = elsewhere.as_ref().filter(|_| !moved) {
        return Err(ways_on::other_store(there, url, &config.name).into());
    }
    let no_format = |error: WriteError| match error {
        WriteError::Object { cause, .. } => {
            AppError::new(ExitCode::Mismatch, format_args!("the volume's format object in {url}: {cause}"))
                .hint("this may not be a tracker store, or one of a newer version")
                .into()
        }
        error => Obstacle::from(WorldError::from(error)),
    };
    let format = match repository::find_format(store).map_err(no_format)? {
        Some(format) => format,
        None if known.is_some() => {
            // A mount point whose file system is away looks like this.
            let told = AppError::new(
                ExitCode::Absent,
                format_args!("the volume is no longer in {url}, though this host has committed to it"),
            );
            let hint = "bring the store back, or start over with another --state-dir";
            return Err(Obstacle::Store(ErrorKind::NotFound, told.hint(hint)));
        }
        None => {
            let id = VolumeId(random_id().map_err(world_error)?);
            let mut format = VolumeFormat::new(id, wall_clock());
            if let Some(length) = crate::test_switches::value("TRACKER_ERA_LENGTH") {
                // For tests of what happens at the end of an era; stands in the volume's format from then on.
                format.era_len = length;
            }
            repository::make_format(store, &format).map_err(no_format)?
        }
    };
    if known.is_some_and(|known| known != format.volume) {
        return Err(AppError::new(ExitCode::Locked, "the store holds another volume under this name")
            .hint("use another --name; this one belongs to another host or another state directory")
            .into());
    }
    if elsewhere.is_some() {
        same_history(catalog, store, url)?;
    }
    let writer = match catalog.writer().map_err(broken)? {
        Some(writer) => writer,
        None => {
            // Without a catalog, whoever committed here counts as another writer, even if it was once this host.
            let (head, _) = head_of(store, format.era_len)?;
            if head > Seq::NONE {
                return Err(AppError::new(
                    ExitCode::Locked,
                    format_args!("the volume in {url} has another writer (its head is {head})"),
                )
                .hint("one host writes a volume; restore it, or protect this directory under another --name")
                .into());
            }
            let writer = Writer { id: WriterId(random_id().map_err(world_error)?), epoch: 1 };
            catalog.set_writer(&writer).map_err(broken)?;
            writer
        }
    };
    catalog.set_volume_id(&format.volume).map_err(broken)?;
    catalog.set_store(url).map_err(broken)?;
    Ok((format.volume, writer, format))
}
