//! The kernel struct members that the programs read. One list, expanded to read-only globals of the kernel object and to a
//! table for user space, which resolves each in the running kernel's BTF. No offset is written anywhere in code.

/// Value of an offset global if the running kernel lacks the member. Only optional fields can be absent.
pub const ABSENT: u32 = u32::MAX;

/// One member of a kernel struct, or one constant of a kernel enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name of the global in the kernel object.
    pub global: &'static str,
    /// Name of the struct (or enum).
    pub container: &'static str,
    /// Names of the member (or constant), newest kernel first; the first one found is used.
    pub members: &'static [&'static str],
    /// What is looked up.
    pub kind: Kind,
    /// Whether capture works without it.
    pub need: Need,
}

/// What a `Field` looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Byte offset of a struct member.
    Offset,
    /// Value of an enum constant.
    Constant,
}

/// Whether a `Field` may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Loading fails without it.
    Required,
    /// The programs widen without it.
    Optional,
}

/// Passes the list of fields to the macro `$then`.
///
/// A line is `GLOBAL: need kind container [member, alternate...];`
#[macro_export]
macro_rules! kernel_fields {
    ($then:path) => {
        $then! {
            INODE_MODE: Required Offset "inode" ["i_mode"];
            INODE_SB: Required Offset "inode" ["i_sb"];
            INODE_INO: Required Offset "inode" ["i_ino"];
            INODE_SIZE: Required Offset "inode" ["i_size"];
            INODE_BLKBITS: Required Offset "inode" ["i_blkbits"];
            INODE_MAPPING: Optional Offset "inode" ["i_mapping"];
            INODE_COUNT: Required Offset "inode" ["i_count"];
            SB_DEV: Required Offset "super_block" ["s_dev"];
            SB_MAGIC: Required Offset "super_block" ["s_magic"];
            MAPPING_HOST: Required Offset "address_space" ["host"];
            MAPPING_WRITABLE: Optional Offset "address_space" ["i_mmap_writable"];
            FOLIO_FLAGS: Required Offset "folio" ["flags"];
            FOLIO_INDEX: Required Offset "folio" ["index"];
            FOLIO_PAGES: Optional Offset "folio" ["_nr_pages", "_folio_nr_pages"];
            FOLIO_ORDER: Optional Offset "folio" ["_folio_order"];
            FOLIO_FLAGS_1: Optional Offset "folio" ["_flags_1"];
            PG_HEAD: Required Constant "pageflags" ["PG_head"];
            KIOCB_FILE: Required Offset "kiocb" ["ki_filp"];
            KIOCB_POS: Required Offset "kiocb" ["ki_pos"];
            FILE_INODE: Required Offset "file" ["f_inode"];
            ITER_COUNT: Required Offset "iov_iter" ["count"];
            ITER_SOURCE: Required Offset "iov_iter" ["data_source"];
            XFS_VNODE: Optional Offset "xfs_inode" ["i_vnode"];
            VMA_FILE: Optional Offset "vm_area_struct" ["vm_file"];
            VMA_FLAGS: Optional Offset "vm_area_struct" ["vm_flags"];
            DENTRY_PARENT: Optional Offset "dentry" ["d_parent"];
            DENTRY_INODE: Optional Offset "dentry" ["d_inode"];
            IATTR_VALID: Optional Offset "iattr" ["ia_valid"];
            IATTR_SIZE: Optional Offset "iattr" ["ia_size"];
            DIO_IOCB: Optional Offset "iomap_dio" ["iocb"];
            TASK_FILES: Optional Offset "task_struct" ["files"];
            FILES_TABLE: Optional Offset "files_struct" ["fdt"];
            TABLE_FILES: Optional Offset "fdtable" ["fd"];
            REGS_SYSCALL: Optional Offset "pt_regs" ["orig_ax"];
            REGS_IP: Optional Offset "pt_regs" ["ip"];
            REGS_ARGUMENT_2: Optional Offset "pt_regs" ["si"];
        }
    };
}

macro_rules! table {
    ($($global:ident: $need:ident $kind:ident $container:literal [$($member:literal),+];)+) => {
        /// Every field, in the order of the list.
        pub const FIELDS: &[Field] = &[$(Field {
            global: stringify!($global),
            container: $container,
            members: &[$($member),+],
            kind: Kind::$kind,
            need: Need::$need,
        }),+];
    };
}
kernel_fields!(table);
