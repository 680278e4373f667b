// Package shmtest is what the tests of every package stand on: names nobody
// else uses, helper processes, the Python interpreters of the machine, and a
// check that nothing is left behind.
//
//	func TestMain(m *testing.M) { shmtest.Main(m) }
//
//	func init() {
//		shmtest.Register("opener", func(args []string) int {
//			… // another process; args[0] is a block's name
//			shmtest.Say("ready")
//			shmtest.Await("go")
//			return 0
//		})
//	}
//
//	func TestOpen(t *testing.T) {
//		name := shmtest.Name(t)
//		p := shmtest.Start(t, "opener", name)
//		p.Expect("ready")
//		p.Send("go")
//		…
//	}
//
// It stands on the standard library alone and has no files for one system: on
// Linux it learns from /proc and /dev/shm what there is; elsewhere, where the
// system does not tell, only temporary files are checked.
//
// Environment: SHM_REQUIRE lists what must not be missing (see [Skip]), and
// SHM_QEMU is the emulator to start helper processes with, for machines that
// do not start foreign programs by themselves.
package shmtest

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Sweep is called, if a package's TestMain sets it, before the leak check
// judges: a process killed with -9 leaves its lease until somebody sweeps.
var Sweep func()

// lasting is argv[0] of the one process that may stay: the clean-up process of
// Tracked blocks, which lives as long as the process that started it.
const lasting = "shm-cleaner"

// settle is how long whatever is going away may take to be gone. Other
// packages' tests run beside us; what they leave for a moment is not there in
// every look of this time. In an emulator, and where many are killed before
// anybody sweeps, a moment is some seconds.
var settle = 15 * time.Second

// shmDir is where the blocks are; elsewhere in the tests of the check itself.
var shmDir = "/dev/shm"

const (
	hidden = ".shm-" // what every hidden name of package shm begins with
	lease  = hidden + "lease."
)

// Environment of everything that a test process starts.
const (
	prefixEnv = "SHMTEST_PREFIX"
	childEnv  = "SHMTEST_CHILD"
)

// identity makes names. The prefix is that of the test process, in its helper
// processes too; child tells those apart.
type identity struct {
	prefix, child string
	names, starts atomic.Int64
}

var self = sync.OnceValue(func() *identity {
	// The variables alone do not make a helper: a whole test run started by a
	// test inherits them as well, and would use its parent's names again.
	if isHelper() {
		return &identity{prefix: os.Getenv(prefixEnv), child: os.Getenv(childEnv)}
	}
	return &identity{prefix: fmt.Sprintf("shmtest-%d-", os.Getpid())}
})

// maxName is macOS's limit.
const maxName = 30

// Name returns a name for a block that no other test, helper process or test
// run uses. In a helper process t may be nil.
func Name(t testing.TB) string {
	id := self()
	name := id.prefix + id.child + strconv.FormatInt(id.names.Add(1), 36)
	if t != nil {
		// Only to tell people which test it was.
		name += "-" + strings.Map(func(r rune) rune {
			if r < '0' || r > 'z' || r > '9' && r < 'A' || r > 'Z' && r < 'a' {
				return '_'
			}
			return r
		}, strings.TrimPrefix(t.Name(), "Test"))
	}
	return strings.TrimRight(name[:min(len(name), maxName)], "-")
}

var watched sync.Map

// Watch makes the leak check look for a name that [Name] did not make, such as
// one that Create chose.
func Watch(name string) { watched.Store(name, true) }

// Main runs a package's tests, or the helper process that this process was
// started to be, and does not return. It fails the run when the tests leave
// something behind: a block, a hidden file of ours that no living process
// holds, a process, a temporary file.
func Main(m *testing.M) {
	dispatched = true
	if isHelper() {
		os.Exit(runHelper())
	}
	os.Exit(checked(self().prefix, m.Run))
}

// dispatched tells that helper processes of this program will be helpers.
var dispatched bool

// checked calls run and looks what it left.
func checked(prefix string, run func() int) int {
	// Whatever we start inherits the prefix, and is known by it even when its
	// parent is gone.
	setenv(prefixEnv, prefix)
	tmp, err := os.MkdirTemp("", prefix)
	if err != nil {
		fmt.Fprintln(os.Stderr, "shmtest:", err)
		return 1
	}
	defer removeAll(tmp)
	atExit = func() { removeAll(tmp) }
	for _, key := range []string{"TMPDIR", "TMP", "TEMP"} {
		setenv(key, tmp)
	}
	before := map[string]bool{}
	for _, e := range list(shmDir) {
		before[e.Name()] = true
	}

	code := run()
	// A fuzzing worker that is slow to end is killed by its coordinator, which we
	// are, and leaves its empty folder.
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		for _, e := range list(tmp) {
			if strings.HasPrefix(e.Name(), "shmtest-") {
				_ = os.Remove(filepath.Join(tmp, e.Name())) // not if there is something in it
			}
		}
	}

	var left map[string]string
	for end := time.Now().Add(settle); ; time.Sleep(50 * time.Millisecond) {
		if Sweep != nil {
			Sweep()
		}
		now := leftovers(prefix, tmp, before)
		if left == nil {
			left = now
		}
		maps.DeleteFunc(left, func(key, _ string) bool { return now[key] == "" })
		for key := range left {
			left[key] = now[key] // the last look knows best what it is
		}
		if len(left) == 0 {
			return code
		}
		if time.Now().After(end) {
			break
		}
	}
	fmt.Fprintln(os.Stderr, "shmtest: the tests left behind:")
	for _, key := range slices.Sorted(maps.Keys(left)) {
		fmt.Fprintf(os.Stderr, "\t%s\n", left[key])
	}
	return cmp.Or(code, 1)
}

// atExit is what an end that is not the normal one still has to do.
var atExit = func() {}

// leftovers describes what is there and should not be, by a key that stays
// the same from one look to the next.
func leftovers(prefix, tmp string, before map[string]bool) map[string]string {
	left := map[string]string{}
	entries := list(shmDir)
	locks := readFile("/proc/locks") // after the listing: what was listed is locked by now
	for _, e := range entries {
		name := e.Name()
		why := ""
		if _, ok := watched.Load(name); !ok && !strings.Contains(name, prefix) {
			if !strings.HasPrefix(name, hidden) || before[name] {
				continue
			}
			if why = abandoned(name, locks); why == "" {
				continue
			}
		}
		if info, err := e.Info(); err == nil {
			left["block "+name] = describe(filepath.Join(shmDir, name), info) + why
		}
	}
	_ = filepath.WalkDir(tmp, func(path string, e os.DirEntry, err error) error {
		// What lies in the directory for leases, where they need one, is looked at;
		// itself it stays.
		if err == nil && path != tmp && path != filepath.Join(tmp, "shm-"+strconv.Itoa(os.Geteuid())) {
			if info, err := e.Info(); err == nil {
				left["file "+path] = describe(path, info)
			}
		}
		return nil
	})
	addProcesses(left, prefix)
	return left
}

func describe(path string, info os.FileInfo) string {
	return fmt.Sprintf("%s: %d bytes, %v, user %d, changed %v ago", path, info.Size(), info.Mode(),
		sysField(info, "Uid"), time.Since(info.ModTime()).Round(time.Millisecond))
}

// abandoned says what is wrong with a hidden file, "" if another living process
// has it. Each has the ID of its owner's lease in its name, .shm-KIND.ID, and
// of a lease the kernel says whether its owner lives: it holds an OFD lock then.
// Asking with fcntl would need a file per system; /proc/locks is the same as
// text.
func abandoned(name, locks string) string {
	part := strings.Split(name, ".")
	if len(part) < 3 {
		return ", not a name that package shm makes"
	}
	path := filepath.Join(shmDir, lease+part[2])
	info, err := os.Lstat(path)
	if err != nil {
		return ", its lease is gone"
	}
	dev := sysField(info, "Dev")
	file := fmt.Sprintf(" %02x:%02x:%d ", dev>>8&0xfff, dev&0xff|dev>>12&0xfff00, sysField(info, "Ino"))
	for line := range strings.Lines(locks) {
		if strings.Contains(line, "OFDLCK") && strings.Contains(line, file) {
			// A lease loses its name with the last block in it. So one of our own
			// is the trace of a block we still own, whatever its name.
			for _, fd := range list("/proc/self/fd") {
				own, err := os.Stat(filepath.Join("/proc/self/fd", fd.Name()))
				if err == nil && os.SameFile(own, info) {
					return fmt.Sprintf(", of this process, which still owns %q", text.FindAllString(readFile(path), -1))
				}
			}
			return ""
		}
	}
	return ", its owner is dead"
}

// text finds what may be names in a journal. For people only.
var text = regexp.MustCompile(`[\w.-]{6,}`)

// sysField reads a number from what the system's stat filled in. That type is
// another one on each system, and this package has no files for one system.
func sysField(info os.FileInfo, name string) uint64 {
	v := reflect.Indirect(reflect.ValueOf(info.Sys()))
	if v.Kind() == reflect.Struct {
		switch f := v.FieldByName(name); {
		case f.CanUint():
			return f.Uint()
		case f.CanInt():
			return uint64(f.Int())
		}
	}
	return 0
}

// addProcesses adds what we started and still runs, or was never waited for.
func addProcesses(left map[string]string, prefix string) {
	me := os.Getpid()
	mark := prefixEnv + "=" + prefix + "\x00"
	for _, e := range list("/proc") {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == me {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		// State and parent stand behind the command's name, which may hold anything.
		stat := readFile(filepath.Join(dir, "stat"))
		fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(fields) < 2 {
			continue // gone
		}
		child := fields[1] == strconv.Itoa(me)
		if !child && !strings.Contains("\x00"+readFile(filepath.Join(dir, "environ")), "\x00"+mark) {
			continue
		}
		argv := strings.Split(strings.TrimSuffix(readFile(filepath.Join(dir, "cmdline")), "\x00"), "\x00")
		if child && argv[0] == lasting { // one whose starter is gone should be, too
			continue
		}
		what := "running"
		if fields[0] == "Z" {
			what = "dead, never waited for"
		}
		left[fmt.Sprint("process ", pid)] = fmt.Sprintf("process %d (%s, parent %s): %q", pid, what, fields[1], argv)
	}
}

func setenv(key, value string) {
	if err := os.Setenv(key, value); err != nil {
		panic(err) // these keys and values are ours
	}
}

func list(dir string) []os.DirEntry {
	entries, _ := os.ReadDir(dir) // none where the system has no such place
	return entries
}

func readFile(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// TempDir is t.TempDir, which cannot clean up on older versions of Wine.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(dir) })
	return dir
}

// removeAll is os.RemoveAll, which older versions of Wine do not support.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	var paths []string
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		paths = append(paths, path)
		return nil
	})
	for _, path := range slices.Backward(paths) {
		_ = os.Remove(path)
	}
}
