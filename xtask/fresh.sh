#!/usr/bin/env bash
# `cargo xtask fresh [--full]`: proves the README on a machine that has nothing. A minimal Debian tree gets a copy of the Rust
# toolchain and a clone of this repository; inside it the README's commands run, then the tests (--full: the whole gate). Only
# committed work is tested.
#
# Everything happens in a mount namespace of its own, so that every mount vanishes with the process, however it ends. The tree
# stays in target/fresh for looking into; the next run replaces it.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
release=bookworm                # the release the project is developed on
tree=$repository/target/fresh/tree
clone=/srv/tracker              # seen from inside, as the home
home=/home/fresh

fail() { printf 'fresh: %s\n' "$1" >&2; exit 1; }
step() { printf '== fresh: %s (after %s s)\n' "$1" "$SECONDS"; }

[ "$(id -u)" = 0 ] || fail 'needs root, as it mounts and changes the root directory: sudo -E env PATH=$PATH cargo xtask fresh'
for program in debootstrap unshare chroot git tar; do
    command -v "$program" >/dev/null || fail "no $program: cargo xtask setup"
done
# Private: a mount made inside is not seen outside, and an unmount inside takes nothing away outside.
[ "${FRESH_INSIDE-}" ] || FRESH_INSIDE=1 exec unshare --mount --propagation private -- bash "$0" "$@"

# Variables of the host that say how to reach registries.
variables() {
    env | grep -iE '^([a-z]+_proxy|CARGO_(HTTP|NET|REGISTR|SOURCE)[A-Z_]*|CURL_CA_BUNDLE|GIT_SSL_[A-Z_]*|PIP_[A-Z_]*|REQUESTS_CA_BUNDLE|SSL_CERT_[A-Z]*)=' || true
}

# A command line that runs in the clone, inside the tree, as root of a machine with this network. exec: a signal reaches the
# program itself.
inside() {
    mapfile -t network < <(variables)
    exec chroot "$tree" /usr/bin/env -i LANG=C.UTF-8 TERM=dumb HOME=$home "${network[@]}" \
        PATH=$home/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd $clone && $1"
}

# Links are followed: their targets may lie outside of what is copied.
copy_same_place() {
    mkdir -p "$(dirname "$tree$1")"
    cp -rL --preserve=mode --remove-destination -T "$1" "$tree$1"
}

step 'base system'
archive=$repository/target/fresh/base-$release.tar
# The tree of an earlier run holds no mounts: those died with that run's namespace.
rm -rf --one-file-system "$tree"
mkdir -p "$tree"
if [ -f "$archive" ]; then
    tar -C "$tree" -xf "$archive"
else
    # Without a mirror of its own the host uses debootstrap's default.
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk -v release=$release '$2 == release { print $1; exit }')
    debootstrap --variant=minbase --include=build-essential,ca-certificates,git $release "$tree" ${mirror:+"$mirror"}
    tar -C "$tree" -cf "$archive.part" .
    mv "$archive.part" "$archive"
fi

step 'configuration of the host'
for path in /etc/apt/{apt.conf,apt.conf.d,auth.conf,auth.conf.d,keyrings,sources.list,sources.list.d,trusted.gpg.d} \
    /etc/{hosts,pip.conf,resolv.conf,ssl/certs} /usr/local/share/ca-certificates /usr/share/keyrings; do
    [ ! -e "$path" ] || copy_same_place "$path"
done
while IFS== read -r _ value; do
    [[ $value != /* || ! -f $value ]] || copy_same_place "$value"
done < <(variables)
# Packages must not start their servers: the tree has no init, and shares the host's network.
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"

step 'Rust toolchain'
# The active one and rustup itself, but no program that `cargo install` put beside them.
cargo_home=${CARGO_HOME-$HOME/.cargo} rustup_home=${RUSTUP_HOME-$HOME/.rustup}
sysroot=$(rustc --print sysroot)
[[ $sysroot == "$rustup_home"/* ]] || fail "$sysroot is no toolchain of rustup: install rustup"
toolchain=$(basename "$sysroot")
mkdir -p "$tree$home/.rustup/toolchains" "$tree$home/.cargo/bin"
cp -aT "$sysroot" "$tree$home/.rustup/toolchains/$toolchain"
printf 'version = "12"\ndefault_toolchain = "%s"\nprofile = "minimal"\n' "$toolchain" >"$tree$home/.rustup/settings.toml"
for program in cargo cargo-clippy cargo-fmt clippy-driver rustc rustdoc rustfmt rustup; do
    cp -aT "$cargo_home/bin/$program" "$tree$home/.cargo/bin/$program"
done
# Configuration says which registry to use; the cache spares it.
for part in config.toml registry/cache registry/index; do
    [ -e "$cargo_home/$part" ] || continue
    mkdir -p "$(dirname "$tree$home/.cargo/$part")"
    cp -aT "$cargo_home/$part" "$tree$home/.cargo/$part"
done

step clone
# What is not committed is none of a new user's business.
git clone -q --no-hardlinks "$repository" "$tree$clone"

step mounts
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount --bind /sys "$tree/sys"
mount --rbind /sys/fs/cgroup "$tree/sys/fs/cgroup"
# A new instance: pins made inside vanish with the namespace.
mount -t bpf bpf "$tree/sys/fs/bpf"
mount -t tracefs tracefs "$tree/sys/kernel/tracing"

step 'README commands'
# A few of each kind of thing that a directory holds.
(inside 'mkdir -p data/sub/deep && head -c 300000 /dev/urandom >data/big && echo hello >data/sub/small && ln data/big data/sub/hard &&
    ln -s ../big data/sub/soft && truncate -s 1M data/sub/deep/hole && chmod 640 data/sub/small && touch data/empty')
# The first command builds everything from source.
coproc PROTECT { inside 'exec cargo xtask run -- protect ./data --store ./backup'; }
protect=$PROTECT_PID
trap 'kill -KILL "$protect" 2>/dev/null || true' EXIT
exec 3<&"${PROTECT[0]}"
until read -r -t 60 line <&3 && [[ $line == ready || $line == "ready "* ]]; do
    kill -0 "$protect" 2>/dev/null || fail 'protect ended without the line `ready`'
    [ "$SECONDS" -lt 3600 ] || fail 'protect did not say `ready` within an hour'
done
cat <&3 &
step 'a change, sync, restore, comparison'
(inside 'printf changed | dd of=data/big bs=1 seek=100000 conv=notrunc status=none && echo new >data/sub/new &&
    mv data/sub/small data/sub/moved')
(inside 'target/release/tracker sync --wait && target/release/tracker restore ./backup/data ./restored')
[ -f "$tree$clone/restored/sub/moved" ] || fail 'the restored tree lacks a file that was renamed before `sync --wait`'
# Content, then names, modes, owners, sizes, times and link targets.
(inside "diff -r --no-dereference data restored &&
    list() { (cd \"\$1\" && find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | sort); } && diff <(list data) <(list restored)")
# Test switches are no part of it (`tracker/src/test_switches.rs`), nor is what a debugger reads.
if (inside 'grep -aqE "TRACKER_(FAILPOINT|DROP_MARKS|MISSED_RUN|ERA_LENGTH|SELF_TEST_GAP|SCRUB_MAX|EBPF_OBJECT)" target/release/tracker'); then
    fail 'the release binary has test switches'
fi
[ "$(stat -c %s "$tree$clone/target/release/tracker")" -lt 25000000 ] || fail 'the release binary has 25 MB or more'
# As a user at a terminal does; its last flush is waited for.
kill -INT "$protect"
timeout 60 tail --pid="$protect" -f /dev/null || fail 'protect did not end after SIGINT'
trap - EXIT
(inside 'rm -rf data backup restored')

if [ "${1-}" = --full ]; then
    step 'whole gate'
    (inside .ci/run)
else
    step 'cargo xtask setup, unit tests'
    (inside 'cargo xtask setup && cargo xtask test --tier 1')
fi
