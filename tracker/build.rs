//! Embeds the eBPF object if one was built. Without it the crate still builds, and capture reports that it is missing.

use std::{env, fs, path::PathBuf};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let object = manifest.join("../target/ebpf/bpfel-unknown-none/release/tracker-ebpf");
    // An empty stand-in: if the file were missing, cargo would run this script (and rebuild the crate) every time. The real
    // build replaces it. If it cannot be created, that only costs time.
    if !object.exists()
        && let Some(directory) = object.parent()
        && fs::create_dir_all(directory).is_ok()
    {
        let _ = fs::write(&object, []);
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let source = if bytes.is_empty() {
        "static EMBEDDED: Option<&Aligned<[u8]>> = None;\n".to_owned()
    } else {
        fs::write(out.join("object.bin"), &bytes).expect("the output directory is writable");
        "static EMBEDDED: Option<&Aligned<[u8]>> = Some(&Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/object.bin\"))));\n"
            .to_owned()
    };
    fs::write(out.join("object.rs"), source).expect("the output directory is writable");
}
