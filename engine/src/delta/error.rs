//! Why a delta cannot be made or read.

/// Why a delta cannot be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    #[error("the signature cannot be matched against")]
    Signature,
    #[error("not a librsync delta (first bytes {magic:#010x})")]
    Magic { magic: u32 },
    #[error("the delta ends inside a command at byte {at}")]
    Truncated { at: u64 },
    #[error("unknown command {command:#04x} at byte {at}")]
    Unknown { command: u8, at: u64 },
    #[error("a command without length at byte {at}")]
    Empty { at: u64 },
    #[error("{bytes} bytes after the end of the delta")]
    Trailing { bytes: u64 },
    #[error("the delta makes {got} bytes of a window of {want}")]
    Window { want: u64, got: u64 },
}
