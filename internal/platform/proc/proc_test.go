package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/quick"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func init() {
	shmtest.Register("idle", func([]string) int {
		shmtest.Say("ready")
		shmtest.Await("end")
		return 0
	})
}

func stat(comm string, start string) []byte {
	return []byte("4711 (" + comm + ") S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 " + start + " 9 10\n")
}

func TestParseStartTime(t *testing.T) {
	for _, comm := range []string{"cat", "a b", "a) S 1 (b", ")", "((", "x) R 2 3 4 5\n"} {
		if got, err := parseStartTime(stat(comm, "987654321")); err != nil || got != 987654321 {
			t.Errorf("%q: %d, %v", comm, got, err)
		}
	}
	for _, bad := range [][]byte{nil, []byte("1 cat S 1"), []byte("1 (cat) S 1 2"), stat("cat", "-1"), stat("cat", "x")} {
		if got, err := parseStartTime(bad); err == nil {
			t.Errorf("%q: %d, want an error", bad, got)
		}
	}
}

func TestStartTime(t *testing.T) {
	mine, err := StartTime(os.Getpid())
	if errors.Is(err, errors.ErrUnsupported) {
		if PIDNamespace() != 0 || InContainer() {
			t.Error("a PID namespace without /proc")
		}
		return
	}
	if err != nil || mine == 0 {
		t.Fatal(mine, err)
	}
	p := shmtest.Start(t, "idle")
	p.Expect("ready")
	before, err := StartTime(p.PID())
	if err != nil || before < mine {
		t.Errorf("the child started at %d (%v), its parent at %d", before, err, mine)
	}
	if again, err := StartTime(p.PID()); err != nil || again != before {
		t.Errorf("start time %d, and later %d (%v)", before, again, err)
	}
	p.Kill()
	for _, pid := range []int{p.PID(), 0, -1} {
		if got, err := StartTime(pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("PID %d started at %d, %v", pid, got, err)
		}
	}
	if PIDNamespace() == 0 {
		t.Error("no PID namespace")
	}
}

func TestParseMapping(t *testing.T) {
	m, ok := parseMapping([]byte("7f5ee8a00000-7f5ee8a02000 rw-s 00001000 fd:1a 12345                      /dev/shm/a b (deleted)"))
	if !ok || m.start != 0x7f5ee8a00000 || m.end != 0x7f5ee8a02000 || m.offset != 0x1000 || m.Key != (Key{mkdev(0xfd, 0x1a), 12345}) || string(m.path) != "/dev/shm/a b (deleted)" {
		t.Errorf("%v, %+v", ok, m)
	}
	// The first segment's ID is 0, and it is no memfd.
	if m, ok := parseMapping([]byte("7000-8000 rw-s 00000000 00:01 0      /SYSV00000000 (deleted)")); !ok || m.Key != (Key{1, sysvInode}) {
		t.Errorf("%v, %+v", ok, m)
	}
	for _, line := range []string{
		"", "7f-8f", "7ffe1000-7ffe2000 rw-p 00000000 00:00 0          [stack]", "8000-7000 rw-p 0 00:01 5 /x",
		"7000-8000 rw-p 0 00:01", "7000-8000rw-p 0 00:01 5 /x", "-8000 rw-p 0 00:01 5", "7000-8000 rw", "7G00-8000 rw-p 0 0:1 5",
	} {
		if m, ok := parseMapping([]byte(line)); ok {
			t.Errorf("%q is %+v", line, m)
		}
	}
}

func TestClassify(t *testing.T) {
	for path, want := range map[string]struct {
		kind Kind
		name string
	}{
		"/memfd:pool (deleted)": {Memfd, "pool"}, "/memfd: (deleted)": {Memfd, ""}, "/memfd:/SYSV0 (deleted)": {Memfd, "/SYSV0"},
		"/SYSV0000abcd (deleted)": {SysV, "0000abcd"}, "/dev/zero (deleted)": {Shared, ""}, "": {Shared, ""},
	} {
		if kind, name := classify([]byte(path)); kind != want.kind || name != want.name {
			t.Errorf("%q is %v %q", path, kind, name)
		}
	}
}

// FuzzMapping gives the parser what the kernel never writes, and then the same
// numbers as the kernel writes them.
func FuzzMapping(f *testing.F) {
	f.Add([]byte("7f5ee8a00000-7f5ee8a02000 rw-s 00000000 00:1a 12345      /dev/shm/cam0"))
	f.Add([]byte("0-0 rw-s 0 0:0 1"))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, ok := parseMapping(line)
		if !ok {
			return
		}
		if m.end < m.start || m.Ino == 0 || bytes.HasPrefix(m.path, []byte(" ")) {
			t.Errorf("%q is %+v", line, m)
		}
	})
}

func TestMappingRoundTrip(t *testing.T) {
	err := quick.Check(func(start, size, offset uint32, major, minor uint16, ino uint64, path string) bool {
		path = strings.Trim(strings.ReplaceAll(path, "\n", ""), " ")
		ino = max(ino, 1)
		end := uint64(start) + uint64(size)
		line := fmt.Sprintf("%08x-%08x rw-s %08x %02x:%02x %d      %s", start, end, offset, major, minor, ino, path)
		m, ok := parseMapping([]byte(line))
		return ok && m.start == uint64(start) && m.end == end && m.offset == uint64(offset) &&
			m.Key == Key{mkdev(uint64(major), uint64(minor)), ino} && string(m.path) == path
	}, nil)
	if err != nil {
		t.Error(err)
	}
}

func BenchmarkScan(b *testing.B) {
	for b.Loop() {
		s, err := Scan(func(Key) bool { return false })
		if err != nil {
			b.Skip(err)
		}
		b.ReportMetric(float64(s.Processes), "processes")
	}
}
