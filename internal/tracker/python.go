package tracker

import (
	"archive/zip"
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/proc"
)

// A tracker for Pythons is one more process of this program. Its descriptors:
//
//	3    the pipe whose lines it reads; the greeting comes first
//	4    a pipe on which it says that it is ready
//	203  an archive with pickup.py as sitecustomize.py, in memory
//
// It needs no file anywhere: Pythons reach 203 as /proc/PID/fd/203 through
// PYTHONPATH, and 3 in the same way for writing. The number is high because the
// path outlives the tracker in environments: should another process get the PID,
// it will hardly have a folder or an archive open there.
const (
	pythonSentinel = "shm-tracker"
	pythonHello    = "shm-tracker 1"
	pickupFD       = 203

	// TrackerEnv tells pickup.py the pipe: its path, a colon, its inode.
	TrackerEnv = "SHM_TRACKER"
	pathEnv    = "PYTHONPATH"
)

//go:embed pickup.py
var pickup []byte

func init() {
	if len(os.Args) > 0 && os.Args[0] == pythonSentinel && proc.IsPipe(3) && proc.IsPipe(4) {
		track()
	}
}

// Pythons is a running tracker.
type Pythons struct {
	pipe       *os.File // as long as one of these is open somewhere, it runs
	path, line string   // the values of the two variables
	done       chan struct{}
	pid        int
}

// ForPythons starts a tracker for the Pythons that commands given to Prepare
// start. Its work ends when Release has been called and the last of them has
// gone, even if this process has gone before.
//
// errors.ErrUnsupported where there is no /proc with other processes'
// descriptors.
func ForPythons() (*Pythons, error) {
	if mem.UnlinkIsNothing || proc.PIDNamespace() == 0 {
		return nil, fmt.Errorf("a tracker for Python needs Linux with /proc mounted: %w", errors.ErrUnsupported)
	}
	archive, err := pickupArchive()
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	extra := make([]*os.File, pickupFD-5+1)
	extra[len(extra)-1] = archive
	w, cmd, err := launch("tracker", pythonSentinel, pythonHello, extra)
	if err != nil {
		return nil, err
	}
	t := &Pythons{pipe: w, pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // it has said what there is to say
		close(t.done)
	}()
	fds := "/proc/" + strconv.Itoa(t.pid) + "/fd/"
	t.path = fds + strconv.Itoa(pickupFD)
	pipe := fds + "3"
	inode, err := os.Readlink(pipe)
	if err == nil {
		// The same question as Python will ask.
		_, err = os.Stat(t.path)
	}
	if err != nil {
		t.Release()
		return nil, fmt.Errorf("the tracker's descriptors cannot be reached through /proc: %w: %w", errors.ErrUnsupported, err)
	}
	t.line = pipe + ":" + strings.TrimSuffix(strings.TrimPrefix(inode, "pipe:["), "]")
	return t, nil
}

// Prepare gives cmd, which has not been started, what it needs to pass on to
// its Pythons: two variables, and one more inherited descriptor, which keeps the
// tracker waiting until those have their own.
func (t *Pythons) Prepare(cmd *exec.Cmd) {
	env := cmd.Environ()
	path, outer := t.path, ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, TrackerEnv+"="); ok {
			outer = v[:strings.LastIndexByte(v, '/')+1] + strconv.Itoa(pickupFD)
		}
	}
	for _, e := range env {
		v, ok := strings.CutPrefix(e, pathEnv+"=")
		if !ok || v == "" {
			continue
		}
		// A tracker around this one is not asked any more.
		rest := slices.DeleteFunc(strings.Split(v, ":"), func(p string) bool { return p == outer })
		path = strings.Join(append([]string{t.path}, rest...), ":")
	}
	cmd.Env = append(env, pathEnv+"="+path, TrackerEnv+"="+t.line)
	cmd.ExtraFiles = append(cmd.ExtraFiles, t.pipe)
}

// Release lets the tracker end with the last of the processes that were
// started. It may be called more than once.
func (t *Pythons) Release() { _ = t.pipe.Close() }

// PID returns the tracker's process ID.
func (t *Pythons) PID() int { return t.pid }

// Done returns a channel that is closed when the tracker has ended.
func (t *Pythons) Done() <-chan struct{} { return t.done }

// pickupArchive makes the archive. It is not compressed, since a Python may lack
// zlib.
func pickupArchive() (*os.File, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "sitecustomize.py", Method: zip.Store})
	if err == nil {
		_, err = w.Write(pickup)
	}
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, err
	}
	o, err := mem.Anonymous(int64(b.Len()), 0)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if err := o.WriteAt(b.Bytes(), 0); err != nil {
		return nil, err
	}
	return o.File("sitecustomize")
}

// track is the tracker. It returns, and lets the program be what it otherwise
// is, if nobody speaks our language on the pipe.
func track() {
	in := bufio.NewReaderSize(os.NewFile(3, "pipe"), maxLine)
	if line, err := in.ReadString('\n'); err != nil || strings.TrimSpace(line) != pythonHello {
		return
	}
	proc.IgnoreSignals()
	proc.CloseFrom(pickupFD + 1) // launch has seen to those below
	crash.Point("pytracker:started")
	r, err := newRegistry("")
	if err != nil {
		fmt.Fprintln(os.Stderr, "shm: tracker:", err)
		os.Exit(1)
	}
	out := os.NewFile(4, "pipe")
	_, _ = io.WriteString(out, ready)
	_ = out.Close()
	outlive(r, in)
	crash.Point("pytracker:eof")
	status := 0
	// Said when all is done, as nobody may be listening any more, which kills.
	for _, err := range r.clean() {
		fmt.Fprintln(os.Stderr, "shm: tracker:", err)
		status = 1
	}
	os.Exit(status)
}

// patience is how long a Python that is being started may take to open the pipe
// when nobody else has it: one whose parent ended right after starting it.
const patience = 5 * time.Second

// outlive reads lines until the family has gone. When nobody has the pipe,
// somebody may still be on the way to it, and is known by the environment that
// he was given. Once patience is over he is taken for a program that will not
// come, a Python or not.
func outlive(r *registry, in io.Reader) {
	mark := []byte(TrackerEnv + "=/proc/" + strconv.Itoa(os.Getpid()) + "/fd/3:")
	const first = time.Millisecond
	for waited, pause := time.Duration(0), first; ; {
		begun := time.Now()
		r.read(in)
		if time.Since(begun) > pause { // somebody had it
			waited, pause = 0, first
		}
		if waited >= patience || !anyEnviron(mark) {
			return
		}
		time.Sleep(pause)
		waited += pause
		pause = min(2*pause, 100*first)
	}
}

// anyEnviron tells whether another process was started with a variable that
// begins with mark.
func anyEnviron(mark []byte) bool {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		env, err := os.ReadFile("/proc/" + d.Name() + "/environ")
		if err != nil {
			continue // gone, or another user's
		}
		if bytes.HasPrefix(env, mark) || bytes.Contains(env, append([]byte{0}, mark...)) {
			return true
		}
	}
	return false
}
