//! Compares the store's head with the catalog's: which commits are ours, and whether the catalog must be rebuilt.

use engine::catalog::{CatalogChange, Head, Record};
use engine::model::{FileId, Ino, InodeId, NameChange, Seq};

use crate::error::{AppError, ExitCode};
use crate::repository::head_of;
use crate::volume::errors::failed;
use crate::volume::opened::Opened;
use crate::volume::ways_on::Obstacle;
use crate::volume::world::WorldError;

impl Opened {
    /// Compares the store's head with the catalog's. True: the catalog was rebuilt.
    pub(crate) fn agree_on_head(&mut self) -> Result<bool, Obstacle> {
        let world = &self.world;
        let ours = world.catalog.head().map_err(|error| failed("catalog", error))?.unwrap_or_default().seq;
        let intent = world.catalog.intent().map_err(|error| failed("catalog", error))?;
        let (theirs, _) = head_of(world.writer.store(), world.writer.format().era_len)?;
        if theirs == ours || (theirs == ours + 1 && intent.is_some()) {
            return Ok(false);
        }
        if theirs < ours {
            return Err(AppError::new(
                ExitCode::Mismatch,
                format_args!("the store's head is {theirs}, but this host has committed {ours}: commits were lost"),
            )
            .hint("bring the store's lost objects back; to go on without them, start over under another --name")
            .into());
        }
        if world.writer.writer_of(theirs).map_err(WorldError::from)? != self.writer.id {
            return Err(AppError::new(
                ExitCode::Locked,
                format_args!("another writer has committed: the store's head is {theirs}, ours was {ours}"),
            )
            .hint("one host writes a volume; this one must not go on")
            .into());
        }
        self.rebuild(theirs)?;
        Ok(true)
    }

    /// Rebuilds the catalog when the store has commits of ours that it does not know (it was set back, for instance by a
    /// power cut). The old one is discarded, and every file is read and compared with the manifest.
    fn rebuild(&mut self, head: Seq) -> Result<(), WorldError> {
        let world = &self.world;
        tracing::warn!(volume = %self.name, head = head.0, "the catalog is older than the store: all files are compared again");
        let manifest = world.writer.reader(head).manifest(head)?;
        world.catalog.wipe_for_rebuild()?;
        let mut change = CatalogChange::default();
        let mut highest = FileId::ROOT;
        for (id, file) in manifest.files() {
            // An inode that no file has: the file at this name now counts as new, with this one as its base.
            let inode = InodeId { ino: Ino::NONE, generation: id.0 };
            change.records.push(Record {
                id,
                inode,
                meta: file.meta.clone(),
                size: file.size(),
                root: file.root,
                hole_bytes: 0,
                signed: false,
                ctime: None,
            });
            highest = highest.max(id);
        }
        change.names =
            manifest.names().map(|(parent, name, id)| NameChange::Set { parent, name: name.to_vec(), id }).collect();
        change.next_id = Some(FileId(highest.0 + 1));
        world.catalog.apply(&change)?;
        let at = manifest.position();
        world.catalog.set_head(&Head { seq: at.seq, hash: at.head, time: at.time, standing: at.standing })?;
        Ok(())
    }
}
