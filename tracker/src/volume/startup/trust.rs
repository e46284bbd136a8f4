//! What must be compared with the source before a volume's catalog is trusted: a pure decision over facts. It does no I/O;
//! for an unknown fact it compares more.

use crate::volume::marks::compare::Compare;

/// How the boot in which the catalog was last in use relates to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The catalog was never in use: nothing was committed from it.
    First,
    Same,
    /// Another boot, or one of the two is unknown.
    Other,
}

impl Boot {
    /// `committed`: the catalog has a head, so it was in use in some boot, known or not.
    pub fn of(before: Option<&str>, now: Option<&str>, committed: bool) -> Boot {
        match (before, now) {
            (None, _) if !committed => Boot::First,
            (Some(before), Some(now)) if before == now => Boot::Same,
            _ => Boot::Other,
        }
    }
}

/// What is known when a volume starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartFacts {
    pub boot: Boot,
    /// The pins of the last process were intact: changes were marked without a gap.
    pub resumed: bool,
    /// The volume was registered for its marks before the first drain of this process.
    pub registered: bool,
    /// The volume took part in the run of capture just before this one. Otherwise its marks were drained for others, or its
    /// new files were not watched.
    pub in_order: bool,
    /// The first pass over the tree was once complete.
    pub baseline: bool,
    /// The catalog was rebuilt from the store.
    pub rebuilt: bool,
    /// Files were found by name, since their inode numbers were from another mount: they count as changed.
    pub renumbered: bool,
    /// What an earlier process had to compare and did not finish.
    pub unfinished: Compare,
}

/// What must be compared. Times prove nothing after another boot: on ext4 and xfs an overwrite, an fdatasync and a power
/// cut leave new data under the old ctime.
pub fn must_compare(facts: &StartFacts) -> Compare {
    let tracked = facts.resumed && facts.registered && facts.in_order;
    let compare = match facts.boot {
        _ if facts.rebuilt => Compare::Everything,
        Boot::First => Compare::Listings,
        Boot::Same if tracked && facts.baseline && !facts.renumbered => Compare::Nothing,
        Boot::Same => Compare::Listings,
        Boot::Other => Compare::Everything,
    };
    compare.max(facts.unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACKED: StartFacts = StartFacts {
        boot: Boot::Same,
        resumed: true,
        registered: true,
        in_order: true,
        baseline: true,
        rebuilt: false,
        renumbered: false,
        unfinished: Compare::Nothing,
    };

    #[test]
    fn what_is_compared_follows_from_the_facts() {
        let other = StartFacts { boot: Boot::Other, resumed: false, ..TRACKED };
        for (facts, compare) in [
            (TRACKED, Compare::Nothing),
            (StartFacts { resumed: false, ..TRACKED }, Compare::Listings),
            (StartFacts { registered: false, ..TRACKED }, Compare::Listings),
            (StartFacts { in_order: false, ..TRACKED }, Compare::Listings),
            (StartFacts { baseline: false, ..TRACKED }, Compare::Listings),
            (StartFacts { rebuilt: true, ..TRACKED }, Compare::Everything),
            (StartFacts { renumbered: true, ..TRACKED }, Compare::Listings),
            (StartFacts { unfinished: Compare::Listings, ..TRACKED }, Compare::Listings),
            (StartFacts { unfinished: Compare::Everything, ..TRACKED }, Compare::Everything),
            (other, Compare::Everything),
            (StartFacts { rebuilt: true, ..other }, Compare::Everything),
            // Parts of a baseline that was not completed are committed as well.
            (StartFacts { baseline: false, ..other }, Compare::Everything),
            (StartFacts { boot: Boot::First, baseline: false, in_order: false, ..other }, Compare::Listings),
        ] {
            assert_eq!(must_compare(&facts), compare, "{facts:?}");
        }
    }

    /// For all combinations: a worse fact never makes the comparison smaller.
    #[test]
    fn a_worse_fact_never_compares_less() {
        let bit = |bits: u32, n: u32| bits >> n & 1 == 1;
        for bits in 0..1 << 6 {
            for boot in [Boot::Same, Boot::Other] {
                let facts = StartFacts {
                    boot,
                    resumed: bit(bits, 0),
                    registered: bit(bits, 1),
                    in_order: bit(bits, 2),
                    baseline: bit(bits, 3),
                    rebuilt: bit(bits, 4),
                    renumbered: bit(bits, 5),
                    unfinished: Compare::Nothing,
                };
                for worse in [
                    StartFacts { boot: Boot::Other, ..facts },
                    StartFacts { resumed: false, ..facts },
                    StartFacts { registered: false, ..facts },
                    StartFacts { in_order: false, ..facts },
                    StartFacts { baseline: false, ..facts },
                    StartFacts { rebuilt: true, ..facts },
                    StartFacts { renumbered: true, ..facts },
                    StartFacts { unfinished: Compare::Listings, ..facts },
                    StartFacts { unfinished: Compare::Everything, ..facts },
                ] {
                    assert!(must_compare(&worse) >= must_compare(&facts), "{worse:?} against {facts:?}");
                }
            }
        }
    }

    #[test]
    fn words_are_read_back_and_others_are_everything() {
        for compare in [Compare::Nothing, Compare::Listings, Compare::Everything] {
            assert_eq!(Compare::of_word(Some(compare.word())), compare);
        }
        assert_eq!(Compare::of_word(None), Compare::Nothing);
        assert_eq!(Compare::of_word(Some("")), Compare::Everything);
    }

    #[test]
    fn an_unknown_boot_is_another_one() {
        assert_eq!(Boot::of(Some("a"), Some("a"), true), Boot::Same);
        assert_eq!(Boot::of(Some("a"), Some("b"), true), Boot::Other);
        assert_eq!(Boot::of(Some("a"), None, true), Boot::Other);
        assert_eq!(Boot::of(Some("a"), None, false), Boot::Other);
        assert_eq!(Boot::of(None, None, true), Boot::Other);
        assert_eq!(Boot::of(None, Some("a"), true), Boot::Other);
        assert_eq!(Boot::of(None, Some("a"), false), Boot::First);
    }
}
