#!/usr/bin/env bash
# Runs a Windows program under Wine: .ci/wine.sh prog.exe [args...]
# Made for go test -exec, so that nothing but the program may write to stdout.
# Its first call makes a Wine prefix in the user's cache folder (half a minute,
# 0.7 GB); SHM_WINEPREFIX says where instead.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export WINEDEBUG=${WINEDEBUG:--all}
export WINEPREFIX=${SHM_WINEPREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/shm-wine}
# Without these Wine asks, in a window, whether to fetch Mono and Gecko.
export WINEDLLOVERRIDES='mscoree,mshtml='

# Debian keeps the loader off the PATH.
for wine in wine64 /usr/lib/wine/wine64 wine ''; do
	command -v "$wine" >/dev/null 2>&1 && break
done
if [[ -z $wine ]]; then
	echo 'wine.sh: no wine64 on this machine (Debian: apt-get install wine64)' >&2
	exit 127
fi

# go test runs several binaries at once: the first makes the prefix, the others
# wait for it. A prefix that was cut short has no mark and is made again.
mkdir -p "$WINEPREFIX"
exec 9>"$WINEPREFIX.lock"
flock 9
if [[ ! $WINEPREFIX/ready -nt $here/bcryptprimitives.c ]]; then
	"$wine" wineboot --init >&2 9>&-
	x86_64-w64-mingw32-gcc -shared -O2 -s "$here/bcryptprimitives.c" \
		-o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" -ladvapi32
	touch "$WINEPREFIX/ready"
fi
flock -u 9
exec 9>&-

exec "$wine" "$@"
