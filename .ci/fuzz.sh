#!/usr/bin/env bash
# Fuzzes every target of every package for a while each: .ci/fuzz.sh 60s
# As many at once as there are processors, with one worker each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export FUZZTIME=${1:-60s}

# One go test lists them all, those of the modules beside this one too; only its
# JSON says which package a name is in.
list=$(go test -json -list '^Fuzz' ./... ./array/shmarrow/...)
targets=$(sed -nE 's/.*"Package":"([^"]+)".*"Output":"(Fuzz[A-Za-z0-9_]*)\\n".*/\1 \2/p' <<<"$list")
if [[ -z $targets ]]; then
	echo 'fuzz.sh: found no fuzz target' >&2
	exit 1
fi

fuzz() { # fuzz PACKAGE TARGET
	local pkg=$1 target=$2 status=0 out
	# An input that reaches new code is made smaller first, for up to a minute each:
	# with inputs of kilobytes nothing else would happen.
	out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -parallel 1 -fuzzminimizetime 100x "$pkg" 2>&1) || status=$?
	# Up to Go 1.26 the end of the time is sometimes reported as a failure, with
	# nothing but this line to say (golang/go#75804).
	local late="--- FAIL: $target \([0-9.]+s\)"$'\n    context deadline exceeded\nFAIL'
	if ((status != 0)) && [[ $out =~ $late ]]; then
		status=0
	fi
	if ((status == 0)); then
		printf 'ok   %s %s, %s\n' "$pkg" "$target" "$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -n 1)"
	else
		printf 'FAIL %s %s\n%s\n' "$pkg" "$target" "$out"
		return 1
	fi
}
export -f fuzz

# xargs ends with 123 if any of them failed.
xargs -P "$(nproc)" -L 1 bash -c 'fuzz "$@"' fuzz <<<"$targets"
