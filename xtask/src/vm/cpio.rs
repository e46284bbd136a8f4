//! Writer of the archive that a kernel unpacks as its first file system: cpio in the form `newc`, uncompressed. Pure:
//! names and bytes in, one archive out.

/// The mark of the form `newc` without checksums.
const MAGIC: &str = "070701";
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive in the making. Directories have to be added before what lies in them: the kernel makes no parents.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, 2, &[]);
    }

    /// A file that can be executed; nothing reads the modes of the others here.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, 1, content);
    }

    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, LINK, 1, target.as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, 1, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) {
        // The number of an inode: only hard links would share one.
        let number = if mode == 0 { 0 } else { self.entries + 1 };
        self.entries += 1;
        // Sizes of an initramfs are far below the 4 GiB of the form; a larger one would be cut, and no kernel boots it.
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        let fields = [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Heads and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    /// The entries of an archive, by a reader written from the form's description: (name, mode, content).
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let (mut at, mut entries) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = at + 110;
            let content = (name + name_size).next_multiple_of(4);
            assert_eq!(bytes[name + name_size - 1], 0);
            let text = String::from_utf8(bytes[name..name + name_size - 1].to_vec()).unwrap();
            at = (content + size).next_multiple_of(4);
            if text == "TRAILER!!!" {
                assert_eq!(at, bytes.len());
                return entries;
            }
            entries.push((text, mode, bytes[content..content + size].to_vec()));
        }
    }

    #[test]
    fn an_archive_is_read_back_entry_by_entry() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/a", b"12345");
        archive.link("bin/sh", "a");
        archive.file("empty", b"");
        let entries = read(&archive.finish());
        let expected = [
            ("bin", 0o040_755, &b""[..]),
            ("bin/a", 0o100_755, b"12345"),
            ("bin/sh", 0o120_777, b"a"),
            ("empty", 0o100_755, b""),
        ];
        assert_eq!(entries.len(), expected.len());
        for ((name, mode, content), entry) in expected.iter().zip(&entries) {
            assert_eq!((*name, *mode, *content), (entry.0.as_str(), entry.1, entry.2.as_slice()));
        }
    }
}
