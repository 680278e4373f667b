package proc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// PIDNamespace returns the inode number of this process's PID namespace, which
// is the namespace's identity as long as a process of it lives. 0 means that
// /proc is not there to ask, or that the kernel has no PID namespaces.
func PIDNamespace() uint64 { return pidNamespace() }

// A process cannot leave its PID namespace (unshare and setns move only its
// future children), so asking once is enough.
var pidNamespace = sync.OnceValue(func() uint64 {
	var st syscall.Stat_t
	// stat, not readlink: it gives the inode without parsing.
	if syscall.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
})

// StartTime returns when process pid of this PID namespace started, in clock
// ticks since boot. fs.ErrNotExist says that there is no such process. A
// zombie still has its start time.
func StartTime(pid int) (uint64, error) {
	if pid <= 0 {
		return 0, &fs.PathError{Op: "stat", Path: "/proc/" + strconv.Itoa(pid), Err: fs.ErrNotExist}
	}
	return readStartTime("/proc/" + strconv.Itoa(pid) + "/stat")
}

func readStartTime(path string) (uint64, error) {
	stat, err := os.ReadFile(path)
	if err != nil {
		// The process may go between open and read, which the kernel reports as
		// ESRCH; callers should have one error to look for.
		if isNoProcess(err) {
			err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		return 0, err
	}
	return parseStartTime(stat)
}

func isNoProcess(err error) bool { return errors.Is(err, syscall.ESRCH) }

// Dir returns the path by which this process reaches the directory dir of
// process pid, through that process's root: its container's. dir "" means
// /dev/shm. The path is good as long as the process lives.
func Dir(pid int, dir string) (string, error) {
	if dir == "" {
		dir = "/dev/shm"
	}
	path := "/proc/" + strconv.Itoa(pid) + "/root" + filepath.Clean("/"+dir)
	// A symbolic link on the way would be followed from our root, not from the
	// container's, and lead out of it to somewhere of the same name here.
	for p := path; len(p) > len("/proc/"+strconv.Itoa(pid)+"/root"); p = filepath.Dir(p) {
		fi, err := os.Lstat(p)
		if err != nil {
			return "", err
		}
		if !fi.IsDir() {
			return "", &fs.PathError{Op: "open", Path: p, Err: syscall.ENOTDIR}
		}
	}
	return path, nil
}

// Device returns the number of the file system that path is on, as Key has it.
func Device(path string) (uint64, error) {
	var st unix.Statx_t
	if err := statx(unix.AT_FDCWD, path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return mkdev(uint64(st.Dev_major), uint64(st.Dev_minor)), nil
}

// InContainer says whether this process is in another PID namespace than the
// first one, and so sees only some of the machine's processes.
func InContainer() bool {
	// PROC_PID_INIT_INO, part of the kernel's interface since 3.8.
	const first = 0xEFFFFFFC
	ns := PIDNamespace()
	return ns != 0 && ns != first
}
