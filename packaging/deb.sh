#!/bin/bash
# Builds Debian's packages into build/deb: packaging/deb.sh VERSION
#
# debhelper works in a folder of its own, a copy of the files that git does not ignore, or of all files but build/ where there is no git.
# The date of the packages is that of the last commit, so the same commit gives the same packages.
set -eu
cd "$(dirname "$0")/.."
version=$1
command -v dpkg-buildpackage >/dev/null && command -v dh >/dev/null || {
    echo "make deb needs debhelper: apt-get install debhelper" >&2
    exit 1
}
out=$PWD/build/deb
tree=$out/fathom-$version
rm -rf "$out"
mkdir -p "$tree"
if git rev-parse -q --verify HEAD >/dev/null 2>&1; then
    git ls-files -z -c -o --exclude-standard | while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done | tar -c --null -T - | tar -x -C "$tree"
    stamp=$(git log -1 --format=%ct)
else
    tar -c --exclude=./build --exclude=node_modules . | tar -x -C "$tree"
    stamp=$(date -r CHANGELOG.md +%s)
fi
cp -a "$tree/packaging/debian" "$tree/debian"
cat >"$tree/debian/changelog" <<EOF
fathom ($version-1) unstable; urgency=medium

  * Packages of Fathom $version. Its own changes stand in changelog.gz.

 -- Fathom maintainers <maintainers@fathom.invalid>  $(LC_ALL=C date -u -R -d "@$stamp")
EOF
(cd "$tree" && SOURCE_DATE_EPOCH=$stamp DEB_BUILD_OPTIONS="parallel=$(nproc) ${DEB_BUILD_OPTIONS:-}" dpkg-buildpackage -us -uc -b) >"$out/build.log" 2>&1 || {
    tail -20 "$out/build.log" >&2
    exit 1
}
ls -l "$out"/*.deb
