package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where and with what the figures were taken.
type Machine struct {
	CPU     string   `json:"cpu"`
	Cores   int      `json:"cores"`
	Virtual bool     `json:"virtual"`
	Memory  string   `json:"memory"`
	Kernel  string   `json:"kernel"`
	Shm     string   `json:"shm"` // how /dev/shm is mounted
	THP     string   `json:"transparent_huge_pages"`
	Go      string   `json:"go"`
	GCC     string   `json:"gcc,omitempty"`
	Pythons []string `json:"pythons,omitempty"`
	Before  string   `json:"load_before"`
	After   string   `json:"load_after"`
	Steal   float64  `json:"steal_percent"` // of the run, what the host gave to others
}

func machine(pythons []*peer) Machine {
	m := Machine{
		Cores:  runtime.NumCPU(),
		Go:     runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Before: load(),
		THP:    match(`\[(\w+)\]`, read("/sys/kernel/mm/transparent_hugepage/enabled")),
		CPU:    match(`model name\s*: (.*)`, read("/proc/cpuinfo")),
		Shm:    match(`\S+ /dev/shm (.*) 0 0`, read("/proc/mounts")),
	}
	m.Virtual = strings.Contains(read("/proc/cpuinfo"), " hypervisor")
	if kb, err := strconv.Atoi(match(`MemTotal:\s*(\d+)`, read("/proc/meminfo"))); err == nil {
		m.Memory = bytesText(float64(kb) * 1024)
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	if out, err := exec.Command("gcc", "-dumpfullversion").Output(); err == nil {
		m.GCC = strings.TrimSpace(string(out))
	}
	for _, p := range pythons {
		if out, err := exec.Command(p.cmd.Path, "-c", "import platform; print(platform.python_version())").Output(); err == nil {
			m.Pythons = append(m.Pythons, strings.TrimSpace(string(out)))
		}
	}
	return m
}

// load is the load averages of 1, 5 and 15 minutes.
func load() string {
	return match(`^(\S+ \S+ \S+)`, read("/proc/loadavg"))
}

// Busy tells whether others wanted more than a processor's half before the
// run. After it the load is mostly our own.
func (m Machine) Busy() bool {
	var one float64
	_, err := fmt.Sscan(m.Before, &one)
	return err == nil && one > 0.5
}

// ticks returns what all processors have spent so far, and how much of it the
// host gave to others.
func ticks() (all, steal float64) {
	line, _, _ := strings.Cut(read("/proc/stat"), "\n")
	for i, f := range strings.Fields(line) {
		v, _ := strconv.ParseFloat(f, 64)
		if i >= 1 && i <= 8 { // guest time, behind, is in user time already
			all += v
		}
		if i == 8 {
			steal = v
		}
	}
	return all, steal
}

func read(path string) string {
	b, _ := os.ReadFile(path) // what is missing is left out of the document
	return string(b)
}

func match(re, s string) string {
	if m := regexp.MustCompile(`(?m)` + re).FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}
