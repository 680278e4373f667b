package proc

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm/internal/shmtest"
)

const testSize = 3 << 12

func init() {
	// hold WHAT PATH: has memory as WHAT says, all of it touched, until the end.
	shmtest.Register("hold", func(args []string) int {
		if err := hold(args[0], args[1]); err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		shmtest.Await("end")
		return 0
	})
	// scan DEV: prints what a scan finds of a device.
	shmtest.Register("scan", func(args []string) int {
		dev, _ := strconv.ParseUint(args[0], 10, 64)
		s, err := Scan(func(k Key) bool { return k.Dev == dev })
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		doc := report{Refused: s.Refused, Complete: s.Complete()}
		for _, o := range s.Objects {
			doc.Objects = append(doc.Objects, o)
		}
		text, _ := json.Marshal(doc)
		shmtest.Say("%s", text)
		return 0
	})
}

type report struct {
	Objects  []*Object
	Refused  int
	Complete bool
}

func hold(what, path string) error {
	var fd int
	var err error
	switch what {
	case "memfd":
		fd, err = unix.MemfdCreate(path, unix.MFD_CLOEXEC)
	case "sysv":
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, testSize, 0o600)
		if err != nil {
			return err
		}
		p, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return err
		}
		clear(p)
		_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // goes with us
		return err
	default:
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, testSize); err != nil {
		return err
	}
	if what != "open" {
		p, err := unix.Mmap(fd, 0, testSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		for i := range p {
			p[i] = 1
		}
	}
	switch what {
	case "mapped":
		unix.Close(fd)
	case "deleted":
		unix.Close(fd)
		return unix.Unlink(path)
	}
	return nil
}

// shmDir makes a folder in memory.
func shmDir(t *testing.T) string {
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o777); err != nil {
		shmtest.Skip(t, "devshm", err.Error())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Exact, for processes of another user below.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func holder(t *testing.T, what, path string) *shmtest.Process {
	t.Helper()
	p := shmtest.Start(t, "hold", what, path)
	p.Expect("ready")
	return p
}

func TestScan(t *testing.T) {
	dir := shmDir(t)
	dev, err := Device(dir)
	if err != nil {
		t.Fatal(err)
	}
	memfd := shmtest.Name(t)
	holders := map[string]*shmtest.Process{}
	for _, what := range []string{"mapped", "open", "deleted", "both"} {
		holders[what] = holder(t, what, filepath.Join(dir, what))
	}
	second := holder(t, "mapped", filepath.Join(dir, "mapped"))
	holders["memfd"] = holder(t, "memfd", memfd)
	holders["sysv"] = holder(t, "sysv", "")

	s, err := Scan(func(k Key) bool { return k.Dev == dev })
	if err != nil {
		t.Fatal(err)
	}
	if s.Processes < len(holders)+2 {
		t.Errorf("only %d processes were looked into", s.Processes)
	}
	find := func(what string) *Object {
		t.Helper()
		for _, o := range s.Objects {
			if len(o.Holders) > 0 && o.Holders[0].PID == holders[what].PID() {
				return o
			}
		}
		t.Fatalf("%s: not found", what)
		return nil
	}
	for what, want := range map[string]struct {
		kind         Kind
		mapped, open int
		links        int
	}{
		"mapped": {File, 1, 0, 1}, "open": {File, 0, 1, 1}, "deleted": {File, 1, 0, 0}, "both": {File, 1, 1, 1},
		"memfd": {Memfd, 1, 1, 0}, "sysv": {SysV, 1, 0, 0},
	} {
		o := find(what)
		h := o.Holders[0]
		if o.Kind != want.kind || h.Mapped != int64(want.mapped*testSize) || h.Open != want.open || h.UID != os.Getuid() || h.Name == "" {
			t.Errorf("%s: %v, %+v", what, o.Kind, h)
		}
		if o.Size != testSize {
			t.Errorf("%s: size %d", what, o.Size)
		}
		touched := int64(testSize)
		if what == "open" {
			touched = 0
		}
		if o.Resident != touched {
			t.Errorf("%s: resident %d, want %d", what, o.Resident, touched)
		}
		// Who may not follow the links of map_files has only the path to go by.
		if o.Links != want.links && !(o.Guess && o.Links == -1) {
			t.Errorf("%s: %d links, want %d", what, o.Links, want.links)
		}
	}
	if o := find("memfd"); o.Name != memfd {
		t.Errorf("the memfd's name is %q, want %q", o.Name, memfd)
	}
	o := find("mapped")
	if len(o.Holders) != 2 || o.Holders[1].PID != second.PID() {
		t.Errorf("mapped twice, by %+v", o.Holders)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "mapped"), &st); err != nil || o.Key != (Key{uint64(st.Dev), st.Ino}) {
		t.Errorf("its key is %+v, stat says %d, %d (%v)", o.Key, st.Dev, st.Ino, err)
	}

	// The dead hold nothing.
	for _, p := range holders {
		p.Kill()
	}
	second.Kill()
	s, err = Scan(func(k Key) bool { return k.Dev == dev })
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range s.Objects {
		for _, h := range o.Holders {
			if h.PID == second.PID() {
				t.Errorf("a dead process holds %+v", o)
			}
		}
	}
}

// A user without privileges sees mappings of its own processes, though not the
// objects behind them, and is told that there is more.
func TestScanUnprivileged(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("the kernel cannot start this program again, it is for another machine")
	}
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "only root can start processes of another user")
	}
	dir := shmDir(t)
	dev, err := Device(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := func(helper string, args ...string) *shmtest.Process {
		cmd := shmtest.Command(t, helper, args...)
		// The test binary lies where others may not look, but it can be run by
		// the link to itself.
		cmd.Path = "/proc/self/exe"
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return shmtest.StartCommand(t, cmd)
	}
	p := other("hold", "deleted", filepath.Join(dir, "deleted"))
	p.Expect("ready")
	var got report
	if err := json.Unmarshal([]byte(other("scan", strconv.FormatUint(dev, 10)).Line()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Refused == 0 || got.Complete {
		t.Errorf("%d processes refused, complete: %v", got.Refused, got.Complete)
	}
	for _, o := range got.Objects {
		if o.Holders[0].PID != p.PID() {
			continue
		}
		if !o.Guess || o.Links != -1 || o.Size != testSize || o.Resident != testSize {
			t.Errorf("%+v", o)
		}
		return
	}
	t.Errorf("not found in %+v", got)
}

func TestClaim(t *testing.T) {
	dir := shmDir(t)
	path := filepath.Join(dir, "block")
	for _, what := range []string{"mapped", "open"} {
		p := holder(t, what, path)
		if f, err := Claim(path); !errors.Is(err, ErrHeld) {
			t.Errorf("%s: %v, %v; want ErrHeld", what, f, err)
		}
		p.Kill()
		f, err := Claim(path)
		if errors.Is(err, errors.ErrUnsupported) {
			shmtest.Skip(t, "leases", err.Error())
		}
		if err != nil {
			t.Fatalf("nobody has it: %v", err)
		}
		// Nobody gets in, and a second claim does not either.
		if fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK, 0); err != unix.EWOULDBLOCK {
			t.Errorf("open gives %d, %v", fd, err)
		}
		if _, err := Claim(path); !errors.Is(err, ErrHeld) {
			t.Errorf("a second claim gives %v", err)
		}
		f.Close()
	}
	if _, err := Claim(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	if err := os.Symlink("block", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(filepath.Join(dir, "link")); err == nil {
		t.Error("a link was followed")
	}
}

func TestDir(t *testing.T) {
	dir := shmDir(t)
	got, err := Dir(os.Getpid(), dir)
	if want := "/proc/" + strconv.Itoa(os.Getpid()) + "/root" + dir; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	a, err1 := Device(dir)
	b, err2 := Device(got)
	if a != b || err1 != nil || err2 != nil {
		t.Errorf("device %d there, %d here (%v, %v)", b, a, err1, err2)
	}
	// A link would lead from the container's tree into ours.
	if err := os.Symlink("/dev", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"/link/shm", "/link", "/missing"} {
		if got, err := Dir(os.Getpid(), dir+bad); err == nil {
			t.Errorf("%s: %q", bad, got)
		}
	}
	if _, err := Dir(1<<22+1, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
}

func TestKernelThread(t *testing.T) {
	if kernelThread("/proc/self") {
		t.Error("this is no kernel thread")
	}
	dir := t.TempDir()
	for flags, want := range map[string]bool{"2129984": true, "4194560": false, "x": false} {
		text := "2 (kthre) ad) S 0 0 0 0 -1 " + flags + " 0 0\n"
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := kernelThread(dir); got != want {
			t.Errorf("flags %s: %v", flags, got)
		}
	}
}
