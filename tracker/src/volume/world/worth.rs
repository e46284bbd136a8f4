//! How often writers are paused where that does not help.

/// Who is paused in vain is left in peace for a while: for 1, 3, 7, .. searches, up to this many doublings.
const DOUBLINGS: u32 = 6;

/// Whether a pause is worth it, after how the last ones went.
#[derive(Debug, Default)]
pub(super) struct Worth {
    in_vain: u32,
    left_out: u32,
}

impl Worth {
    /// Called once for each pause that is wanted.
    pub(super) fn is_worth_it(&mut self) -> bool {
        let waits = self.left_out > 0;
        self.left_out = self.left_out.saturating_sub(1);
        !waits
    }

    pub(super) fn ended(&mut self, in_vain: bool) {
        self.in_vain = if in_vain { (self.in_vain + 1).min(DOUBLINGS) } else { 0 };
        self.left_out = (1 << self.in_vain) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_paused_in_vain_is_left_in_peace_for_longer_and_longer() {
        let mut worth = Worth::default();
        let mut left_out = |in_vain| {
            worth.ended(in_vain);
            (0..1000).take_while(|_| !worth.is_worth_it()).count()
        };
        assert_eq!([true; 8].map(&mut left_out), [1, 3, 7, 15, 31, 63, 63, 63]);
        assert_eq!([left_out(false), left_out(true)], [0, 1], "one that was worth it ends that");
    }
}
