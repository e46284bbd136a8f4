//! Which seeds are run: the only place where the engine reads its environment, and only in its tests.

/// Seeds of the ordinary tests. `TRACKER_SIM_SEEDS` sets another number.
const SEEDS: u64 = 1000;

pub(super) fn seeds() -> u64 {
    std::env::var("TRACKER_SIM_SEEDS").ok().map_or(SEEDS, |text| text.parse().expect("TRACKER_SIM_SEEDS is a number"))
}

/// The seed that `TRACKER_SIM_SEED` names, else the first one.
pub(super) fn one_seed() -> u64 {
    std::env::var("TRACKER_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}
