package cli

import (
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// On a terminal a line is a line, and no item is a command to it.
func TestListTerminal(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	name := listName(t, []any{strings.Repeat("ä", 200), "\x1b[2J", []byte("\x1b[2J"), "a\nb", 1}, nil)
	show := func(pattern string, args ...string) {
		t.Helper()
		term := openTerminal(t)
		if status := Run(t.Context(), append([]string{"list", name}, args...), nil, term.tty, term.tty); status != 0 {
			t.Errorf("%v: status %d", args, status)
		}
		term.await(t, pattern)
	}
	// The terminal has 100 columns.
	show(`\x1b\[1mINDEX\x1b\[0m  \x1b\[1mTYPE \x1b\[0m  \x1b\[1mVALUE\x1b\[0m\r\n    0  text   'ä{84}…\r\n    1  text   '\\x1b\[2J'\r\n    2  bytes  b'\\x1b\[2J'\r\n    3  text   'a\\nb'\r\n    4  int    1\r\n$`)
	show(`^'\\x1b\[2J'\r\n$`, "1")
	show(`^b'\\x1b\[2J'\r\n$`, "2")
	show(`^a\r\nb\r\n$`, "3")
	show(`^ä{200}\r\n$`, "0")
}
