package peer

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func messages() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	there := os.NewFile(uintptr(fds[1]), "socket")
	c, err := connOf(fds[0])
	if err != nil {
		_ = there.Close()
		return nil, nil, err
	}
	return c, there, nil
}

// connOf hands a socket over to the net package, which makes a copy of it.
func connOf(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, syscall.ENOTSOCK
	}
	return u, nil
}

func inherited(fd int) (*net.UnixConn, bool) {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, false
	}
	c, err := connOf(fd)
	return c, err == nil
}

func send(c *net.UnixConn, p []byte, files []*os.File) error {
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Not f.Fd, which would make the file a blocking one.
			raw, err := f.SyscallConn()
			if err != nil {
				return err
			}
			if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return err
			}
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(p, oob, nil)
	runtime.KeepAlive(files)
	return err
}

func receive(c *net.UnixConn, p []byte) (int, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, noob, _, _, err := c.ReadMsgUnix(p, oob) // close-on-exec is set by it
	var files []*os.File
	if noob > 0 {
		msgs, perr := unix.ParseSocketControlMessage(oob[:noob])
		if perr == nil {
			for i := range msgs {
				fds, perr := unix.ParseUnixRights(&msgs[i])
				if perr != nil {
					continue
				}
				for _, fd := range fds {
					files = append(files, os.NewFile(uintptr(fd), "received"))
				}
			}
		}
	}
	if err == nil && n == 0 && noob == 0 {
		err = io.EOF
	}
	return n, files, err
}
