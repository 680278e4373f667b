package shm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sharedmem/shm/internal/platform/mem"
)

// cleanName checks a block's name and drops its leading slash, which Python's
// internal names have and the C library ignores. It makes no system call.
func cleanName(name string) (string, error) {
	short := strings.TrimPrefix(name, "/")
	reason := ""
	switch {
	case short == "":
		reason = "it is empty"
	case strings.IndexByte(short, 0) >= 0:
		reason = "it has a NUL byte"
	case strings.IndexByte(short, '/') >= 0:
		reason = "it has a slash: a name is one path element (use Dir for another directory)"
	case short == "." || short == "..":
		reason = "it is a directory"
	case !utf8.ValidString(short):
		reason = "it is not UTF-8"
	case strings.HasPrefix(short, mem.Prefix):
		reason = "names that begin with " + mem.Prefix + " are this library's own"
	case strings.HasPrefix(short, "sem."):
		reason = "names that begin with sem. are the C library's semaphores"
	case len(short) > mem.NameMax:
		reason = fmt.Sprintf("it has %d bytes, this system allows %d", len(short), mem.NameMax)
	default:
		reason = mem.BadName(short)
	}
	if reason != "" {
		return "", fmt.Errorf("%w: %s", ErrName, reason)
	}
	return short, nil
}

// freshName returns a name as Python makes them.
func freshName() string {
	var b [4]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return mem.AutoPrefix + hex.EncodeToString(b[:])
}

// quoteName makes a name fit for a line of text, and shortens what is absurd.
func quoteName(name string) string {
	const most = 80
	if len(name) > most {
		name = name[:most] + "…"
	}
	return strconv.Quote(name)
}

// checkSize says what is wrong with the size of a new block.
func checkSize(size int) error {
	switch {
	case size == 0:
		return fmt.Errorf("%w: a block has at least one byte", ErrSize)
	case size < 0:
		return fmt.Errorf("%w: %d is negative", ErrSize, size)
	case int64(size) > mem.SizeMax:
		return fmt.Errorf("%w: %s is beyond the address space", ErrSize, mem.Size(int64(size)))
	}
	return nil
}

var errAnonymous = fmt.Errorf("an anonymous block has no name and no owner: %w", errors.ErrUnsupported)
