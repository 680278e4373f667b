package shmtest

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func init() {
	Register("echo", func(args []string) int {
		Say("args %q", args)
		for {
			switch line := Hear(); {
			case line == "name":
				Say("%s", Name(nil))
			case strings.HasPrefix(line, "exit "):
				fmt.Fprintln(os.Stderr, "leaving")
				status, _ := strconv.Atoi(line[5:])
				return status
			default:
				Say("heard %q", line)
			}
		}
	})
	Register("await", func([]string) int { Await("go"); return 0 })
	Register("deadline", func([]string) int {
		Deadline(&recorder{}, 50*time.Millisecond)
		select {}
	})
}

// recorder stands for a test in tests of what ends tests.
type recorder struct {
	testing.TB
	failed, skipped string
}

func (r *recorder) Helper()        {}
func (r *recorder) Name() string   { return "TestRecorded" }
func (r *recorder) Cleanup(func()) {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// record calls f with a recorder and returns it.
func record(f func(t testing.TB)) *recorder {
	r := &recorder{}
	done := make(chan bool)
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestName(t *testing.T) {
	t.Run("a rather long name/ünd mehr", func(t *testing.T) {
		seen := map[string]bool{}
		add := func(name string) {
			if seen[name] || len(name) > 30 || !strings.HasPrefix(name, fmt.Sprintf("shmtest-%d-", os.Getpid())) {
				t.Errorf("bad name %q", name)
			}
			for _, r := range name {
				if r > 'z' || strings.ContainsRune("/ ", r) {
					t.Errorf("%q in name %q", r, name)
				}
			}
			seen[name] = true
		}
		for range 100 {
			add(Name(t))
		}
		// Helper processes count for themselves.
		for range 2 {
			p := Start(t, "echo")
			p.Line()
			for range 3 {
				p.Send("name")
				add(p.Line())
			}
		}
		if len(seen) != 106 {
			t.Errorf("%d names of 106 are different", len(seen))
		}
	})
}

func TestProcess(t *testing.T) {
	p := Start(t, "echo", "a b", "")
	p.Expect(`args ["a b" ""]`)
	p.Send("hello")
	p.Expect(`heard "hello"`)
	p.Send("exit 7")
	status, stderr := p.WaitAll()
	if status != 7 || stderr != "leaving\n" {
		t.Errorf("status %d, standard error %q", status, stderr)
	}

	// A helper does not outlive its test.
	p = Start(t, "await")
	p.CloseInput()
	if status := p.Wait(); status != 3 {
		t.Errorf("without input: status %d", status)
	}

	p = Start(t, "await")
	p.Send("stop")
	if status, stderr := p.WaitAll(); status != 3 || !strings.Contains(stderr, `got "stop"`) {
		t.Errorf("with the wrong input: status %d, %s", status, stderr)
	}

	p = Start(t, "await")
	p.Kill()
	if status := p.Wait(); status == 0 || p.Cmd.ProcessState.Success() {
		t.Errorf("after Kill: status %d", status)
	}

	p = Start(t, "no such helper")
	if status, stderr := p.WaitAll(); status != 2 || !strings.Contains(stderr, "no helper named") {
		t.Errorf("unknown helper: status %d, %s", status, stderr)
	}
}

func TestProcessFailures(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(p *Process)
		want string
	}{
		{"another line", func(p *Process) { p.Expect("hello") }, `got "args []", want "hello"`},
		{"end", func(p *Process) { p.Expect("args []"); p.Send("exit 5"); p.Expect("hello") }, "exit status 5"},
	} {
		p := Start(t, "echo")
		r := record(func(t testing.TB) {
			p.t = t
			tt.do(p)
		})
		p.t = t
		if !strings.Contains(r.failed, tt.want) {
			t.Errorf("%s: failed with %q, want %q", tt.name, r.failed, tt.want)
		}
	}

	dispatched = false
	r := record(func(t testing.TB) { Start(t, "echo") })
	dispatched = true
	if !strings.Contains(r.failed, "does not call shmtest.Main") {
		t.Errorf("without Main: failed with %q", r.failed)
	}

	// What hangs is ended, and says where it hung.
	old := Patience
	defer func() { Patience = old }()
	p := Start(t, "echo")
	p.Expect("args []")
	Patience = 50 * time.Millisecond
	r = record(func(t testing.TB) { p.t = t; p.Wait() })
	p.t = t
	if !strings.Contains(r.failed, "still running") {
		t.Errorf("failed with %q", r.failed)
	}
	if runtime.GOOS != "windows" && !strings.Contains(r.failed, "shmtest.Hear") {
		t.Errorf("no stack of the helper in %q", r.failed)
	}
}

func TestDeadline(t *testing.T) {
	p := Start(t, "deadline")
	status, stderr := p.WaitAll()
	for _, want := range []string{"TestRecorded is not over after 50ms", "goroutine ", "shmtest.runHelper"} {
		if status != 1 || !strings.Contains(stderr, want) {
			t.Errorf("status %d, no %q in %s", status, want, stderr)
		}
	}
}

func TestSkip(t *testing.T) {
	skip := func(t testing.TB) { Skip(t, "wine", "none found") }
	t.Setenv("SHM_REQUIRE", "python,winery")
	if r := record(skip); r.skipped != "no wine: none found" || r.failed != "" {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
	t.Setenv("SHM_REQUIRE", "python,wine")
	if r := record(skip); r.skipped != "" || !strings.Contains(r.failed, "none found") {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
}
