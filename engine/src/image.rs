//! Planning of one file's new content: what is uploaded, what is copied, and what the catalog keeps of it.
//!
//! [`plan_in_place`] takes the marked blocks of a file whose committed image is known by its nodes. [`WholePlanner`] takes
//! all of a file in order. For the same content both produce the same image, nodes and signatures. Nothing here reads a
//! file: callers pass in the bytes, and get back the steps, nodes and signatures to store with the commit.

mod error;
mod in_place;
mod whole;

pub use error::ImageError;
pub use in_place::{BlockData, Plan, plan_in_place};
pub use whole::{Base, WholePlan, WholePlanner};

#[cfg(test)]
mod tests;
