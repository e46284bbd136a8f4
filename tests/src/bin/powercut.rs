//! Runs in a guest whose power will be cut, at each boot. Only `cargo xtask powercut` starts it, since it mounts and writes
//! to the disks that it finds. The library's `powercut` has the code.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    tests::powercut::main(&args);
}
