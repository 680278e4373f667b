package mem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// An object is a section backed by the page file, as in CPython, whose name
// lives as long as somebody has a handle of it: a view of its memory alone keeps
// the memory but not the name. The system removes it with the last handle, so
// that there is nothing to own, to journal or to sweep.

// NameMax is the longest name in bytes.
const NameMax = 255

// AutoPrefix begins the names that are made up.
const AutoPrefix = "wnsm_"

// UnlinkIsNothing tells that names cannot be taken away, and that objects go
// with their last handle.
const UnlinkIsNothing = true

// BadName says what this system, beyond the rules of all, has against a name.
func BadName(name string) string {
	for _, space := range []string{`Local\`, `Global\`} {
		if rest, ok := strings.CutPrefix(name, space); ok {
			if rest == "" {
				return "it is only a prefix"
			}
			name = rest
			break
		}
	}
	if strings.ContainsRune(name, '\\') {
		return `it has a backslash, which may stand only in Local\ or Global\ before it`
	}
	return ""
}

var (
	errPersistent = fmt.Errorf("a persistent block: on Windows a block goes with the last process that has it open: %w", errors.ErrUnsupported)
	errKeep       = fmt.Errorf("KeepName: on Windows nobody can take a name away: %w", errors.ErrUnsupported)
	errDir        = fmt.Errorf("Dir: on Windows blocks are no files: %w", errors.ErrUnsupported)
)

// BadOptions says which wish cannot be fulfilled on this system.
func BadOptions(dir string, keepName, persistent bool) error {
	switch {
	case dir != "":
		return errDir
	case keepName:
		return errKeep
	case persistent:
		return errPersistent
	}
	return nil
}

// Object is an open section. It is not for concurrent use.
type Object struct {
	Stat
	handle   windows.Handle
	view     unsafe.Pointer // one that is mapped already, for the next Map
	readOnly bool
}

// x/sys has the rest.
var (
	kernel32             = windows.NewLazySystemDLL("kernel32.dll")
	openFileMapping      = kernel32.NewProc("OpenFileMappingW")
	globalMemoryStatusEx = kernel32.NewProc("GlobalMemoryStatusEx")
)

// New makes a section of size bytes that has its name at once: fs.ErrExist if
// another has it. Its memory counts against the machine's limit from now on
// whatever flags say, since sections cannot be sparse without breaking those who
// open them as CPython does. Of all pages, huge ones need a privilege and are not
// asked for; mode is nothing here. name "" makes one without a name.
//
// Errors: NoSpaceError; fs.ErrExist; ErrNotRegular for the name of a mutex,
// event or the like, which share one space of names.
func New(dir, name string, temp func() (string, error), size int64, mode uint32, flags int) (*Object, error) {
	if dir != "" {
		return nil, errDir
	}
	p, err := namePtr(name)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFileMapping(windows.InvalidHandle, nil, windows.PAGE_READWRITE, uint32(size>>32), uint32(size), p)
	if err != nil {
		if h != 0 { // the other one of this name, opened
			windows.CloseHandle(h)
		}
		return nil, sectionError("CreateFileMapping", size, err)
	}
	return &Object{Stat: Stat{Name: name, Size: size, UID: -1, Links: 1}, handle: h}, nil
}

func namePtr(name string) (*uint16, error) {
	if name == "" {
		return nil, nil
	}
	return windows.UTF16PtrFromString(name)
}

func sectionError(call string, size int64, err error) error {
	switch err {
	case windows.ERROR_COMMITMENT_LIMIT, windows.ERROR_NO_SYSTEM_RESOURCES, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_DISK_FULL:
		free := int64(-1)
		if s, err := SpaceOf(""); err == nil {
			free = s.Free
		}
		return &NoSpaceError{Asked: size, Free: free, Where: "the machine's memory and page file"}
	case windows.ERROR_INVALID_HANDLE:
		return ErrNotRegular
	}
	return os.NewSyscallError(call, err)
}

// NewFrom is New for an object that holds, and is as long as, what r has.
func NewFrom(dir, name string, temp func() (string, error), r io.Reader, mode uint32, flags int) (*Object, error) {
	b, err := readAll(r) // its size must be known beforehand
	if err != nil {
		return nil, err
	}
	return newFilled(dir, name, temp, b, mode, flags)
}

// Open opens a section by name. Its size is that of the whole pages it has: the
// system does not tell how many bytes its creator asked for.
//
// Errors: fs.ErrNotExist, fs.ErrPermission, ErrNotRegular.
func Open(dir, name string, readOnly bool) (*Object, error) {
	if dir != "" {
		return nil, errDir
	}
	p, err := namePtr(name)
	if err != nil {
		return nil, err
	}
	o := &Object{Stat: Stat{Name: name, UID: -1, Links: 1}, readOnly: readOnly}
	h, _, err := openFileMapping.Call(uintptr(o.access()), 0, uintptr(unsafe.Pointer(p)))
	if h == 0 {
		return nil, sectionError("OpenFileMapping", 0, err)
	}
	o.handle = windows.Handle(h)
	if err := o.measure(); err != nil {
		_ = o.Close()
		return nil, err
	}
	return o, nil
}

func (o *Object) access() uint32 {
	if o.readOnly {
		return windows.FILE_MAP_READ
	}
	return windows.FILE_MAP_READ | windows.FILE_MAP_WRITE
}

// region is MEMORY_BASIC_INFORMATION. That of x/sys has a field too many for
// 32-bit machines.
type region struct {
	base, allocation     uintptr
	allocationProtect    uint32
	size                 uintptr
	state, protect, kind uint32
}

// measure finds out the size, for which the section has to be mapped; the view
// stays for Map.
func (o *Object) measure() error {
	view, err := o.mapView()
	if err != nil {
		return err
	}
	var r region
	err = windows.VirtualQuery(uintptr(view), (*windows.MemoryBasicInformation)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if err != nil {
		_ = windows.UnmapViewOfFile(uintptr(view))
		return os.NewSyscallError("VirtualQuery", err)
	}
	o.view, o.Size = view, int64(r.size)
	return nil
}

func (o *Object) mapView() (unsafe.Pointer, error) {
	addr, err := windows.MapViewOfFile(o.handle, o.access(), 0, 0, 0)
	if err != nil {
		return nil, sectionError("MapViewOfFile", o.Size, err)
	}
	// The address of memory that Go's collector does not know; a plain conversion
	// is what vet has to suspect.
	return *(*unsafe.Pointer)(unsafe.Pointer(&addr)), nil
}

// Map maps the whole object. The mapping outlives Close, but the name does not
// outlive the last handle: see Keep.
//
// Prefault asks for every page now; NoSpaceError if there is no memory for
// them.
func (o *Object) Map(prefault bool) ([]byte, error) {
	view := o.view
	o.view = nil
	if view == nil {
		var err error
		if view, err = o.mapView(); err != nil {
			return nil, err
		}
	}
	p := unsafe.Slice((*byte)(view), o.Size)
	if prefault {
		if err := populate(p, !o.readOnly); err != nil {
			_ = Unmap(p)
			return nil, err
		}
	}
	return p, nil
}

// ReadAt reads into b from off on, less than asked for at the end.
func (o *Object) ReadAt(b []byte, off int64) (int, error) { return readMapped(o, b, off) }

type handle windows.Handle

func (h handle) Close() error {
	return os.NewSyscallError("CloseHandle", windows.CloseHandle(windows.Handle(h)))
}

// Keep returns the handle that must stay open as long as the object is in use:
// without it others could not open it any more. The object has it no longer.
func (o *Object) Keep() io.Closer {
	h := handle(o.handle)
	o.handle = 0
	return h
}

// Discard undoes New.
func (o *Object) Discard() { _ = o.Close() }

// Close closes the handle; mappings stay.
func (o *Object) Close() error {
	var err error
	if o.view != nil {
		err = os.NewSyscallError("UnmapViewOfFile", windows.UnmapViewOfFile(uintptr(o.view)))
		o.view = nil
	}
	if o.handle != 0 {
		err = errors.Join(err, handle(o.handle).Close())
		o.handle = 0
	}
	return err
}

// Lookup describes what has the name.
//
// Errors: fs.ErrNotExist, fs.ErrPermission, ErrNotRegular.
func Lookup(dir, name string) (Stat, error) {
	o, err := Open(dir, name, true)
	if err != nil {
		return Stat{}, err
	}
	return o.Stat, o.Close()
}

// Remove does nothing: nobody can take a name away.
func Remove(dir, name string, id ID, parking string) (bool, error) { return true, nil }

// Unlink does nothing.
func Unlink(dir, name string) error { return nil }

// Anonymous makes an object without a name. It cannot travel.
func Anonymous(size int64, flags int) (*Object, error) {
	return New("", "", nil, size, 0, flags)
}

// Unmap gives p, which Map returned, back to the system. Its addresses may be
// handed out again at once: use Retire for memory that somebody may still hold
// a pointer to.
func Unmap(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return os.NewSyscallError("UnmapViewOfFile", windows.UnmapViewOfFile(base(p)))
}

func base(p []byte) uintptr { return uintptr(unsafe.Pointer(&p[0])) }

// wall replaces the memory behind p by addresses without any. There is a gap
// between the two calls in which another thread may get the addresses; then
// they are in use and cannot be kept. (Placeholders would close it, from
// Windows 10 1803 on, but only for views that were mapped over one, and the
// size of a view is not known before it is mapped.)
func wall(p []byte) (kept bool, err error) {
	addr := base(p)
	if err := windows.UnmapViewOfFile(addr); err != nil {
		return false, os.NewSyscallError("UnmapViewOfFile", err)
	}
	_, err = windows.VirtualAlloc(addr, uintptr(len(p)), windows.MEM_RESERVE, windows.PAGE_NOACCESS)
	return err == nil, nil
}

// tearDown gives the addresses back that wall kept.
func tearDown(p []byte) error {
	return os.NewSyscallError("VirtualFree", windows.VirtualFree(base(p), 0, windows.MEM_RELEASE))
}

// Exclusive makes OpenOrCreate calls for one name wait for each other until
// release is called, since a name appears before its block is complete. It locks
// a mutex of the system, whose owner is a thread: so the goroutine keeps its
// thread until release, which it must call itself. If the process dies the next
// one gets the mutex, and finds the name gone too.
func Exclusive(dir, name string) (release func(), err error) {
	// Mutexes and sections share one space of names, and a prefix says which.
	space := ""
	if i := strings.IndexByte(name, '\\'); i >= 0 {
		space, name = name[:i+1], name[i+1:]
	}
	p, err := windows.UTF16PtrFromString(space + Prefix + "init." + name)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateMutex(nil, false, p)
	if h == 0 {
		return nil, os.NewSyscallError("CreateMutex", err)
	}
	runtime.LockOSThread()
	if _, err := windows.WaitForSingleObject(h, windows.INFINITE); err != nil {
		runtime.UnlockOSThread()
		windows.CloseHandle(h)
		return nil, os.NewSyscallError("WaitForSingleObject", err)
	}
	return func() {
		_ = windows.ReleaseMutex(h)
		runtime.UnlockOSThread()
		windows.CloseHandle(h)
	}, nil
}

// SpaceOf says how much memory the machine's limit leaves. There is no place
// but "".
func SpaceOf(dir string) (Space, error) {
	if dir != "" {
		return Space{}, errDir
	}
	var s struct { // MEMORYSTATUSEX
		length, load                  uint32
		totalPhys, availPhys          uint64
		totalPageFile, availPageFile  uint64 // of memory and page file together
		totalVirtual, availVirtual, _ uint64
	}
	s.length = uint32(unsafe.Sizeof(s))
	if ok, _, err := globalMemoryStatusEx.Call(uintptr(unsafe.Pointer(&s))); ok == 0 {
		return Space{}, os.NewSyscallError("GlobalMemoryStatusEx", err)
	}
	return Space{Size: int64(s.totalPageFile), Free: int64(s.availPageFile), InMemory: true}, nil
}
