//! librsync's delta format: reading the commands of a delta, and writing one.
//!
//! Big endian: magic, then commands, then a zero byte. A literal command is one byte 1..=64 (its length) or 0x41..=0x44
//! and a length of 1, 2, 4 or 8 bytes; a copy command is 0x45 + 4 * (size class of the offset) + (size class of the
//! length), then both. The format has no holes: they are literal zeros.

use super::error::DeltaError;
use crate::model::Op;

const MAGIC: u32 = 0x7273_0236;
const END: u8 = 0;
const LITERAL_64: u8 = 0x40;
const LITERAL_N1: u8 = 0x41;
const LITERAL_N8: u8 = 0x44;
const COPY_N1_N1: u8 = 0x45;
const COPY_N8_N8: u8 = 0x54;

/// One command of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'d> {
    /// `len` bytes of the base at `from`.
    Copy { from: u64, len: u64 },
    /// New bytes; `len` is their length.
    Literal { bytes: &'d [u8], len: u64 },
}

/// The commands of a delta, which is hostile input: nothing is allocated, every length is checked.
#[derive(Clone, Debug)]
pub struct Commands<'d> {
    delta: &'d [u8],
    at: usize,
    ended: bool,
}

impl<'d> Commands<'d> {
    pub fn new(delta: &'d [u8]) -> Result<Commands<'d>, DeltaError> {
        let mut commands = Commands { delta, at: 0, ended: false };
        let magic = commands.number(4)? as u32;
        if magic == MAGIC { Ok(commands) } else { Err(DeltaError::Magic { magic }) }
    }

    fn bytes(&mut self, len: u64) -> Result<&'d [u8], DeltaError> {
        let cut = DeltaError::Truncated { at: self.at as u64 };
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or(cut)?;
        let bytes = self.delta.get(self.at..end).ok_or(cut)?;
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self, width: u64) -> Result<u64, DeltaError> {
        Ok(self.bytes(width)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn command(&mut self) -> Result<Option<Command<'d>>, DeltaError> {
        let at = self.at as u64;
        let command = self.number(1)? as u8;
        let (from, len) = match command {
            END => {
                let bytes = (self.delta.len() - self.at) as u64;
                return if bytes == 0 { Ok(None) } else { Err(DeltaError::Trailing { bytes }) };
            }
            1..=LITERAL_64 => (None, u64::from(command)),
            LITERAL_N1..=LITERAL_N8 => (None, self.number(1 << (command - LITERAL_N1))?),
            COPY_N1_N1..=COPY_N8_N8 => {
                let class = command - COPY_N1_N1;
                (Some(self.number(1 << (class / 4))?), self.number(1 << (class % 4))?)
            }
            _ => return Err(DeltaError::Unknown { command, at }),
        };
        if len == 0 {
            return Err(DeltaError::Empty { at });
        }
        Ok(Some(match from {
            Some(from) => Command::Copy { from, len },
            None => Command::Literal { bytes: self.bytes(len)?, len },
        }))
    }
}

impl<'d> Iterator for Commands<'d> {
    type Item = Result<Command<'d>, DeltaError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let command = self.command().transpose();
        self.ended = !matches!(command, Some(Ok(_)));
        command
    }
}

/// Writes a delta piece by piece, so that literals can come from the store: begin, then each step, then end.
#[derive(Clone, Copy, Debug, Default)]
pub struct RdiffEncoder;

impl RdiffEncoder {
    pub fn begin(out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC.to_be_bytes());
    }

    pub fn copy(from: u64, len: u64, out: &mut Vec<u8>) {
        if len == 0 {
            return;
        }
        let (from_class, len_class) = (class(from), class(len));
        out.push(COPY_N1_N1 + 4 * from_class + len_class);
        number(from, from_class, out);
        number(len, len_class, out);
    }

    /// The head of a literal: exactly `len` bytes of it must follow.
    pub fn literal(len: u64, out: &mut Vec<u8>) {
        match len {
            0 => {}
            1..=64 => out.push(len as u8),
            _ => {
                out.push(LITERAL_N1 + class(len));
                number(len, class(len), out);
            }
        }
    }

    pub fn end(out: &mut Vec<u8>) {
        out.push(END);
    }
}

/// Size class of a number: 0 to 3 for 1, 2, 4 or 8 bytes.
fn class(number: u64) -> u8 {
    match number {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        0x1_0000..=0xffff_ffff => 2,
        _ => 3,
    }
}

fn number(number: u64, class: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes()[8 - (1 << class)..]);
}

/// The steps as a librsync delta against the same base, handed out in pieces of at most 64 KiB of zeros or one literal.
///
/// `rdiff patch BASE DELTA OUT` makes the content, holes as zeros. Whole-base copies need no base here: the delta
/// refers to it. Errors are those of `sink`.
pub fn export_rdiff<L: AsRef<[u8]>, E>(ops: &[Op<L>], mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut head = Vec::new();
    RdiffEncoder::begin(&mut head);
    for op in ops {
        match op {
            Op::Copy { from, len } => RdiffEncoder::copy(*from, *len, &mut head),
            Op::Literal(bytes) => {
                RdiffEncoder::literal(bytes.as_ref().len() as u64, &mut head);
                sink(&head)?;
                head.clear();
                sink(bytes.as_ref())?;
            }
            Op::Hole { len } => {
                RdiffEncoder::literal(*len, &mut head);
                let mut left = *len;
                while left > 0 {
                    sink(&head)?;
                    head.clear();
                    let part = left.min(ZEROS.len() as u64);
                    sink(&ZEROS[..part as usize])?;
                    left -= part;
                }
            }
        }
    }
    RdiffEncoder::end(&mut head);
    sink(&head)
}
