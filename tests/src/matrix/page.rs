//! `docs/kernels-cells.md`: results of the first oracle as a page, made from lines that each run prints, and parsed again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::bed::{Found, Outcome};
use super::marks::Class;
use super::{COLUMNS, Kind, Promise, ops};
use crate::capture_rig::back_end;

/// The word for one cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Captured exactly.
    Exact,
    /// Captured by reading the file whole.
    Rescan,
    /// Not promised, for this reason.
    NotPromised(String),
    /// Not there, for this reason.
    Absent(String),
}

/// A column: release of the kernel without its patch level, and back end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column {
    /// As numbers, so that 6.1 precedes 6.12.
    pub kernel: (u32, u32),
    pub back_end: String,
}

/// All results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    cells: BTreeMap<Column, BTreeMap<(Kind, String), Word>>,
}

impl Column {
    /// The column of the running kernel and the back end under test.
    ///
    /// # Panics
    /// When the kernel's release is not a number.
    #[must_use]
    pub fn here() -> Column {
        let uname = rustix::system::uname();
        let kernel = kernel(&uname.release().to_string_lossy()).expect("a release begins with two numbers");
        Column { kernel, back_end: back_end().name().to_owned() }
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{} {}", self.kernel.0, self.kernel.1, self.back_end)
    }
}

fn kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The word for the cell of an outcome, or why it cannot be on the page: something was missed, or could not be executed.
///
/// # Errors
/// The reason.
pub fn word(outcome: &Outcome) -> Result<Word, String> {
    let cell = format!("{} {}", outcome.fs.name(), outcome.op.id);
    match (&outcome.found, outcome.op.promise(outcome.fs, back_end())) {
        (Found::Failed(why), _) => Err(format!("{cell}: cannot be done: {why}")),
        (Found::Absent(reason), _) => Ok(Word::Absent(reason.clone())),
        (_, Promise::NotPromised(reason)) => Ok(Word::NotPromised(reason.to_owned())),
        (Found::Seen(Class::Missed), _) => Err(format!("{cell}: MISSED: {}", outcome.missed.join("; "))),
        (Found::Seen(Class::Exact), _) => Ok(Word::Exact),
        (Found::Seen(Class::Rescan), _) => Ok(Word::Rescan),
    }
}

impl Word {
    /// As in a line: the word, then its reason.
    #[must_use]
    pub fn line(&self) -> (&'static str, &str) {
        match self {
            Word::Exact => ("exact", ""),
            Word::Rescan => ("rescan", ""),
            Word::NotPromised(reason) => ("not-promised", reason),
            Word::Absent(reason) => ("absent", reason),
        }
    }

    fn of(word: &str, reason: &str) -> Option<Word> {
        Some(match word {
            "exact" => Word::Exact,
            "rescan" => Word::Rescan,
            "not-promised" => Word::NotPromised(reason.to_owned()),
            "absent" => Word::Absent(reason.to_owned()),
            _ => return None,
        })
    }
}

/// `CELL KERNEL BACK-END FILE-SYSTEM OPERATION WORD REASON`, one line per cell; `WRONG` if it cannot be on the page.
#[must_use]
pub fn line(column: &Column, outcome: &Outcome) -> String {
    let (word, detail) = match word(outcome) {
        Ok(word) => {
            let (word, reason) = word.line();
            (word, reason.to_owned())
        }
        Err(why) => ("WRONG", why),
    };
    let text = format!("CELL {column} {} {} {word} {detail}", outcome.fs.name(), outcome.op.id);
    text.trim_end().to_owned()
}

impl Page {
    /// The path of the page, from any directory of the workspace.
    #[must_use]
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernels-cells.md")
    }

    /// Reads the cells in the lines of a run; skips other lines.
    pub fn read_lines(&mut self, text: &str) {
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("CELL ") else { continue };
            let parts: Vec<&str> = rest.splitn(6, ' ').collect();
            let [kernel_text, back_end, fs, op, word, ..] = parts[..] else { continue };
            let reason = parts.get(5).copied().unwrap_or_default().trim();
            if let (Some(kernel), Some(fs), Some(word)) =
                (kernel(kernel_text), super::column_of(fs), Word::of(word, reason))
            {
                self.set(&Column { kernel, back_end: back_end.to_owned() }, fs, op, word);
            }
        }
    }

    /// Sets a cell.
    pub fn set(&mut self, column: &Column, fs: Kind, op: &str, word: Word) {
        self.cells.entry(column.clone()).or_default().insert((fs, op.to_owned()), word);
    }

    /// The word for a cell; `None` if the page has none.
    #[must_use]
    pub fn get(&self, column: &Column, fs: Kind, op: &str) -> Option<&Word> {
        self.cells.get(column)?.get(&(fs, op.to_owned()))
    }

    /// Whether the page has this kernel and back end.
    #[must_use]
    pub fn has(&self, column: &Column) -> bool {
        self.cells.contains_key(column)
    }

    /// Parses a page that `text` made.
    #[must_use]
    pub fn parse(text: &str) -> Page {
        let reason = |line: &str| {
            let (number, text) = line.split_once(". ")?;
            Some((number.parse().ok()?, text.to_owned()))
        };
        let reasons: BTreeMap<usize, String> = text.lines().filter_map(reason).collect();
        let mut page = Page::default();
        let mut fs = None;
        let mut columns: Vec<Option<Column>> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("## ") {
                fs = super::column_of(name);
                continue;
            }
            if let (Some(fs), Some((reason, ids))) = (fs, not_there(line)) {
                for (column, op) in columns.iter().flatten().flat_map(|column| ids.iter().map(move |op| (column, op))) {
                    page.set(column, fs, op, Word::Absent(reason.to_owned()));
                }
            }
            let (Some(fs), Some(line)) = (fs, line.strip_prefix("| ")) else { continue };
            let fields: Vec<&str> = line.trim_end_matches(" |").split(" | ").collect();
            let Some((first, rest)) = fields.split_first() else { continue };
            if *first == "operation" {
                let column = |text: &&str| {
                    let (number, back_end) = text.split_once(' ')?;
                    Some(Column { kernel: kernel(number)?, back_end: back_end.to_owned() })
                };
                columns = rest.iter().map(column).collect();
                continue;
            }
            let op = first.split(':').next().unwrap_or_default();
            for (column, text) in columns.iter().zip(rest) {
                let (sign, number) = text.split_at(text.len().min(1));
                let reason = number.parse().ok().and_then(|number: usize| reasons.get(&number)).cloned();
                let word = match (sign, reason) {
                    ("E", _) => Word::Exact,
                    ("R", _) => Word::Rescan,
                    ("N", Some(reason)) => Word::NotPromised(reason),
                    ("A", Some(reason)) => Word::Absent(reason),
                    _ => continue,
                };
                if let Some(column) = column {
                    page.set(column, fs, op, word);
                }
            }
        }
        page
    }

    /// The page.
    #[must_use]
    pub fn text(&self) -> String {
        let mut reasons: Vec<&str> = Vec::new();
        let mut out = String::from(HEAD);
        for fs in COLUMNS {
            let _ = write!(out, "\n## {}\n\n| operation |", fs.name());
            for column in self.cells.keys() {
                let _ = write!(out, " {column} |");
            }
            out.push_str("\n| --- |");
            out.push_str(&" --- |".repeat(self.cells.len()));
            out.push('\n');
            let is_absent = |word: Option<&Word>| matches!(word, None | Some(Word::Absent(_)));
            for op in ops::all() {
                if self.cells.keys().all(|column| is_absent(self.get(column, fs, op.id))) {
                    continue;
                }
                let _ = write!(out, "| {}: {} |", op.id, op.title);
                for column in self.cells.keys() {
                    let text = self.get(column, fs, op.id).map_or_else(String::new, |word| sign(word, &mut reasons));
                    let _ = write!(out, " {text} |");
                }
                out.push('\n');
            }
            out.push_str(&self.not_there(fs));
        }
        out.push_str("\n## Reasons\n\n");
        for (number, reason) in (1..).zip(&reasons) {
            let _ = writeln!(out, "{number}. {reason}");
        }
        out
    }

    /// The operations that no kernel has on `fs`, in one paragraph.
    fn not_there(&self, fs: Kind) -> String {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for op in ops::all() {
            let words: Vec<&Word> = self.cells.keys().filter_map(|column| self.get(column, fs, op.id)).collect();
            if let Some(Word::Absent(reason)) = words.first()
                && words.iter().all(|word| matches!(word, Word::Absent(_)))
            {
                groups.entry(reason).or_default().push(op.id);
            }
        }
        let mut out = String::new();
        for (reason, ids) in groups {
            let _ = writeln!(out, "\nNot there ({reason}): {}.", ids.join(", "));
        }
        out
    }
}

/// A paragraph of `Page::not_there`.
fn not_there(line: &str) -> Option<(&str, Vec<&str>)> {
    let (reason, ids) = line.strip_prefix("Not there (")?.split_once("): ")?;
    Some((reason, ids.trim_end_matches('.').split(", ").collect()))
}

fn sign<'a>(word: &'a Word, reasons: &mut Vec<&'a str>) -> String {
    let (letter, reason) = match word {
        Word::Exact => return "E".to_owned(),
        Word::Rescan => return "R".to_owned(),
        Word::NotPromised(reason) => ("N", reason),
        Word::Absent(reason) => ("A", reason),
    };
    let known = reasons.iter().position(|other| other == reason);
    let at = known.unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    format!("{letter}{}", at + 1)
}

const HEAD: &str = "\
# Kernels: every cell

What each way of changing a file is, on each kernel, back end and file system. [Kernels](kernels.md) is the summary.
`cargo xtask matrix` writes this page, and the matrix ([testing](testing.md)) holds it. Do not edit it by hand.

- **E**: captured exactly. The changed blocks are marked (or the range, or everything behind an offset), and the names and attributes.
- **R**: captured by a full re-read. The file is marked as changed anywhere, and is read whole.
- **N** and a number: not promised, for the reason of that number at the end.
- **A** and a number: that kernel or file system does not have the operation.
- An empty cell was not measured.

`overlay` has its upper layer on ext4, `overlay-xfs` on XFS, `overlay-volatile` on ext4 with the option `volatile`. btrfs is a
subvolume.
";
