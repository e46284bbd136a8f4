//! What was true of a tree after each of many numbered changes, and whether another tree is what it was after one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::ops::RangeInclusive;

/// What is so of a tree: `PATH|FACT` and its value. What is not there is not so.
pub type Facts = BTreeMap<String, u64>;

/// Facts that a fault names.
const NAMED: usize = 12;

/// The facts of a tree from change to change.
#[derive(Debug, Default)]
pub struct History {
    now: Facts,
    /// From which change on a fact had which value; ascending.
    values: BTreeMap<String, Vec<(u64, Option<u64>)>>,
    /// What each change did; the first is change 1.
    calls: Vec<String>,
}

impl History {
    /// Begins the next change, and returns its number. What is put before the first one was there at the beginning.
    pub fn begin(&mut self, call: impl Display) -> u64 {
        self.calls.push(call.to_string());
        self.number()
    }

    /// The last change.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.calls.len() as u64
    }

    /// The value of a fact now.
    #[must_use]
    pub fn get(&self, path: &str, fact: impl Display) -> Option<u64> {
        self.now.get(&format!("{path}|{fact}")).copied()
    }

    /// A fact changes with this change.
    pub fn put(&mut self, path: &str, fact: impl Display, value: u64) {
        self.set(format!("{path}|{fact}"), Some(value));
    }

    /// Facts of this one path end, those of paths below it do not.
    pub fn forget(&mut self, path: &str, fact: impl Display) {
        self.set(format!("{path}|{fact}"), None);
    }

    /// All facts of a path and what is below it end.
    pub fn remove(&mut self, path: &str) {
        for (key, _) in self.of(path) {
            self.set(key, None);
        }
    }

    /// A path, and what is below it, has the facts of another one too.
    pub fn copy(&mut self, from: &str, to: &str) {
        for (key, value) in self.of(from) {
            self.set(format!("{to}{}", &key[from.len()..]), Some(value));
        }
    }

    /// A path takes the place of another one.
    pub fn rename(&mut self, from: &str, to: &str) {
        self.remove(to);
        self.copy(from, to);
        self.remove(from);
    }

    /// Two paths change places.
    pub fn exchange(&mut self, one: &str, other: &str) {
        let (first, second) = (self.of(one), self.of(other));
        self.remove(one);
        self.remove(other);
        for (from, to, facts) in [(one, other, first), (other, one, second)] {
            for (key, value) in facts {
                self.set(format!("{to}{}", &key[from.len()..]), Some(value));
            }
        }
    }

    fn of(&self, path: &str) -> Vec<(String, u64)> {
        let all = self.now.range(path.to_owned()..).take_while(|(key, _)| key.starts_with(path));
        let own = all.filter(|(key, _)| matches!(key.as_bytes().get(path.len()), Some(b'|' | b'/')));
        own.map(|(key, value)| (key.clone(), *value)).collect()
    }

    fn set(&mut self, key: String, value: Option<u64>) {
        let at = self.number();
        match value {
            Some(value) => _ = self.now.insert(key.clone(), value),
            None => _ = self.now.remove(&key),
        }
        let values = self.values.entry(key).or_default();
        // One change may set a fact twice.
        if values.last().is_some_and(|(last, _)| *last == at) {
            values.pop();
        }
        if values.last().and_then(|(_, value)| *value) != value {
            values.push((at, value));
        }
    }

    /// The changes after which a fact had this value: ranges without their ends.
    fn ranges(&self, key: &str, value: Option<u64>) -> Vec<(u64, u64)> {
        let empty = Vec::new();
        let values = self.values.get(key).unwrap_or(&empty);
        let begins = std::iter::once((0, None)).chain(values.iter().copied());
        let ends = values.iter().map(|(at, _)| *at).chain(std::iter::once(self.number() + 1));
        let ranges = begins.zip(ends).filter(|((from, had), to)| *had == value && from < to);
        ranges.map(|((from, _), to)| (from, to)).collect()
    }

    /// The changes after exactly which the tree was so.
    ///
    /// # Errors
    /// If there is none: which facts are of which changes.
    pub fn check(&self, seen: &Facts) -> Result<RangeInclusive<u64>, String> {
        let keys: BTreeSet<&String> = self.values.keys().chain(seen.keys()).collect();
        let mut steps: BTreeMap<u64, i64> = BTreeMap::new();
        for key in &keys {
            for (from, to) in self.ranges(key, seen.get(*key).copied()) {
                *steps.entry(from).or_default() += 1;
                *steps.entry(to).or_default() -= 1;
            }
        }
        let (mut holds, mut best, mut best_at, mut last) = (0, -1, 0, 0);
        let mut until = steps.keys().skip(1).copied().chain(std::iter::once(self.number() + 1));
        for (at, change) in &steps {
            holds += change;
            let end = until.next().unwrap_or(*at + 1) - 1;
            if holds > best {
                (best, best_at) = (holds, *at);
            }
            if holds == best {
                last = end.min(self.number());
            }
        }
        if best == keys.len() as i64 { Ok(best_at..=last) } else { Err(self.fault(seen, &keys, best_at)) }
    }

    /// What of `seen` is not as it was after change `at`, which fits best.
    fn fault(&self, seen: &Facts, keys: &BTreeSet<&String>, at: u64) -> String {
        let mut text = format!("no change of {} fits; after {at}, which fits best:", self.number());
        let wrong: Vec<&&String> = keys.iter().filter(|key| !self.has(key, seen.get(**key).copied(), at)).collect();
        let mut calls = BTreeSet::new();
        for key in wrong.iter().take(NAMED) {
            let value = seen.get(**key).copied();
            let ranges = self.ranges(key, value);
            let of: Vec<String> = ranges.iter().rev().take(3).map(|(from, to)| format!("{from}..{to}")).collect();
            calls.extend(ranges.iter().rev().take(1).flat_map(|(from, to)| [*from, *to]));
            let _ = write!(text, "\n  {key} is {value:?}, which it was after {}", of.join(" and "));
        }
        let _ = write!(text, "\n  ({} facts in all)", wrong.len());
        calls.insert(at);
        for number in calls.into_iter().filter(|number| *number > 0) {
            let call = self.calls.get(number as usize - 1).map_or("none yet", String::as_str);
            let _ = write!(text, "\n  change {number}: {call}");
        }
        text
    }

    fn has(&self, key: &str, value: Option<u64>, at: u64) -> bool {
        self.ranges(key, value).iter().any(|(from, to)| (*from..*to).contains(&at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1: a is 1. 2: b is 2. 3: a becomes c. 4: a new a is 4. 5: b ends.
    fn history() -> (History, Vec<Facts>) {
        let mut history = History::default();
        history.put("d", "kind", 1);
        let mut states = vec![history.now.clone()];
        let steps: [fn(&mut History, u64); 5] = [
            |history, n| history.put("a", 0, n),
            |history, n| history.put("b", 0, n),
            |history, _| history.rename("a", "c"),
            |history, n| history.put("a", 0, n),
            |history, _| history.remove("b"),
        ];
        for step in steps {
            let number = history.begin("step");
            step(&mut history, number);
            states.push(history.now.clone());
        }
        (history, states)
    }

    #[test]
    fn every_prefix_is_found_and_nothing_else_passes() {
        let (history, states) = history();
        for (n, state) in (0..).zip(&states) {
            assert_eq!(history.check(state), Ok(n..=n), "{state:?}");
        }
        // The second change without the first, the fifth without the fourth, one that never was, and one that is torn.
        let mut wrong = vec![states[2].clone(), states[5].clone(), states[5].clone(), states[1].clone()];
        wrong[0].remove("a|0");
        wrong[1].remove("a|0");
        wrong[2].insert("e|0".into(), 9);
        wrong[3].insert("a|0".into(), u64::MAX);
        for state in wrong {
            assert!(history.check(&state).is_err(), "{state:?}");
        }
        let fault = history.check(&Facts::default()).expect_err("the directory was always there");
        assert!(fault.contains("d|kind is None"), "{fault}");
    }

    #[test]
    fn what_leaves_no_trace_leaves_a_range() {
        let mut history = History::default();
        for _ in 0..3 {
            history.begin("nothing is to be seen of it");
        }
        history.put("a", 0, 3);
        assert_eq!(history.check(&Facts::default()), Ok(0..=2));
    }

    #[test]
    fn paths_move_with_what_is_below_them() {
        let mut history = History::default();
        for path in ["d", "d/a", "dd", "e"] {
            history.put(path, "kind", 1);
        }
        history.begin("rename");
        history.rename("d", "f");
        assert_eq!(history.now.keys().collect::<Vec<_>>(), ["dd|kind", "e|kind", "f/a|kind", "f|kind"]);
        history.put("e", 0, 7);
        history.exchange("e", "f");
        assert_eq!(history.now.keys().collect::<Vec<_>>(), ["dd|kind", "e/a|kind", "e|kind", "f|0", "f|kind"]);
    }
}
