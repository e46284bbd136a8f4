//! Computes the values of the kernel object's globals from `common::fields` and the running kernel's BTF.

use std::{fs, io, path::Path, sync::Arc};

use common::fields::{ABSENT, FIELDS, Field, Kind, Need};

use super::btf::{Btf, BtfError};

/// Modules that are searched for types and tracepoints in addition to the kernel.
const MODULES: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// Why the layout of kernel structs is not known.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel's BTF has no such member.
    #[error("kernel {kernel} has no member {members} in {container}, which capture needs")]
    Missing {
        /// Release of the kernel.
        kernel: String,
        /// Name of the struct or enum.
        container: &'static str,
        /// The names tried.
        members: String,
    },
    /// The kernel's BTF does not give a single number.
    #[error("kernel {kernel}, {container}")]
    Btf {
        /// Release of the kernel.
        kernel: String,
        /// Name of the struct or enum.
        container: &'static str,
        /// What is wrong.
        #[source]
        source: BtfError,
    },
    /// The blob itself cannot be parsed.
    #[error("kernel {kernel}: {file} is no usable BTF")]
    Blob {
        /// Release of the kernel.
        kernel: String,
        /// Name of the blob.
        file: String,
        /// What is wrong.
        #[source]
        source: BtfError,
    },
    /// The kernel has no BTF (CONFIG_DEBUG_INFO_BTF), or it cannot be read.
    #[error("kernel {kernel}: cannot read {file}")]
    Unreadable {
        /// Release of the kernel.
        kernel: String,
        /// Name of the file.
        file: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Types of a kernel, and of those of its modules that are needed here.
#[derive(Debug)]
pub struct KernelTypes {
    release: String,
    vmlinux: Arc<Btf>,
    modules: Vec<Btf>,
}

impl KernelTypes {
    /// Reads the types of the running kernel.
    ///
    /// # Errors
    /// When it has none, or they cannot be parsed.
    pub fn running() -> Result<Self, LayoutError> {
        let release = release();
        let directory = Path::new("/sys/kernel/btf");
        let read = |name: &str| fs::read(directory.join(name));
        let vmlinux = read("vmlinux").map_err(|source| LayoutError::Unreadable {
            kernel: release.clone(),
            file: "vmlinux".into(),
            source,
        })?;
        // A module that is built in or not loaded has no file of its own.
        let modules = MODULES.iter().filter_map(|name| Some((*name, read(name).ok()?))).collect();
        Self::from_blobs(release, vmlinux, modules)
    }

    /// Reads the types from the given blobs.
    ///
    /// # Errors
    /// When one cannot be parsed.
    pub fn from_blobs(release: String, vmlinux: Vec<u8>, modules: Vec<(&str, Vec<u8>)>) -> Result<Self, LayoutError> {
        let blob = |file: &str, source| LayoutError::Blob { kernel: release.clone(), file: file.into(), source };
        let vmlinux = Arc::new(Btf::parse(vmlinux, None).map_err(|source| blob("vmlinux", source))?);
        let modules = modules
            .into_iter()
            .map(|(name, bytes)| Btf::parse(bytes, Some(vmlinux.clone())).map_err(|source| blob(name, source)))
            .collect::<Result<_, _>>()?;
        Ok(Self { release, vmlinux, modules })
    }

    /// Release of the kernel that the types are from.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The blobs, the kernel's first.
    pub fn blobs(&self) -> impl Iterator<Item = &Btf> {
        std::iter::once(&*self.vmlinux).chain(&self.modules)
    }

    /// Whether the kernel, or a loaded module, has this tracepoint.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        if name.is_empty() {
            return false;
        }
        let typedef = format!("btf_trace_{name}");
        self.blobs().any(|btf| btf.has_typedef(&typedef))
    }

    /// Parameters of a kernel function, as `Btf::function`.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Vec<Option<String>>> {
        self.blobs().find_map(|btf| btf.function(name))
    }

    fn lookup(&self, field: &Field) -> Result<Option<u32>, BtfError> {
        for member in field.members {
            for btf in self.blobs() {
                let found = match field.kind {
                    Kind::Offset => btf.member_offset(field.container, member)?,
                    Kind::Constant => btf.constant(field.container, member)?,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

/// The values of the kernel object's globals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(Vec<(&'static str, u32)>);

impl Layout {
    /// Resolves every field of `common::fields`.
    ///
    /// # Errors
    /// `Missing` for a required field, `Btf` when BTF does not give one number.
    pub fn resolve(types: &KernelTypes) -> Result<Self, LayoutError> {
        let mut values = Vec::with_capacity(FIELDS.len());
        for field in FIELDS {
            let found = types.lookup(field).map_err(|source| LayoutError::Btf {
                kernel: types.release.clone(),
                container: field.container,
                source,
            })?;
            let value = match (found, field.need) {
                (Some(value), _) => value,
                (None, Need::Optional) => ABSENT,
                (None, Need::Required) => {
                    return Err(LayoutError::Missing {
                        kernel: types.release.clone(),
                        container: field.container,
                        members: field.members.join(" or "),
                    });
                }
            };
            values.push((field.global, value));
        }
        Ok(Self(values))
    }

    /// Name and value of each global.
    pub fn globals(&self) -> impl Iterator<Item = (&'static str, &u32)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// Value of one global; `None` when it is absent or unknown.
    #[must_use]
    pub fn get(&self, global: &str) -> Option<u32> {
        self.0.iter().find(|(name, value)| *name == global && *value != ABSENT).map(|(_, value)| *value)
    }
}

/// Release of the running kernel.
fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
