//! What a guest whose power will be cut runs at each boot; started by `cargo xtask powercut` and nobody else, since it mounts and
//! writes to the disks that it finds. What it does is in the library's `powercut`.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    tests::powercut::main(&args);
}
