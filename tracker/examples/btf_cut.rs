//! Writes the part of a kernel's BTF that capture reads, as the test data in `testdata/btf`.
//!
//! `btf_cut OUT` uses the running kernel; `btf_cut OUT RELEASE VMLINUX [MODULE...]` uses raw BTF blobs of another one.

use std::{env, error::Error, fs, path::Path};

use tracker::capture::{
    cut::cut,
    layout::{KernelTypes, Layout},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (out, types) = match arguments.as_slice() {
        [out] => (out, KernelTypes::running()?),
        [out, release, vmlinux, modules @ ..] => {
            let modules = modules.iter().map(|path| Ok((path.as_str(), fs::read(path)?)));
            let modules = modules.collect::<Result<Vec<_>, std::io::Error>>()?;
            (out, KernelTypes::from_blobs(release.clone(), fs::read(vmlinux)?, modules)?)
        }
        _ => return Err("usage: btf_cut OUT [RELEASE VMLINUX [MODULE...]]".into()),
    };
    let bytes = cut(&types)?;
    println!("{}: {} bytes, {:?}", Path::new(out).display(), bytes.len(), Layout::resolve(&types));
    Ok(fs::write(out, bytes)?)
}
