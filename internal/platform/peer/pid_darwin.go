package peer

import "golang.org/x/sys/unix"

func pid(fd int) int {
	n, err := unix.GetsockoptInt(fd, solLocal, unix.LOCAL_PEERPID)
	if err != nil {
		return 0
	}
	return n
}
