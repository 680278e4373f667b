//go:build darwin || freebsd || netbsd

package mem

import "golang.org/x/sys/unix"

func birth(s *unix.Stat_t) int64 { return s.Btim.Nano() }

// mark is the extended attribute by which blocks that nobody owns are told
// from what other programs left.
const mark = "user.shm.lifetime"

// Mark leaves text on the object, for [LookupMark]. It is a courtesy that not
// every file system offers: no error.
func (o *Object) Mark(text string) { _ = unix.Fsetxattr(o.fd, mark, []byte(text), 0) }

// MarkName does the same for the object that has the name.
func MarkName(dir, name, text string) {
	if dir != "" {
		_ = unix.Lsetxattr(path(dir, name), mark, []byte(text), 0)
	}
}

// LookupMark returns what Mark left, "" if nothing.
func LookupMark(dir, name string) string {
	var buf [32]byte
	if dir == "" {
		return ""
	}
	n, err := unix.Lgetxattr(path(dir, name), mark, buf[:])
	if err != nil || n > len(buf) {
		return ""
	}
	return string(buf[:n])
}
