package shm_test

import (
	"os"
	"strconv"
)

// emulated says that qemu-user runs us. It (as of 7.2) tells of no SIGBUS where
// it was, and knows no limit on the address space.
var emulated = os.Getenv("SHM_QEMU") != ""

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
