#!/bin/sh
# Gets Debian 13's skopeo into a folder, with its own C library, and prints the
# path of a program that runs it. Debian 12's skopeo knows no key providers.
# The machine's packages are not touched: apt runs with lists, cache and sources of
# its own, from the mirror the machine uses anyway.
set -eu
dir=$1
suite=trixie
skopeo=$dir/skopeo
if [ -x "$skopeo" ]; then
	echo "$skopeo"
	exit 0
fi
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/debs" "$dir/root.new"
dir=$(cd "$dir" && pwd)
skopeo=$dir/skopeo

mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' |
	awk '$2 == "main" && $1 !~ /security/ { print $1; exit }')
[ -n "$mirror" ] || { echo "skopeo.sh: the machine has no source for Debian's main archive" >&2; exit 1; }
echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/sources.list"
: >"$dir/status"

apt() {
	cmd=$1
	shift
	"$cmd" -q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=- \
		-o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts=- \
		-o Dir::State="$dir" -o Dir::State::lists="$dir/lists" -o Dir::State::status="$dir/status" \
		-o Dir::Cache="$dir/cache" -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}

apt apt-get update >&2
# skopeo and the libraries below it, reached through libraries only: the programs
# they could start are not needed here.
packages=skopeo
todo=skopeo
while [ -n "$todo" ]; do
	# shellcheck disable=SC2086 # lists of names
	found=$(apt apt-cache depends --important $todo | awk '$1 == "Depends:" || $1 == "PreDepends:" { print $2 }' |
		grep -E '^(lib[a-z0-9.+-]+|zlib1g)$' | sort -u || true)
	todo=
	for p in $found; do
		case " $packages " in *" $p "*) ;; *) packages="$packages $p" todo="$todo $p" ;; esac
	done
done
# shellcheck disable=SC2086 # a list of names
(cd "$dir/debs" && apt apt-get download $packages >&2)
for deb in "$dir"/debs/*.deb; do
	dpkg-deb -x "$deb" "$dir/root.new"
done
rm -rf "$dir/debs" "$dir/cache" "$dir/root"
mv "$dir/root.new" "$dir/root"

lib=$dir/root/usr/lib/x86_64-linux-gnu
cat >"$skopeo.new" <<END
#!/bin/sh
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$dir/root/usr/bin/skopeo" "\$@"
END
chmod +x "$skopeo.new"
mv "$skopeo.new" "$skopeo"
echo "$skopeo"
