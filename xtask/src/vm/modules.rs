//! Which kernel modules a guest loads, and in which order. Pure: the text of depmod's `modules.dep` in, paths out.

use std::collections::BTreeMap;

/// Loaded by every guest: what its root is made of, and loop devices. Other file systems are loaded by their first mount, from
/// the kernel's tree.
pub(super) const WANTED: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "loop"];

/// Loaded by a guest that has disks: what is on them is known, and a mount would unpack the module and check its signature in
/// translated code. The checksum is not among what they are said to need: they ask for it by its name.
pub(super) const DISKS: [&str; 5] = ["virtio_blk", "crc32c_intel", "ext4", "xfs", "btrfs"];

/// Ends a module that is signed; before it stand twelve bytes, of which the last four are the signature's length, and before
/// them the signature.
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// A module without its signature, whose check takes translated code most of a second. No kernel of ours insists on one.
pub(super) fn unsigned(mut module: Vec<u8>) -> Vec<u8> {
    let Some((length, rest)) = module.strip_suffix(SIGNED).and_then(|signed| {
        let (rest, length) = signed.split_last_chunk::<4>()?;
        Some((u32::from_be_bytes(*length) as usize, rest.len()))
    }) else {
        return module;
    };
    if let Some(end) = rest.checked_sub(8 + length) {
        module.truncate(end);
    }
    module
}

/// Module files by name, and for each those it needs.
#[derive(Debug)]
pub(super) struct Modules {
    needs: BTreeMap<String, (String, Vec<String>)>,
    built_in: Vec<String>,
}

impl Modules {
    /// From `modules.dep` (`path: path path..`) and `modules.builtin` (`path` a line).
    pub(super) fn parse(dependencies: &str, built_in: &str) -> Self {
        let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
        let entry = |(path, needs): (&str, &str)| {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (name(path), (path.to_owned(), needs))
        };
        Self { needs: lines.map(entry).collect(), built_in: built_in.lines().map(name).collect() }
    }

    /// Paths of `wanted` and of all they need, each once, in an order in which they can be loaded. What is built into the
    /// kernel is left out; an error names what the kernel does not have at all.
    pub(super) fn load_order(&self, wanted: &[&str]) -> Result<Vec<String>, String> {
        let mut order: Vec<String> = Vec::new();
        for module in wanted {
            match self.needs.get(*module) {
                // depmod lists all that a module needs, direct or not: what has to be loaded first stands last.
                Some((path, needs)) => {
                    for file in needs.iter().rev().chain([path]) {
                        if !order.contains(file) {
                            order.push(file.clone());
                        }
                    }
                }
                None if self.built_in.iter().any(|name| name == module) => {}
                None => return Err((*module).to_owned()),
            }
        }
        Ok(order)
    }
}

/// The name of the module in a file: `kernel/fs/a-b.ko.xz` is `a_b`.
fn name(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::{Modules, SIGNED, unsigned};

    const DEPENDENCIES: &str = "\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet-virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/lib/crc16.ko.xz:
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let modules = Modules::parse(DEPENDENCIES, "kernel/drivers/virtio/virtio_pci.ko\n");
        let order = modules.load_order(&["virtio_pci", "9pnet_virtio", "9p", "ext4"]).expect("all are there");
        let names: Vec<String> = order.iter().map(|path| super::name(path)).collect();
        assert_eq!(names, ["9pnet", "9pnet_virtio", "netfs", "9p", "jbd2", "mbcache", "crc16", "ext4"]);
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let signed = [b"module+", &b"signature"[..], &[0; 8], &9u32.to_be_bytes(), SIGNED].concat();
        assert_eq!(unsigned(signed), b"module+");
        let longer_than_all = [b"module", &[0; 8][..], &900u32.to_be_bytes(), SIGNED].concat();
        for module in [&b""[..], b"module", SIGNED, &longer_than_all] {
            assert_eq!(unsigned(module.to_vec()), module);
        }
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let modules = Modules::parse(DEPENDENCIES, "");
        assert_eq!(modules.load_order(&["ext4", "xfs"]), Err("xfs".to_owned()));
    }
}
