//! What a volume does when another directory is at its source's path, and what an operator allows for one start.

use serde::{Deserialize, Serialize};

/// What follows if another directory than before is at a source's path (removed and created again, restored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Replaced {
    /// The volume stops with exit code 22, until a person allows the new directory or names another volume.
    #[default]
    Stop,
    /// The new directory is compared with the newest commit, by name and content, and the history goes on.
    Adopt,
}

/// What an operator allows once. The first start that succeeds uses it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// Another directory at the source's path is accepted: it is compared with the newest commit.
    pub source: bool,
    /// The store may have another address, if it holds the same volume at the same commit.
    pub store: bool,
}

impl Allow {
    /// Everything that either allows.
    #[must_use]
    pub fn or(self, other: Allow) -> Allow {
        Allow { source: self.source || other.source, store: self.store || other.store }
    }

    /// The words for a note in the catalog.
    pub fn words(self) -> String {
        let words = [(self.source, "source"), (self.store, "store")];
        words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    }

    /// Parses a note. An unknown word allows nothing.
    pub fn of_words(text: &str) -> Allow {
        let has = |wanted: &str| text.split(' ').any(|word| word == wanted);
        Allow { source: has("source"), store: has("store") }
    }
}

#[cfg(test)]
mod tests {
    use super::Allow;

    #[test]
    fn what_is_allowed_is_read_back_from_its_note() {
        for allow in [(false, false), (true, false), (false, true), (true, true)] {
            let allow = Allow { source: allow.0, store: allow.1 };
            assert_eq!(Allow::of_words(&allow.words()), allow);
        }
        assert_eq!(Allow::of_words("everything sources"), Allow::default());
    }
}
