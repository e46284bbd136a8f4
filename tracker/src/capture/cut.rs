//! Reduces BTF to the few types that capture looks for, for test data and for bug reports from unknown kernels.

use std::collections::HashMap;

use common::{
    fields::{FIELDS, Kind},
    functions::FUNCTIONS,
    hooks::HOOKS,
};

use super::{
    btf::{Btf, BtfError, Entry, kind},
    layout::KernelTypes,
};

/// Builds one blob with the structs, enums, tracepoint names and function prototypes of `types` that capture looks for.
/// Members keep names and offsets. Their types are kept only if they are anonymous structs or unions, and are void
/// otherwise.
///
/// # Errors
/// When the input is malformed.
pub fn cut(types: &KernelTypes) -> Result<Vec<u8>, BtfError> {
    let mut writer = Writer::default();
    for field in FIELDS {
        let (kinds, name) = match field.kind {
            Kind::Offset => ([kind::STRUCT, kind::UNION], field.container),
            Kind::Constant => ([kind::ENUM, kind::ENUM], field.container),
        };
        if !writer.done.insert(name.to_owned()) {
            continue;
        }
        for btf in types.blobs() {
            for entry in btf.named(name.as_bytes(), &kinds) {
                writer.aggregate(btf, entry, 0)?;
            }
        }
    }
    for hook in HOOKS {
        if types.has_tracepoint(hook.tracepoint) {
            let name = writer.string(format!("btf_trace_{}", hook.tracepoint).as_bytes());
            writer.record([name, kind::TYPEDEF << 24, 0], &[]);
        }
    }
    for function in FUNCTIONS {
        if writer.done.insert(format!("{}()", function.name))
            && let Some(parameters) = types.function(function.name)
        {
            writer.function(function.name, &parameters);
        }
    }
    Ok(writer.finish())
}

#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    count: u32,
    strings: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
    done: std::collections::HashSet<String>,
}

impl Writer {
    fn string(&mut self, name: &[u8]) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        if let Some(&at) = self.known.get(name) {
            return at;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name);
        self.strings.push(0);
        self.known.insert(name.to_owned(), at);
        at
    }

    /// Appends a type and returns its id.
    fn record(&mut self, head: [u32; 3], body: &[u32]) -> u32 {
        for word in head.iter().chain(body) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    /// Copies a struct, union or enum, its anonymous members first.
    fn aggregate(&mut self, btf: &Btf, entry: Entry, depth: u32) -> Result<u32, BtfError> {
        let mut body = Vec::new();
        for index in 0..entry.count as usize {
            if entry.kind == kind::ENUM {
                let at = entry.body + index * 8;
                let name = self.string(btf.string(btf.word(at)?));
                body.extend([name, btf.word(at + 4)?]);
                continue;
            }
            let at = entry.body + index * 12;
            let name = btf.string(btf.word(at)?).to_owned();
            let inner = if name.is_empty() && depth < 16 { btf.aggregate(btf.word(at + 4)?) } else { None };
            let of = match inner {
                Some((owner, inner)) => self.aggregate(owner, inner, depth + 1)?,
                None => 0,
            };
            let name = self.string(&name);
            body.extend([name, of, btf.word(at + 8)?]);
        }
        let name = self.string(btf.string(entry.name));
        let info = u32::from(entry.flagged) << 31 | entry.kind << 24 | entry.count;
        Ok(self.record([name, info, entry.size_or_type], &body))
    }

    /// Writes a function whose parameters are pointers to structs of these names, or anything else.
    fn function(&mut self, name: &str, parameters: &[Option<String>]) {
        let mut body = Vec::new();
        for parameter in parameters {
            let of = parameter.as_ref().map(|of| {
                let of = self.string(of.as_bytes());
                let forward = self.record([of, kind::FWD << 24, 0], &[]);
                self.record([0, kind::PTR << 24, forward], &[])
            });
            body.extend([0, of.unwrap_or(0)]);
        }
        let prototype = self.record([0, kind::FUNC_PROTO << 24 | parameters.len() as u32, 0], &body);
        let name = self.string(name.as_bytes());
        self.record([name, kind::FUNC << 24, prototype], &[]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.string(b"");
        let mut out = Vec::new();
        out.extend_from_slice(&0xeb9fu16.to_le_bytes());
        out.extend_from_slice(&[1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend(self.types);
        out.extend(self.strings);
        out
    }
}
