#!/bin/sh
# Installs the agent in the way that fits this board, or says why there is none.
#
#   sh edge_client/packaging/install.sh [--dry-run] [--packages DIR]
#
# --dry-run prints the way and changes nothing. DIR (dist) holds what `make deb` built, with its SHA256SUMS.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
packages=$here/dist
dry_run=

refuse() {
    echo "install.sh: $1" >&2
    echo "Try: $2" >&2
    exit 3
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --packages)
            [ $# -gt 1 ] || { echo "install.sh: --packages needs a folder" >&2; exit 2; }
            packages=$2
            shift
            ;;
        *) echo "usage: install.sh [--dry-run] [--packages DIR]" >&2; exit 2 ;;
    esac
    shift
done

# A 64-bit kernel may run a 32-bit system (Raspberry Pi OS does): what counts is what programs are.
system=$(uname -s)
machine=$(uname -m)
[ "$system" = Linux ] || refuse "the agent runs on Linux, this is $system." "a board with Debian 12"
if [ "$(getconf LONG_BIT)" = 32 ]; then
    refuse "this system is 32-bit ($machine), and no package is built for it: NumPy has no wheel for it." \
        "a 64-bit system, if the processor is one; otherwise docs/agent.md, 32-bit boards"
fi
case $machine in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) refuse "no TFLite runtime is published for $machine." "a board with an x86-64 or 64-bit ARM processor" ;;
esac
if [ -z "$(getconf GNU_LIBC_VERSION 2>/dev/null)" ]; then
    refuse "this system's C library is not glibc, for which the libraries are built." "Debian 12, or a container of it"
fi

os_release=${FEDLOOM_OS_RELEASE:-/etc/os-release}
id='' version=''
if [ -r "$os_release" ]; then
    id=$(sed -n 's/^ID=//p' "$os_release" | tr -d '"')
    version=$(sed -n 's/^VERSION_ID=//p' "$os_release" | tr -d '"')
fi
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)

case $id-$version in
    debian-12 | raspbian-12) way=package ;;
    *) way=venv ;;
esac
if [ "$way" = venv ]; then
    case $python in
        3.11 | 3.12 | 3.13 | 3.14) ;;
        '') refuse "there is no python3 here." "install Python 3.11 to 3.14 with its venv module" ;;
        *) refuse "Python $python has no TFLite runtime; 3.11 to 3.14 have." "Debian 12 or newer" ;;
    esac
fi

run() {
    if [ -n "$dry_run" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

echo "This is ${id:-an unknown system} $version for $arch with Python ${python:-of the package}: $way"
if [ -z "$dry_run" ] && [ "$(id -u)" != 0 ]; then
    refuse "installing needs root." "sudo sh $0"
fi

if [ "$way" = package ]; then
    found=
    for file in "$packages"/fedloom-agent_*_"$arch".deb; do
        [ -f "$file" ] || continue
        [ -z "$found" ] || refuse "$packages holds several packages for $arch." "leave only the one that is wanted"
        found=$file
    done
    [ -n "$found" ] || refuse "$packages holds no package for $arch." "make deb ARCH=$arch, on any machine"
    [ -f "$packages/SHA256SUMS" ] || refuse "$packages has no SHA256SUMS." "copy what make deb wrote beside the package"
    name=$(basename "$found")
    if ! (cd "$packages" && grep -F "  $name" SHA256SUMS | sha256sum --check --strict --status); then
        refuse "$name is not the file that SHA256SUMS names." "copy it again"
    fi
    run apt-get install --yes "$found"
    exit 0
fi

# Hashes of every wheel are in the lock; pip refuses another file.
target=/opt/fedloom-agent
[ -f "$here/requirements/edge.txt" ] || refuse "$here has no requirements/edge.txt." "run it in the repository"
run python3 -m venv "$target"
run "$target/bin/pip" install --quiet --require-hashes --only-binary=:all: -r "$here/requirements/edge.txt"
for folder in edge_client shared; do
    run cp -R "$here/$folder" "$target/lib/python$python/site-packages/"
done
echo "The command is: $target/bin/python3 -m edge_client (docs/agent.md)"
