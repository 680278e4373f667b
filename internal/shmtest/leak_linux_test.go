package shmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The check looks for what a test process leaves, so it is tried in one: this
// helper runs it around a "test" that leaves something in dir, which stands for
// /dev/shm, as other packages' checks look at the real one meanwhile.
func init() {
	Register("leak", func(args []string) int {
		kind, dir := args[0], args[1]
		shmDir = dir
		settle = 300 * time.Millisecond
		prefix := "shmtest-leak-" + args[2] + "-"
		return checked(prefix, func() int {
			leak := leaks[kind]
			if leak == nil {
				return 99
			}
			return leak(prefix)
		})
	})
	Register("orphan-maker", func([]string) int {
		if cat().Start() != nil {
			return 1
		}
		return 0 // and so the cat gets another parent
	})
}

const someLease = ".shm-lease.00000000deadbeef"

func put(name string) *os.File {
	f, err := os.Create(filepath.Join(shmDir, name))
	if err != nil {
		panic(err)
	}
	f.WriteString("xxxxx")
	return f
}

// cat is a process that stays until the test closes the helper's input.
func cat() *exec.Cmd {
	cmd := exec.Command("cat")
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	return cmd
}

// lock locks as package shm locks a lease.
func lock(f *os.File) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: 1 << 62, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		panic(err)
	}
}

var kept []*os.File // not to be closed by the garbage collector

var leaks = map[string]func(prefix string) int{
	"nothing":   func(string) int { return 0 },
	"a failure": func(string) int { return 5 },
	"a stranger's block": func(string) int {
		put("psm_12345678")
		return 0
	},
	"a block": func(prefix string) int {
		put(prefix + "1-Test")
		return 0
	},
	"a block and a failure": func(prefix string) int {
		put(prefix + "1-Test")
		return 5
	},
	"a semaphore": func(prefix string) int {
		put("sem." + prefix + "1-Test")
		return 0
	},
	"a watched block": func(string) int {
		Watch("psm_12345678")
		put("psm_12345678")
		return 0
	},
	"a dead lease": func(string) int {
		put(someLease)
		return 0
	},
	"a dead lease, swept": func(string) int {
		put(someLease)
		Sweep = func() { os.Remove(filepath.Join(shmDir, someLease)) }
		return 0
	},
	"our lease": func(string) int {
		f := put(someLease)
		f.WriteString("\x00\x00psm_87654321\x00\x00")
		lock(f)
		kept = append(kept, f)
		return 0
	},
	"another's lease": func(string) int {
		f := put(someLease)
		put(".shm-keep.00000000deadbeef.1")
		lock(f)
		// The lock goes with the open file, which a stranger holds instead of us.
		cmd := exec.Command("sh", "-c", "exec 4<&0; cat <&4 &")
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
		cmd.Env = []string{} // without our mark
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Run(); err != nil {
			panic(err)
		}
		f.Close()
		return 0
	},
	"a kept name without a lease": func(string) int {
		put(".shm-keep.00000000deadbeef.1")
		return 0
	},
	"a temporary file": func(string) int {
		os.WriteFile(filepath.Join(os.TempDir(), "rubbish"), []byte("xxxxx"), 0o600)
		return 0
	},
	"a child": func(string) int {
		cmd := cat()
		cmd.Env = []string{} // known by its parent alone
		cmd.Start()
		return 0
	},
	"a clean-up process": func(string) int {
		cmd := cat()
		cmd.Args[0] = "shm-cleaner"
		cmd.Start()
		return 0
	},
	"a clean-up process of nobody": func(string) int {
		// sh knows no exec -a.
		cmd := exec.Command("bash", "-c", "exec 4<&0; (exec -a shm-cleaner cat <&4 >&2) & echo $!")
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
		pid, _ := cmd.Output()
		// It is one only once it has the name.
		for name := ""; !strings.HasPrefix(name, "shm-cleaner"); {
			b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline")
			if err != nil {
				return 9
			}
			name = string(b)
		}
		return 0
	},
	"a zombie": func(string) int {
		exec.Command("true").Start()
		return 0
	},
	"an orphan": func(string) int {
		exe, _ := os.Executable()
		cmd := exec.Command(exe, helperArg, "orphan-maker")
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
		cmd.Run()
		return 0
	},
	"a child that is just going": func(string) int {
		cmd := exec.Command("sleep", "0.1")
		cmd.Start()
		go cmd.Wait()
		return 0
	},
}

func TestLeakCheck(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		Skip(t, "native", "children of the helper would need the emulator too")
	}
	tests := map[string]struct {
		status int
		want   string // in standard error
	}{
		"nothing":                      {0, ""},
		"a failure":                    {5, ""},
		"a stranger's block":           {0, ""},
		"a block":                      {1, "1-Test: 5 bytes"},
		"a block and a failure":        {5, "1-Test: 5 bytes"},
		"a semaphore":                  {1, "/sem.shmtest"},
		"a watched block":              {1, "/psm_12345678: 5 bytes"},
		"a dead lease":                 {1, someLease},
		"a dead lease, swept":          {0, ""},
		"our lease":                    {1, `still owns ["psm_87654321"]`},
		"another's lease":              {0, ""},
		"a kept name without a lease":  {1, "its lease is gone"},
		"a temporary file":             {1, "/rubbish: 5 bytes"},
		"a child":                      {1, `["cat"]`},
		"a clean-up process":           {0, ""},
		"a clean-up process of nobody": {1, `["shm-cleaner"]`},
		"a zombie":                     {1, "never waited for"},
		"an orphan":                    {1, `["cat"]`},
		"a child that is just going":   {0, ""},
	}
	for kind := range leaks {
		tt, ok := tests[kind]
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // each waits most of the time
			if !ok {
				t.Fatal("nothing is expected of it")
			}
			id := strings.TrimPrefix(Name(nil), "shmtest-")
			dir := t.TempDir()
			p := Start(t, "leak", kind, dir, id)
			status := p.Wait()
			p.CloseInput()
			p.WaitAll() // for the cats
			if got := p.Stderr(); status != tt.status || !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("status %d, want %d; %q, want %q", status, tt.status, got, tt.want)
			}
			if left := list(os.TempDir()); strings.Contains(names(left), "shmtest-leak-"+id) {
				t.Errorf("left its own folder: %s", names(left))
			}
		})
	}
}

func names(entries []os.DirEntry) string {
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}
