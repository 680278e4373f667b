package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

// asCommand in the environment makes the test binary the command itself, so
// that scripts run it as a process of its own.
const asCommand = "SHM_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	worker.Main()
	if os.Getenv(asCommand) != "" {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // as main does
		os.Exit(Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	shmtest.Sweep = func() { shm.Prune() }
	shmtest.Main(m)
}

func init() {
	// owner DIR NAME SIZE: owns a block until it is told to end, or killed.
	shmtest.Register("owner", func(args []string) int {
		size, err := parseSize(args[2])
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		if _, err := shm.Create(args[1], int(size), &shm.CreateOptions{Dir: args[0]}); err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		shmtest.Await("end")
		return 0
	})
	// holder DIR NAME: has a block mapped, and no file of it open.
	shmtest.Register("holder", func(args []string) int {
		if _, err := shm.Open(args[1], &shm.OpenOptions{Dir: args[0]}); err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		shmtest.Await("end")
		return 0
	})
}

func init() {
	// serve ARGS…: shm serve, with signals as main has them.
	shmtest.Register("serve", func(args []string) int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		return Run(ctx, append([]string{"serve"}, args...), os.Stdin, os.Stdout, os.Stderr)
	})
}

// privateDir makes a folder for blocks, in memory where there is such a place,
// since that is where the command is used.
func privateDir(t testing.TB) string {
	if _, err := os.Stat("/dev/shm"); err != nil {
		return shmtest.TempDir(t)
	}
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestScript runs testdata/script. In a script $DIR is a folder of its own for
// blocks and $N a name that is free in the system's place; the .npy files are
// those of writeArrays. Beside testscript's
// own commands there are
//
//	owner NAME SIZE   a process creates NAME in $DIR; $OWNER is its PID
//	holder NAME       a process maps NAME of $DIR; $HOLDER is its PID
//	crash             kills what these two have started, without warning
//	serve ARGS…       runs shm serve; $ADDRESS is where, $KEY the file of its key
//	ended             waits for it to end well; prints what it says then
//	status N COMMAND  runs a command that must end with that status
func TestScript(t *testing.T) {
	noEmulator(t)
	if runtime.GOOS == "windows" {
		t.Skip("the scripts keep their blocks in a folder, which Windows does not have")
	}
	shmtest.Deadline(t, 8*shmtest.Patience)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// What a script has started, under a key nobody else has.
	type started struct{ list, servers []*shmtest.Process }
	key := new(started)
	start := func(helper, variable string) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			p := shmtest.Start(t, helper, append([]string{ts.Getenv("DIR")}, args...)...)
			p.Expect("ready")
			s := ts.Value(key).(*started)
			s.list = append(s.list, p)
			ts.Setenv(variable, strconv.Itoa(p.PID()))
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		// Its own folder it removes only after all scripts, not after those that
		// -run picks.
		WorkdirRoot: shmtest.TempDir(t),
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, "bin")
			if err := os.Mkdir(bin, 0o700); err != nil {
				return err
			}
			if err := os.Symlink(exe, filepath.Join(bin, "shm")); err != nil {
				return err
			}
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv(asCommand, "1")
			// Else the race detector has each command sleep for a second at its end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("DIR", privateDir(t))
			env.Setenv("N", shmtest.Name(t))
			env.Values[key] = &started{}
			return writeArrays(env.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"owner":  start("owner", "OWNER"),
			"holder": start("holder", "HOLDER"),
			"crash": func(ts *testscript.TestScript, neg bool, args []string) {
				s := ts.Value(key).(*started)
				for _, p := range s.list {
					p.Kill()
				}
				s.list = nil
			},
			"serve": func(ts *testscript.TestScript, neg bool, args []string) {
				p := shmtest.Start(t, "serve", append([]string{"--json"}, args...)...)
				var doc serveDoc
				ts.Check(json.Unmarshal([]byte(p.Line()), &doc))
				s := ts.Value(key).(*started)
				s.servers = append(s.servers, p)
				ts.Setenv("ADDRESS", doc.Address)
				ts.Setenv("KEY", doc.AuthKeyFile)
			},
			"ended": func(ts *testscript.TestScript, neg bool, args []string) {
				s := ts.Value(key).(*started)
				for _, p := range s.servers {
					ts.Check(ts.Exec("echo", p.Line()))
					if status, errs := p.WaitAll(); status != 0 {
						ts.Fatalf("shm serve ended with status %d: %s", status, errs)
					}
				}
				s.servers = nil
			},
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				got := 0
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					got = exit.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if strconv.Itoa(got) != args[0] {
					ts.Fatalf("exit status %d, want %s", got, args[0])
				}
			},
		},
	})
}

// noEmulator skips a test whose program has to start itself again: the kernel
// does not know how to start one for another machine.
func noEmulator(t *testing.T) {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("this program is run by an emulator and cannot be started again without")
	}
}
