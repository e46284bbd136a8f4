//! The prefix oracle: changes that are numbered in one order, and whether a tree is what the source was after exactly the first
//! n of them. It uses nothing of the product.
//!
//! ```text
//! writers  one lock around each change, the number taken inside it  ->  history: what each fact was from which change on
//! tree     facts of a restored directory: names, sizes, slots, ..   ->  one n at which all of them were so, or a fault
//! chains   unlocked: n into the first file, then n into the second  ->  the second is never ahead, nor behind by two
//! ```

pub mod chains;
pub mod changes;
pub mod history;
pub mod load;
pub mod tree;
