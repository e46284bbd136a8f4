//! Prototypes of kernel functions in BTF.

use super::btf::{Btf, kind};

impl Btf {
    /// For each parameter of the function `name` of this blob, the name of the struct it points to, or `None` if it points
    /// to none. No result if there is no such function, or there are several that disagree.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Vec<Option<String>>> {
        let mut found: Option<Vec<Option<String>>> = None;
        for entry in self.named(name.as_bytes(), &[kind::FUNC]) {
            let (owner, prototype) = self.entry(entry.size_or_type)?;
            if prototype.kind != kind::FUNC_PROTO {
                return None;
            }
            let parameter = |at: usize| Some(self.pointee(owner.word(prototype.body + at * 8 + 4).ok()?));
            let parameters = (0..prototype.count as usize).map(parameter).collect::<Option<Vec<_>>>()?;
            if found.as_ref().is_some_and(|before| *before != parameters) {
                return None;
            }
            found = Some(parameters);
        }
        found
    }

    /// Name of the struct behind a pointer type.
    fn pointee(&self, id: u32) -> Option<String> {
        const QUALIFIERS: [u32; 5] = [kind::TYPEDEF, kind::VOLATILE, kind::CONST, kind::RESTRICT, kind::TYPE_TAG];
        let mut id = id;
        let mut pointer = false;
        for _ in 0..16 {
            let (owner, entry) = self.entry(id)?;
            match entry.kind {
                kind::PTR if !pointer => pointer = true,
                kind::STRUCT | kind::FWD if pointer => {
                    return String::from_utf8(owner.string(entry.name).to_vec()).ok();
                }
                other if QUALIFIERS.contains(&other) => {}
                _ => return None,
            }
            id = entry.size_or_type;
        }
        None
    }
}
